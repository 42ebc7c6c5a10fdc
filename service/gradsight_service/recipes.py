"""Recipes at the door: their options, as far as workers that are alive tell of them."""

import difflib
from collections.abc import Iterable, Iterator

from gradsight.v1 import spec_pb2, worker_pb2
from gradsight_service.errors import Violation
from gradsight_service.limits import shown


def recipe_violations(
    model: spec_pb2.RecipeModel, installed: Iterable[worker_pb2.Recipe]
) -> Iterator[Violation]:
    """Options that the recipe does not have, and required ones that are missing.

    A recipe that no worker has now is passed over: its worker may come.
    """
    recipe = next((recipe for recipe in installed if recipe.name == model.name), None)
    if recipe is None:
        return
    known = [option.name for option in recipe.options]
    for name in sorted(model.options):
        if name not in known:
            yield Violation(
                path=f"model.recipe.options[{shown(name)}]",
                message=f"got an option that {model.name} does not have, {_nearest(name, known)}",
            )
    for option in recipe.options:
        if option.required and option.name not in model.options:
            yield Violation(
                path=f"model.recipe.options[{shown(option.name)}]", message=f"required: {option.description}"
            )


def _nearest(name: str, known: list[str]) -> str:
    if close := difflib.get_close_matches(name, known, n=1):
        return f"nearest is {shown(close[0])}"
    return f"allowed {', '.join(known) if known else 'none'}"
