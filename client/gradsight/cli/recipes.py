"""`gradsight recipes`: what operators installed on the workers."""

import click

from gradsight._records import Recipe
from gradsight.cli._outcome import Exit
from gradsight.cli._verb import Session, verb


@verb
def recipes(session: Session) -> int:
    """List the recipes that workers alive now have, with their options."""
    with session.client() as client:
        found = client.recipes()
    if session.json:
        for recipe in found:
            session.line(recipe)
    elif found:
        click.echo("\n\n".join(map(_lines, found)))
    else:
        click.echo("no recipes: no worker that is alive has one installed", err=True)
    return Exit.OK


def _lines(recipe: Recipe) -> str:
    lines = [f"{click.style(recipe.name, bold=True)}  {recipe.description}"]
    width = max((len(option.name) for option in recipe.options), default=0)
    for option in recipe.options:
        said = f" [default: {option.default_value}]" if option.default_value is not None else ""
        said = " [required]" if option.required else said
        lines.append(f"  {option.name.ljust(width)}  {option.description}{said}")
    return "\n".join(lines)
