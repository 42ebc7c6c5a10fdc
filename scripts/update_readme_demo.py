"""Put the output of `gradsight demo` into the README, or compare the two.

    python scripts/update_readme_demo.py                    run the demo and write its output into the README
    python scripts/update_readme_demo.py --compare OUTPUT   exit with 1 when a saved output differs from the README

Two outputs count as equal when they differ in nothing but numbers, units, job ids, addresses, paths and spacing.
"""

import argparse
import difflib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
_BLOCK = re.compile(r"(?<=<!-- demo: begin -->\n```text\n).*?(?=```\n<!-- demo: end -->)", re.DOTALL)
_MASKS = (
    (re.compile(r"(?<=job )[0-9a-z]{15}\b|(?<=job_id=\")[^\"]+"), "JOB"),
    (re.compile(r"(?<=the result, in ).*"), "PATH"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"[-+−]?\d[\d.,]*(e[-+]\d+)?( (B|kB|MB|GB)\b)?([smhd]\d*)*"), "N"),
    (re.compile(r" +"), " "),
)


def main() -> int:
    """Update or compare; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compare", metavar="OUTPUT", type=Path)
    output = parser.parse_args().compare
    if output is not None:
        return compare(output.read_text(encoding="utf-8"))
    update(run_demo())
    return 0


def run_demo() -> str:
    """Run the demo in the checkout and return what it prints."""
    command = [sys.executable, "-m", "gradsight.cli", "demo"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def update(output: str) -> None:
    """Write the output between the README's markers."""
    text = README.read_text(encoding="utf-8")
    assert _BLOCK.search(text), "the README has its two markers around a block of text"
    README.write_text(_BLOCK.sub(lambda _: output, text), encoding="utf-8")


def compare(output: str) -> int:
    """Print how the output differs from the README's block; returns 1 when it does."""
    block = _BLOCK.search(README.read_text(encoding="utf-8"))
    shown = block.group() if block else ""
    difference = list(
        difflib.unified_diff(
            masked(shown).splitlines(),
            masked(output).splitlines(),
            "README.md",
            "gradsight demo",
            lineterm="",
        )
    )
    print(*difference, sep="\n", end="\n" if difference else "")
    return 1 if difference else 0


def masked(text: str) -> str:
    """Replace everything that differs from run to run and from machine to machine."""
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    return text


if __name__ == "__main__":
    sys.exit(main())
