"""Tensors handed on as they are: what programs and recipes read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradsight_models.columns import Chunk, Chunks, Column, ColumnKind, Encoded

_MASK = "attention_mask"
_UNCOUNTED = -100
"""Where no token follows, as `Encoded.targets` says it."""


@dataclass(frozen=True, kw_only=True)
class InputTensor:
    """An input of a model: what it wants of one row."""

    name: str
    dtype: str
    """numpy's name: `float32`, `int64`, `bool`, …"""
    shape: tuple[int | None, ...]
    """Of one row, so without the batch; None where any length will do. A number a row is `()`."""
    mean: tuple[float, ...] = ()
    """Taken off its numbers, one for all or one for each column; empty: they stay as they are. A repair of the run has
    set it, by train's rows."""
    deviation: tuple[float, ...] = ()
    """What they are divided by then, likewise."""


@dataclass(frozen=True, kw_only=True)
class TensorPreprocessing:
    """Which columns become which input. A model of one's own brings its own normalisation, or a repair does."""

    columns: tuple[str, ...]
    """Names of the columns, in the order in which chunks bring them."""
    inputs: tuple[InputTensor, ...]
    """In the order of `forward`; shapes are those of train's rows, so without None."""
    sources: tuple[tuple[int, ...], ...]
    """Places of the columns of each input: one tensor, or numbers side by side."""
    foreseen: int | None = None
    """Place of the input of tokens whose next ones are the expected output; None: the target is a column."""
    kind: str = field(default="tensors", init=False)

    @classmethod
    def fit(cls, columns: Sequence[Column], chunks: Chunks, *, inputs: Sequence[InputTensor] = ()) -> Self:
        """Decide by the columns alone; no row is looked at.

        Inputs take the columns of their names; else as many columns as inputs are taken in order; else a single input
        takes all columns of numbers side by side. Without `inputs`, each tensor is one in its own dtype, and numbers
        side by side are one of float32. Raises ValueError that names the input or the column that does not fit.
        """
        inputs = inputs or _inputs_of(columns)
        sources = _sources(columns, inputs)
        return cls(
            columns=tuple(column.name for column in columns),
            inputs=tuple(
                _fitted(wanted, [columns[place] for place in source])
                for wanted, source in zip(inputs, sources, strict=True)
            ),
            sources=sources,
        )

    def foreseeing(self) -> Self:
        """The same for a language model: the first input of tokens holds the expected output, one place on.

        Places that an input `attention_mask` leaves out do not count. Raises ValueError without an input of tokens.
        """
        for place, wanted in enumerate(self.inputs):
            if len(wanted.shape) == 1 and np.dtype(wanted.dtype).kind in "iu" and wanted.name != _MASK:
                return replace(self, foreseen=place)
        raise ValueError("got no input of tokens, allowed: integers [rows, tokens]")

    def encode(self, columns: Chunk) -> Encoded:
        """One tensor for each input, [rows, *shape]. Raises ValueError that names row and column."""
        if len(columns) != len(self.columns):
            raise ValueError(f"got {len(columns)} columns, allowed: the {len(self.columns)} of training")
        inputs = tuple(
            _tensor(wanted, [(self.columns[place], columns[place]) for place in source])
            for wanted, source in zip(self.inputs, self.sources, strict=True)
        )
        return Encoded(inputs=inputs, targets=None if self.foreseen is None else self._next_tokens(inputs))

    def _next_tokens(self, inputs: Sequence[Tensor]) -> Tensor:
        assert self.foreseen is not None
        following = inputs[self.foreseen][:, 1:].long()
        for wanted, values in zip(self.inputs, inputs, strict=True):
            if wanted.name == _MASK and values.shape == inputs[self.foreseen].shape:
                following = following.masked_fill(values[:, 1:] == 0, _UNCOUNTED)
        return torch.nn.functional.pad(following, (0, 1), value=_UNCOUNTED)

    def to_json(self) -> dict[str, Any]:
        """`inputs` in the order of the model: name, dtype and shape of a row, its columns, moments if any."""
        inputs = [
            {
                "name": wanted.name,
                "dtype": wanted.dtype,
                "shape": list(wanted.shape),
                "columns": [self.columns[place] for place in source],
            }
            | ({"mean": list(wanted.mean), "deviation": list(wanted.deviation)} if wanted.mean else {})
            for wanted, source in zip(self.inputs, self.sources, strict=True)
        ]
        document = {"kind": self.kind, "columns": list(self.columns), "inputs": inputs}
        return document if self.foreseen is None else {**document, "foreseen": self.foreseen}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        columns = tuple(document["columns"])
        return cls(
            columns=columns,
            inputs=tuple(
                InputTensor(
                    name=wanted["name"],
                    dtype=wanted["dtype"],
                    shape=tuple(wanted["shape"]),
                    mean=tuple(wanted.get("mean", ())),
                    deviation=tuple(wanted.get("deviation", ())),
                )
                for wanted in document["inputs"]
            ),
            sources=tuple(
                tuple(columns.index(name) for name in wanted["columns"]) for wanted in document["inputs"]
            ),
            foreseen=document.get("foreseen"),
        )


