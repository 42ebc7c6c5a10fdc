"""Rows in aligned columns: plain enough for `cut` and `awk`, coloured on a terminal."""

from collections.abc import Mapping, Sequence

import click

Styles = Mapping[int, Mapping[str, str]]
"""By column: what a cell says, and the colour that it then has."""


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]], styles: Styles | None = None) -> None:
    """Prints a header and one aligned row each."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    click.echo("  ".join(click.style(cell, dim=True) for cell in _cells(header, widths)).rstrip())
    for row in rows:
        cells = _cells(row, widths)
        for column, colors in (styles or {}).items():
            cells[column] = click.style(cells[column], fg=colors.get(row[column]))
        click.echo("  ".join(cells).rstrip())


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
