"""Where a model comes from: a built-in architecture, a program or a recipe, all seen alike by training and results."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from gradsight_models.columns import Chunks, Column, Reading
from gradsight_models.outputs import Outputs
from gradsight_models.preprocessing import Preprocessing


class ModelSource(Protocol):
    """Makes a model for given columns and outputs."""

    @property
    def name(self) -> str:
        """What events and metrics call it: the architecture, `program`, or the recipe's name."""
        ...

    @property
    def reads(self) -> Reading:
        """Which columns it wants when the spec names none."""
        ...

    @property
    def input_names(self) -> tuple[str, ...]:
        """For `Reading.TENSORS`: names of the model's inputs. Empty for all others."""
        ...

    def fit(self, columns: Sequence[Column], chunks: Chunks) -> Preprocessing:
        """Fit the preprocessing on training rows. Raises ValueError for columns that the model cannot read."""
        ...

    def build(self, preprocessing: Preprocessing, outputs: Outputs) -> nn.Module:
        """A fresh model on the processor, initialised from torch's global generator.

        `forward(*inputs)` takes `Encoded.inputs` and gives scores as `Outputs` describes them. Raises ValueError when
        the model cannot take these inputs or give these outputs.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """For `model.json`: `{"kind": "builtin" | "program" | "recipe", …}`."""
        ...

    def files(self) -> Mapping[str, bytes]:
        """Further files of the result, by name: `graph.json` of a program."""
        ...
