"""What each objective is about, in the words of the contract: one table for client, service and worker."""

from gradsight.v1 import spec_pb2

TARGETS = {
    "cross_entropy": "classes",
    "binary_cross_entropy": "labels",
    "mean_squared_error": "numbers",
    "huber": "numbers",
    "mean_absolute_error": "numbers",
    "causal_language_model": "tokens",
}
"""What a model trained for it answers, by the objective's name."""


def target_kind(objective: spec_pb2.ObjectiveSpec) -> str:
    """What a model answers that is trained for this, with the defaults filled in: a value of `TARGETS`."""
    return TARGETS[objective.WhichOneof("kind") or "cross_entropy"]
