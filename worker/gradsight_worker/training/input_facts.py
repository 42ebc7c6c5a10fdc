"""What the model's inputs look like after preprocessing, over rows of train."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gradsight.v1 import event_pb2
from gradsight_insight.signals import InputFacts
from gradsight_models import BuiltinSource
from gradsight_models.columns import Reading
from gradsight_models.token_preprocessing import PADDING
from gradsight_worker.training.activations import centred
from gradsight_worker.training.preparation import Prepared

_MOST_ROWS = 10_000
_MOST_NUMBERS = 1 << 20
"""Of one input: more would delay the first step and say no more."""

_ORDERED = ("tensors", "images")
"""Kinds of preprocessing whose inputs may have places that are neighbours."""
_FEWEST_PLACES = 8
_FEWEST_ROWS = 16
_MOST_COMPARED = 1 << 17
"""Numbers whose neighbours are looked at."""


def input_facts(prepared: Prepared) -> tuple[InputFacts, ...]:
    """Figures of each input over the first rows of train: 10,000, or a million numbers where rows are large."""
    largest = max((max(1, _numbers(spec.shape)) for spec in prepared.train.inputs_spec), default=1)
    rows = min(_MOST_ROWS, max(1, _MOST_NUMBERS // largest), len(prepared.train))
    inputs, _ = next(prepared.train.blocks(rows))
    kind = prepared.preprocessing.kind
    # The built-in models do not look at padding, however much of it there is.
    reads_padding = kind == "tokens" and not isinstance(prepared.source, BuiltinSource)
    return tuple(
        _facts_of(name, values, kind, reads_padding=reads_padding)
        for name, values in zip(_names(prepared, len(inputs)), inputs, strict=True)
    )


def input_figures(facts: InputFacts) -> event_pb2.InputFigures:
    """The same for the event log."""
    return event_pb2.InputFigures(
        input=facts.name,
        mean=facts.mean,
        deviation=facts.deviation,
        largest=facts.largest,
        nonfinite_ratio=facts.nonfinite_ratio,
        padding_ratio=facts.padding_ratio,
    )


def _facts_of(name: str, values: Tensor, kind: str, *, reads_padding: bool) -> InputFacts:
    if not values.is_floating_point():
        padding = (values == PADDING).double().mean().item() if reads_padding else None
        return InputFacts(name=name, padding_ratio=padding, constant=_constant(values))
    numbers, nonfinite = values.float(), 0.0
    if not math.isfinite(numbers.sum().item()):
        finite = numbers.isfinite()
        nonfinite = 1.0 - finite.double().mean().item()
        numbers = numbers[finite]
    if not numbers.numel():
        return InputFacts(name=name, nonfinite_ratio=nonfinite)
    mean, rest, largest = torch.stack([*centred(numbers), numbers.abs().amax()]).tolist()
    return InputFacts(
        name=name,
        mean=mean,
        deviation=rest / math.sqrt(numbers.numel()),
        largest=largest,
        nonfinite_ratio=nonfinite,
        constant=_constant(values),
        neighbour_correlation=_neighbour_correlation(values) if kind in _ORDERED else None,
    )


def _constant(values: Tensor) -> bool:
    return len(values) > 1 and bool((values == values[:1]).all())


def _neighbour_correlation(values: Tensor) -> float | None:
    """Mean correlation over rows of numbers at adjacent places of the last axis; None where it has few of them."""
    if values.ndim < 2 or values.shape[-1] < _FEWEST_PLACES or len(values) < _FEWEST_ROWS:
        return None
    some = values[: max(_FEWEST_ROWS, _MOST_COMPARED // values[0].numel())].float()
    deviations, means = torch.std_mean(some, dim=0, correction=0)
    standard = (some - means) / deviations
    pairs = (standard[..., 1:] * standard[..., :-1]).mean(dim=0)
    correlation = pairs[pairs.isfinite()].mean().item()
    return correlation if math.isfinite(correlation) else None


def _names(prepared: Prepared, inputs: int) -> Iterator[str]:
    """Of tensors their own; otherwise the column's, or what the columns are together."""
    source, columns = prepared.source, prepared.splits.train.columns
    if source.reads is Reading.TENSORS and len(source.input_names) == inputs:
        yield from source.input_names
        return
    name = columns[0].name if len(columns) == 1 else prepared.preprocessing.kind
    yield from (name if inputs == 1 else f"{name} {number}" for number in range(1, inputs + 1))


def _numbers(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
