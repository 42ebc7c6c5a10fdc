"""Names of the target's classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from gradsight_models.errors import UnusableValue


@dataclass(frozen=True, kw_only=True)
class LabelNames:
    """The classes in the order of the model's outputs; fitted on training rows only."""

    names: tuple[str, ...]

    @classmethod
    def fit(cls, values: Sequence[Any]) -> Self:
        """The distinct values as texts, sorted.

        Raises:
            UnusableValue: A value is missing.
            ValueError: Fewer than two distinct values.
        """
        names = sorted({_name(value, row) for row, value in enumerate(values)})
        if len(names) < 2:
            raise ValueError(
                f"the target has {len(names)} distinct value(s) in the training rows, 2 are needed"
            )
        return cls(names=tuple(names))

    def encode(self, values: Sequence[Any]) -> torch.Tensor:
        """Values to places in `names`, int64 [rows].

        Raises:
            UnusableValue: A value is missing or was not among the training rows.
        """
        places = {name: place for place, name in enumerate(self.names)}
        encoded = torch.empty(len(values), dtype=torch.int64)
        codes = encoded.numpy()
        for row, value in enumerate(values):
            name = _name(value, row)
            if name not in places:
                raise UnusableValue(f"got {name!r}, a target that no training row has", row=row)
            codes[row] = places[name]
        return encoded

    def to_json(self) -> dict[str, Any]:
        """The documented JSON: names in the order of the model's outputs."""
        return {"names": list(self.names)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(names=tuple(document["names"]))


def _name(value: Any, row: int) -> str:
    if isinstance(value, str):
        name = value
    elif isinstance(value, bool):
        name = "true" if value else "false"  # as the files write it
    else:
        name = "" if value is None or value != value else str(value)
    if not name:
        raise UnusableValue("got no value, allowed: the name of a class", row=row)
    return name