def _inputs_of(columns: Sequence[Column]) -> list[InputTensor]:
    """What columns offer where a model does not say what it wants."""
    tensors = [
        InputTensor(name=column.name, dtype=column.dtype, shape=column.shape)
        for column in columns
        if column.kind is ColumnKind.TENSOR
    ]
    return tensors or [InputTensor(name="values", dtype="float32", shape=(None,))]


def _sources(columns: Sequence[Column], inputs: Sequence[InputTensor]) -> tuple[tuple[int, ...], ...]:
    places = {column.name: place for place, column in enumerate(columns)}
    if len(columns) == len(inputs):
        if all(wanted.name in places for wanted in inputs):
            return tuple((places[wanted.name],) for wanted in inputs)
        if len(inputs) == 1 or not any(wanted.name in places for wanted in inputs):
            return tuple((place,) for place in range(len(columns)))
    if len(inputs) == 1 and all(column.kind is ColumnKind.NUMBER for column in columns):
        return (tuple(range(len(columns))),)
    raise ValueError(
        f"got the columns {', '.join(places)}, allowed: one for each input of the model, "
        f"{', '.join(wanted.name for wanted in inputs)}; name the columns after them"
    )


def _fitted(wanted: InputTensor, columns: Sequence[Column]) -> InputTensor:
    """The input with the shape that the columns give it. Raises ValueError where it does not fit."""
    first = columns[0]
    if first.kind not in (ColumnKind.NUMBER, ColumnKind.TENSOR):
        raise ValueError(
            f"column {first.name!r}: got {first.kind}, allowed for input {wanted.name!r}: numbers"
        )
    if first.kind is ColumnKind.TENSOR:
        found, dtype = first.shape, np.dtype(first.dtype)
    else:
        found, dtype = (
            (() if len(columns) == 1 and not wanted.shape else (len(columns),)),
            np.dtype(np.float64),
        )
    fits = len(found) == len(wanted.shape) and all(
        length in (None, there) for length, there in zip(wanted.shape, found, strict=True)
    )
    if not fits:
        allowed = (
            " × ".join("any" if length is None else str(length) for length in wanted.shape) or "one number"
        )
        raise ValueError(
            f"column {first.name!r}: got {' × '.join(map(str, found)) or 'one number'} a row, "
            f"allowed for input {wanted.name!r}: {allowed}"
        )
    if first.kind is ColumnKind.TENSOR and dtype.kind == "f" and np.dtype(wanted.dtype).kind != "f":
        raise ValueError(f"column {first.name!r}: got {dtype}, allowed for input {wanted.name!r}: integers")
    return InputTensor(name=wanted.name, dtype=wanted.dtype, shape=found)


def _tensor(wanted: InputTensor, columns: Sequence[tuple[str, npt.NDArray[Any]]]) -> Tensor:
    parts = [_checked(name, cells, wanted) for name, cells in columns]
    stacked = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
    values = torch.from_numpy(np.ascontiguousarray(stacked.reshape(len(stacked), *wanted.shape)))
    if not wanted.mean:
        return values
    mean, deviation = (
        torch.tensor(figures, dtype=values.dtype) for figures in (wanted.mean, wanted.deviation)
    )
    return (values - mean) / deviation


def _checked(name: str, cells: npt.NDArray[Any], wanted: InputTensor) -> npt.NDArray[Any]:
    """Cells in the dtype that is wanted. Raises ValueError for one that does not survive it, a missing one included."""
    dtype = np.dtype(wanted.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        # Always a copy: what a model does to its inputs must not reach the rows.
        values = cells.astype(dtype, copy=True)
        kept = np.isfinite(values) if dtype.kind == "f" else values == cells
    if not kept.all():
        place = tuple(np.argwhere(~kept)[0])
        allowed = "a finite number" if dtype.kind == "f" else f"a whole number that fits {dtype}"
        raise ValueError(f"column {name!r}: row {place[0] + 1}: got {cells[place]}, allowed: {allowed}")
    return values
