"""Example inputs as named tensors, and the module's result as scores."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradsight_models.program.errors import ExportError

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""A tensor, positional arguments, or arguments by name."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One call of the module, its tensors apart from everything else."""

    names: tuple[str, ...]
    """Of the tensors, in order."""
    tensors: tuple[Tensor, ...]
    """At least two rows each: torch takes the number of rows for a constant where it is one."""
    positional: tuple[Any, ...]
    by_name: Mapping[str, Any]
    """Arguments of the call, with a `_Place` for each tensor."""

    def call(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Call the module with these tensors in their places."""
        positional = [_filled(value, tensors) for value in self.positional]
        return module(*positional, **{name: _filled(value, tensors) for name, value in self.by_name.items()})


def read_example(module: nn.Module, inputs: ExampleInputs, names: Sequence[str] | None) -> Example:
    """Take example inputs apart. Raises ExportError where rows do not come first or names do not fit."""
    positional = (
        (inputs,) if isinstance(inputs, Tensor) else () if isinstance(inputs, Mapping) else tuple(inputs)
    )
    by_name = dict(inputs) if isinstance(inputs, Mapping) else {}
    tensors: list[Tensor] = []
    found: list[str] = []
    argument_names = [*_positional_names(module, len(positional)), *by_name]
    places = [
        _taken_apart(value, name, tensors, found)
        for name, value in zip(argument_names, [*positional, *by_name.values()], strict=True)
    ]
    if names is not None and len(names) != len(tensors):
        raise ExportError(f"input_names: got {len(names)}, allowed {len(tensors)}: {', '.join(found)}")
    chosen = tuple(names if names is not None else found)
    return Example(
        names=chosen,
        tensors=_with_rows(chosen, tensors),
        positional=tuple(places[: len(positional)]),
        by_name=dict(zip(by_name, places[len(positional) :], strict=True)),
    )


def scores_of(result: Any, output: str | int | None) -> tuple[str, Tensor]:
    """The tensor of a module's result that is the scores, with its name. Raises ExportError."""
    candidates = dict(_candidates(result))
    if not candidates:
        raise ExportError(
            f"the module gives {type(result).__name__}, allowed: a tensor, or several by place or by name"
        )
    names = list(candidates)
    if output is None:
        name = names[0]
    elif isinstance(output, int) and 0 <= output < len(names):
        name = names[output]
    elif isinstance(output, str) and output in candidates:
        name = output
    else:
        raise ExportError(
            f"output: got {output!r}, allowed: {', '.join(names)}, or a place from 0 to {len(names) - 1}"
        )
    scores = candidates[name]
    if not scores.is_floating_point() or scores.dim() == 0:
        raise ExportError(
            f"output {name!r} is {str(scores.dtype).removeprefix('torch.')} {list(scores.shape)}, allowed: floating "
            f"point with rows first; choose another by output=, of {', '.join(names)}"
        )
    return name, scores


@dataclass(frozen=True)
class _Place:
    index: int


def _positional_names(module: nn.Module, count: int) -> list[str]:
    parameters = inspect.signature(module.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return names + [f"input_{index}" for index in range(len(names), count)]


def _taken_apart(value: Any, name: str, tensors: list[Tensor], names: list[str]) -> Any:
    """The same value with a place for each tensor; tensors and their names go to the lists."""
    if isinstance(value, Tensor):
        tensors.append(value)
        names.append(name)
        return _Place(len(tensors) - 1)
    if isinstance(value, Mapping) and type(value) in (dict,):
        return {key: _taken_apart(item, f"{name}_{key}", tensors, names) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_taken_apart(item, f"{name}_{i}", tensors, names) for i, item in enumerate(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ExportError(
        f"input {name!r}: got {type(value).__name__}, allowed: tensors, plain values, lists and dicts of them"
    )


def _filled(value: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(value, _Place):
        return tensors[value.index]
    if type(value) is dict:
        return {key: _filled(item, tensors) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_filled(item, tensors) for item in value)
    return value


def _with_rows(names: Sequence[str], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not tensors:
        raise ExportError("example_inputs: got no tensor, allowed: at least one, with rows first")
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dim() == 0 or len(tensor) != len(tensors[0]) or len(tensor) == 0:
            raise ExportError(
                f"input {name!r}: got shape {list(tensor.shape)}, allowed: rows first, as many as in {names[0]!r} "
                f"{list(tensors[0].shape)}; make what does not depend on rows a buffer of the module"
            )
    detached = [tensor.detach() for tensor in tensors]
    return tuple(torch.cat([t, t]) if len(t) == 1 else t for t in detached)


def _candidates(result: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a result by name, in order; the name of a place in a tuple is its number."""
    if isinstance(result, Tensor):
        yield "scores", result
        return
    if isinstance(result, Mapping):
        items: Iterator[tuple[Any, Any]] = iter(result.items())
    elif dataclasses.is_dataclass(result):
        items = ((field.name, getattr(result, field.name)) for field in dataclasses.fields(result))
    elif isinstance(result, list | tuple):
        fields = getattr(result, "_fields", range(len(result)))
        items = iter(zip(fields, result, strict=True))
    else:
        return
    yield from ((str(name), value) for name, value in items if isinstance(value, Tensor))
