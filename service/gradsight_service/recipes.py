"""Recipes: what the workers that are alive have installed."""

from collections.abc import Iterable

from gradsight.v1 import worker_pb2


def installed_recipes(workers: Iterable[worker_pb2.Worker]) -> list[worker_pb2.Recipe]:
    """The recipes of the workers whose lease runs, by name; of several with one name the first worker's."""
    found: dict[str, worker_pb2.Recipe] = {}
    for worker in workers:
        if worker.state != worker_pb2.WORKER_STATE_LOST:
            for recipe in worker.recipes:
                found.setdefault(recipe.name, recipe)
    return [found[name] for name in sorted(found)]
