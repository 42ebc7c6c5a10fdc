"""The recipes that are installed with this worker, as it offers them."""

import logging
from typing import Any

from gradsight.v1 import worker_pb2
from gradsight_models.recipes import Option, RecipeRefused, find_recipe, installed_recipes
from gradsight_worker.errand import Errand, ErrandFailed

_log = logging.getLogger(__name__)


def offered_recipes() -> list[worker_pb2.Recipe]:
    """Every recipe that can be imported, by name; the log says what cannot.

    Foreign modules are imported in a child: they may start threads, and this process forks.
    """
    if not installed_recipes():
        return []
    errand = Errand(_describe_all)
    while not errand.take():
        pass
    try:
        answer = errand.result()
    except ErrandFailed as error:
        _log.warning("recipes cannot be listed, none is offered: %s", error)
        return []
    for problem in answer["problems"]:
        _log.warning("not offered: %s", problem)
    return [
        worker_pb2.Recipe(
            name=fields["name"],
            description=fields["description"],
            options=[worker_pb2.RecipeOption(**option) for option in fields["options"]],
        )
        for fields in answer["recipes"]
    ]


def _describe_all() -> dict[str, Any]:
    recipes, problems = [], []
    for name in installed_recipes():
        try:
            recipe = find_recipe(name)
            options = [_describe(option) for option in recipe.options]
            recipes.append({"name": name, "description": recipe.description, "options": options})
        except (
            RecipeRefused,
            AttributeError,
            TypeError,
        ) as error:  # nobody has checked what it says of itself
            problems.append(str(error))
    return {"recipes": recipes, "problems": problems}


def _describe(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "description": option.description,
        "default_value": option.default_text,
        "required": option.default is None,
    }
