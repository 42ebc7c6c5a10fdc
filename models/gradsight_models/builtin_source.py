"""A built-in architecture as the source of a model."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import nn

from gradsight_models.architectures import ARCHITECTURES
from gradsight_models.columns import Chunks, Column, Reading
from gradsight_models.outputs import Outputs
from gradsight_models.preprocessing import Preprocessing


class BuiltinSource:
    """An architecture and its options, those left out at their defaults. Implements `ModelSource`."""

    def __init__(self, architecture: str, options: Mapping[str, Any]) -> None:
        """Raises ValueError for an unknown architecture, and for an option that it does not have or allow."""
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture: got {architecture!r}, allowed: {', '.join(ARCHITECTURES)}")
        self._architecture = ARCHITECTURES[architecture]
        self._configuration = self._architecture.configuration.from_json(options)
        self.name = architecture

    @property
    def options(self) -> dict[str, Any]:
        """All options as plain JSON values."""
        return self._configuration.to_json()

    @property
    def reads(self) -> Reading:
        """Which columns it wants when the spec names none."""
        return self._architecture.reads

    @property
    def input_names(self) -> tuple[str, ...]:
        """None: built-ins do not read by name."""
        return ()

    def fit(self, columns: Sequence[Column], chunks: Chunks) -> Preprocessing:
        """Fit the architecture's preprocessing on training rows. Raises ValueError for columns it cannot read."""
        return self._architecture.fit(self._configuration, columns, chunks)

    def build(self, preprocessing: Preprocessing, outputs: Outputs) -> nn.Module:
        """A fresh model, initialised from torch's global generator. Raises ValueError for outputs it cannot have."""
        if outputs.kind not in self._architecture.answers:
            allowed = ", ".join(self._architecture.answers)
            raise ValueError(f"{self.name}: got {outputs.kind} as outputs, allowed: {allowed}")
        return self._architecture.build(self._configuration, preprocessing, outputs.size)

    def to_json(self) -> dict[str, Any]:
        """Name and options."""
        return {"kind": "builtin", "architecture": self.name, "options": self.options}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        """The inverse of `to_json`; `files` are not needed."""
        return cls(document["architecture"], document["options"])

    def files(self) -> Mapping[str, bytes]:
        """None."""
        return {}
