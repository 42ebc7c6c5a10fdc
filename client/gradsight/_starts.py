"""What a job that begins with an earlier one may say otherwise: one rule for service and checkpoints."""

import json
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from gradsight._objectives import target_kind
from gradsight._spec_differences import FieldDifference, differences
from gradsight.v1 import spec_pb2

FREE_IN_EXTENSION = frozenset(
    {
        "name",
        "labels",
        "queue",
        "priority",
        "start",
        "budget",
        "checkpoint",
        "evaluation.patience",
        "result",
    }
)
"""Paths at which the spec of an extending job may differ from the extended one's: they bear on no number."""

# A program's own weights are not used: those of the earlier job take their place.
_FREE_IN_WEIGHTS = frozenset({"model.program.weights"})
_MOST_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field in which two specs differ, with its value in each as text."""

    path: str
    value: str
    earlier: str

    def __str__(self) -> str:
        return f"{self.path}: got {self.value}, the earlier job has {self.earlier}"


def spec_difference(
    spec: spec_pb2.JobSpec, earlier: spec_pb2.JobSpec, *, free: Set[str] = frozenset()
) -> Difference | None:
    """The first field, in the contract's order, in which two specs with their defaults differ; None when none does.

    What stands at a path in `free`, or below it, may differ.
    """
    return next(map(_as_text, differences(spec, earlier, free=free)), None)


def weights_difference(spec: spec_pb2.JobSpec, earlier: spec_pb2.JobSpec) -> Difference | None:
    """Why a job cannot begin with the weights of the earlier one: another model, inputs or kind of target."""
    if found := next(differences(spec.model, earlier.model, "model", _FREE_IN_WEIGHTS), None):
        return _as_text(found)
    inputs, earlier_inputs = spec.data.input_columns, earlier.data.input_columns
    if inputs and earlier_inputs and inputs != earlier_inputs:
        return Difference(
            path="data.input_columns", value=_shown(list(inputs)), earlier=_shown(list(earlier_inputs))
        )
    target, earlier_target = target_kind(spec.objective), target_kind(earlier.objective)
    if target != earlier_target:
        kind = spec.objective.WhichOneof("kind")
        return Difference(path=f"objective.{kind}", value=f"a target of {target}", earlier=earlier_target)
    return None


def _as_text(found: FieldDifference) -> Difference:
    """A difference for a message; of a choice only the name counts."""
    if found.is_choice:
        return Difference(path=found.path, value=_name(found.value), earlier=_name(found.earlier))
    return Difference(path=found.path, value=_shown(found.value), earlier=_shown(found.earlier))


def _name(chosen: dict[str, Any] | None) -> str:
    return "nothing" if chosen is None else next(iter(chosen))


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, sort_keys=True)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
