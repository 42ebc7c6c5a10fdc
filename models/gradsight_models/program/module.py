"""The module that a graph becomes: two procedures over one set of parameters, under the user's own paths."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

Procedure = Callable[..., Tensor]
"""Takes the inputs and then all tensors of the module, in the order of `Program.tensor_names`."""


class Part(nn.Module):
    """A place in the tree of modules that owns parameters or buffers, or holds parts that do."""

    layer_kind: str
    """Class name of the user's module at this place."""

    def __init__(self, layer_kind: str) -> None:
        super().__init__()
        self.layer_kind = layer_kind

    def forward(self, value: Tensor) -> Tensor:
        """What the module at this place gave: hooks see it."""
        return value


class Program(Part):
    """`forward(*inputs)` runs the training procedure while `training` is set, else that of evaluation.

    Parameters and buffers lie under the user's paths and are read anew at each call, so that whoever replaces them
    (flat storage, another device, loaded weights) is obeyed.
    """

    def __init__(self, layer_kind: str) -> None:
        super().__init__(layer_kind)
        self._slots: list[tuple[dict[str, Any], str]] = []
        self._procedures: tuple[Procedure, Procedure] | None = None

    def set_procedures(self, tensor_names: Sequence[str], training: Procedure, evaluation: Procedure) -> None:
        """Say what to run. `tensor_names`: paths of the parameters and buffers that they take after the inputs."""
        self._slots = [self._slot(name) for name in tensor_names]
        self._procedures = (training, evaluation)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Scores, rows first."""
        assert self._procedures is not None
        procedure = self._procedures[0 if self.training else 1]
        return procedure(*inputs, *[owner[name] for owner, name in self._slots])

    def _slot(self, path: str) -> tuple[dict[str, Any], str]:
        """Where the tensor at a path is kept: looked up without the price of an attribute of a module."""
        owner, _, name = path.rpartition(".")
        part = self.get_submodule(owner)
        return (part._parameters if name in part._parameters else part._buffers), name
