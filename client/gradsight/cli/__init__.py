"""The command line: one module per group of verbs, loaded only when its verb is called.

`gradsight --help` loads neither grpc nor rich nor torch. Verbs of other packages come through the entry-point group
`gradsight.commands` and are listed without being loaded. What a verb prints is in `_page.py`, `_live.py` and
`_lines.py`; nothing here knows the wire. Read `_root.py` first, then `_verb.py`.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command line and exits with its code (`gradsight.cli._outcome.Exit`)."""
    try:
        from gradsight.cli._root import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write(f"gradsight: the command line needs {error.name}: pip install 'gradsight[cli]'\n")
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
