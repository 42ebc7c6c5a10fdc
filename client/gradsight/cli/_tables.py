"""Pages and tables for people, drawn by rich."""

from rich.console import Console
from rich.table import Table

from gradsight.cli._follow import on_terminal

_PIPE_WIDTH = 120


def page() -> Console:
    """Returns where a page is printed: as wide as the terminal; in a pipe, where nobody widens it, wide enough."""
    return Console(highlight=False, width=None if on_terminal() else _PIPE_WIDTH)


def lineless(*columns: str, wrapping: str = "") -> Table:
    """Returns a table without lines; a column whose name ends in `>` is flush right, only `wrapping` wraps."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        name, right = column.removesuffix(">"), column.endswith(">")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != wrapping)
    return table
