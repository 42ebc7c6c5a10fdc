"""What a model's outputs mean: classes, labels, numbers or tokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradsight_models.moments import Moments

TargetChunks = Iterable[npt.NDArray[Any]]
"""The target column, a chunk at a time."""


class Outputs(Protocol):
    """Turns targets into tensors, and scores into answers.

    | kind | targets | scores |
    |---|---|---|
    | `classes` | int64 [rows] | [rows, size], logits |
    | `labels` | float32 [rows, size], 0 or 1 | [rows, size], logits |
    | `numbers` | float32 [rows, size], in deviations from train's mean | [rows, size], the same |
    | `tokens` | int64 [rows, tokens], -100 where none counts | [rows, tokens, size], logits |
    """

    @property
    def kind(self) -> str:
        """`classes`, `labels`, `numbers` or `tokens`."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of classes or labels in the order of the scores; of the numbers' columns; empty for tokens."""
        ...

    @property
    def size(self) -> int:
        """Length of the scores' last dimension."""
        ...

    def encode(self, targets: npt.NDArray[Any]) -> Tensor:
        """A chunk of the target column as a tensor. Raises ValueError that names the row, from 1 within the chunk."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The documented JSON, for `outputs.json`."""
        ...


class UnknownLabel(ValueError):
    """A target that the fitted names do not have. `row` counts from 1 within the chunk."""

    def __init__(self, label: str, row: int, names: Sequence[str]) -> None:
        shown = ", ".join(repr(name) for name in names[:5]) + (" …" if len(names) > 5 else "")
        super().__init__(f"row {row}: got {label!r}, allowed: the {len(names)} names known ({shown})")
        self.label = label
        self.row = row


