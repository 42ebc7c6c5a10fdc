"""The ready file: how a process of ours tells its addresses to whoever started it."""

import json
from pathlib import Path


def write_ready_file(path: Path | None, **addresses: str) -> None:
    """Write the addresses as JSON, a whole file or none, so that a reader never sees half of one; None: no file."""
    if path is None:
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(addresses), encoding="utf-8")
    partial.replace(path)