@dataclass(frozen=True, kw_only=True)
class ClassOutputs:
    """Exactly one class a row. `names` are sorted, each once."""

    names: tuple[str, ...]
    kind: str = field(default="classes", init=False)

    @classmethod
    def fit(cls, chunks: TargetChunks) -> Self:
        """The names that occur, as strings; give the targets of all splits, so that every row can be judged."""
        found: set[str] = set()
        for chunk in chunks:
            found.update(_class_name(value) for value in np.unique(_comparable(chunk)).tolist())
        return cls(names=tuple(sorted(found)))

    @property
    def size(self) -> int:
        """Number of classes."""
        return len(self.names)

    def encode(self, targets: npt.NDArray[Any]) -> Tensor:
        """Names to class numbers, int64 [rows]. Raises UnknownLabel."""
        numbers = {name: number for number, name in enumerate(self.names)}
        distinct, places = np.unique(_comparable(targets), return_inverse=True)
        codes = np.array([numbers.get(_class_name(value), -1) for value in distinct.tolist()], dtype=np.int64)
        encoded = codes[places] if len(codes) else np.zeros(0, dtype=np.int64)
        unknown = np.flatnonzero(encoded < 0)
        if len(unknown):
            row = int(unknown[0])
            raise UnknownLabel(_class_name(targets[row]), row + 1, self.names)
        return torch.from_numpy(encoded)

    def to_json(self) -> dict[str, Any]:
        """`names`: the classes in the order of the scores."""
        return {"kind": self.kind, "names": list(self.names)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(names=tuple(document["names"]))


_YES = frozenset({"1", "true"})
_NO = frozenset({"0", "false"})


@dataclass(frozen=True, kw_only=True)
class LabelOutputs:
    """Any number of labels a row, or one yes-or-no label named after the target column.

    `yes_or_no`: targets are 0 and 1, false and true. Otherwise they are tuples of labels, or texts with a separator.
    """

    names: tuple[str, ...]
    separator: str = "|"
    yes_or_no: bool = False
    kind: str = field(default="labels", init=False)

    @classmethod
    def fit(cls, chunks: TargetChunks, *, separator: str = "|", name: str = "1") -> Self:
        """The labels that occur, sorted. `name` is that of a single yes-or-no label: the target column's."""
        found: set[str] = set()
        yes_or_no = True
        for chunk in chunks:
            for cell in chunk.tolist():
                yes_or_no = yes_or_no and _truth(cell) is not None
                if not yes_or_no or not isinstance(cell, bool | int | float):
                    found.update(_labels(cell, separator))
        if yes_or_no:
            return cls(names=(name,), separator=separator, yes_or_no=True)
        return cls(names=tuple(sorted(found)), separator=separator)

    @property
    def size(self) -> int:
        """Number of labels."""
        return len(self.names)

    def encode(self, targets: npt.NDArray[Any]) -> Tensor:
        """Labels to float32 [rows, size], 1 for each that the row has. Raises UnknownLabel."""
        encoded = np.zeros((len(targets), self.size), dtype=np.float32)
        numbers = {name: number for number, name in enumerate(self.names)}
        for row, cell in enumerate(targets.tolist()):
            if self.yes_or_no:
                truth = _truth(cell)
                if truth is None:
                    raise ValueError(f"row {row + 1}: got {cell!r}, allowed: 0 or 1, false or true")
                encoded[row, 0] = truth
                continue
            for label in _labels(cell, self.separator):
                if label not in numbers:
                    raise UnknownLabel(label, row + 1, self.names)
                encoded[row, numbers[label]] = 1.0
        return torch.from_numpy(encoded)

    def to_json(self) -> dict[str, Any]:
        """`names`: the labels in the order of the scores; a label holds where its score's logistic is at least 0.5."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "separator": self.separator,
            "yes_or_no": self.yes_or_no,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            names=tuple(document["names"]),
            separator=document["separator"],
            yes_or_no=document["yes_or_no"],
        )


@dataclass(frozen=True, kw_only=True)
class NumberOutputs:
    """One number a row, or several; learnt in deviations from the mean of the training rows.

    Units are those of the target column. A constant target has deviation 1: the model then learns the mean.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    kind: str = field(default="numbers", init=False)

    @classmethod
    def fit(cls, chunks: TargetChunks, names: Sequence[str]) -> Self:
        """Mean and deviation of the training targets: chunks of [rows] or [rows, numbers], finite.

        `names` are the columns' names; one name for several numbers becomes `name[0]`, `name[1]`, …
        """
        moments: Moments | None = None
        row = 0
        for chunk in chunks:
            matrix = _number_matrix(chunk, first_row=row)
            moments = moments or Moments(matrix.shape[1])
            moments.add(matrix)
            row += len(matrix)
        if moments is None:
            raise ValueError("got no training targets, allowed: at least 1")
        size = len(moments.mean)
        if len(names) == 1 and size > 1:
            names = [f"{names[0]}[{number}]" for number in range(size)]
        moments.require_finite(tuple(names))
        deviation = np.where(moments.deviation > 0, moments.deviation, 1.0)
        return cls(names=tuple(names), mean=tuple(moments.mean.tolist()), deviation=tuple(deviation.tolist()))

    @property
    def size(self) -> int:
        """How many numbers a row has."""
        return len(self.names)

    def encode(self, targets: npt.NDArray[Any]) -> Tensor:
        """Numbers in units to float32 [rows, size] in deviations. Raises ValueError for one that is not finite."""
        matrix = _number_matrix(targets)
        if matrix.shape[1] != self.size:
            raise ValueError(f"got {matrix.shape[1]} numbers a row, allowed: {self.size}")
        standard = (matrix - np.asarray(self.mean)) / np.asarray(self.deviation)
        return torch.from_numpy(standard.astype(np.float32))

    def decode(self, scores: Tensor) -> Tensor:
        """Scores [rows, size] in deviations to numbers in units, float64 on the processor."""
        values = scores.detach().to("cpu", torch.float64)
        return values * torch.tensor(self.deviation, dtype=torch.float64) + torch.tensor(
            self.mean, dtype=torch.float64
        )

    def to_json(self) -> dict[str, Any]:
        """The number in units is `score * deviation + mean`, name by name."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "mean": list(self.mean),
            "deviation": list(self.deviation),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            names=tuple(document["names"]),
            mean=tuple(document["mean"]),
            deviation=tuple(document["deviation"]),
        )


@dataclass(frozen=True)
class TokenOutputs:
    """The next token at every place; targets come with the inputs (`Encoded.targets`)."""

    size: int
    """Tokens in the vocabulary."""
    kind: str = field(default="tokens", init=False)
    names: tuple[str, ...] = field(default=(), init=False)

    def encode(self, targets: npt.NDArray[Any]) -> Tensor:
        """Never called: raises ValueError, for a language model has no target column."""
        raise ValueError("a language model finds its targets in its inputs; leave the target column out")

    def to_json(self) -> dict[str, Any]:
        """`size`: tokens in the vocabulary of the preprocessing."""
        return {"kind": self.kind, "size": self.size}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(document["size"])


def outputs_from_json(document: Mapping[str, Any]) -> Outputs:
    """Read what `Outputs.to_json` wrote; raises ValueError for an unknown kind."""
    match document.get("kind"):
        case "classes":
            return ClassOutputs.from_json(document)
        case "labels":
            return LabelOutputs.from_json(document)
        case "numbers":
            return NumberOutputs.from_json(document)
        case "tokens":
            return TokenOutputs.from_json(document)
        case other:
            raise ValueError(f"outputs: got kind {other!r}, allowed: classes, labels, numbers, tokens")


def _comparable(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cells that `numpy.unique` can sort: objects as strings."""
    if values.dtype != np.object_:
        return values
    return np.array([_class_name(value) for value in values.tolist()], dtype=object)


def _class_name(value: Any) -> str:
    """The name of a class; 3 and 3.0 are one class, whatever the format of the file."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _truth(cell: Any) -> bool | None:
    """What a yes-or-no cell says, or None for any other cell."""
    if isinstance(cell, bool | int | float):
        return bool(cell) if cell in (0, 1) else None
    if not isinstance(cell, str):
        return None
    word = cell.strip().lower()
    return True if word in _YES else False if word in _NO else None


def _labels(cell: Any, separator: str) -> list[str]:
    """The labels of a cell; blanks around a label do not count."""
    if isinstance(cell, str):
        return [label for part in cell.split(separator) if (label := part.strip())]
    if isinstance(cell, bool | int | float):
        return [_class_name(cell)]
    return [str(label) for label in cell]


def _number_matrix(targets: npt.NDArray[Any], *, first_row: int = 0) -> npt.NDArray[np.float64]:
    matrix = np.asarray(targets, dtype=np.float64).reshape(len(targets), -1)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"row {first_row + row + 1}: got {matrix[row].tolist()}, allowed: finite numbers as target"
        )
    return matrix
