"""The module that a graph becomes: two procedures over one set of parameters, under the user's own paths."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

Procedure = Callable[..., Tensor]
"""Takes the inputs, then all tensors of the module, then the parts that are watched, if any."""


class Part(nn.Module):
    """A place in the tree of modules that owns parameters or buffers, or holds parts that do."""

    layer_kind: str
    """Class name of the user's module at this place."""

    def __init__(self, layer_kind: str) -> None:
        super().__init__()
        self.layer_kind = layer_kind

    def forward(self, value: Tensor) -> Tensor:
        """Hand on what the user's module at this place gave: hooks see it."""
        return value


class Program(Part):
    """`forward(*inputs)` runs the training procedure while `training` is set, else that of evaluation.

    Parameters and buffers lie under the user's paths and are read anew at each call, so that whoever replaces them
    (flat storage, another device, loaded weights) is obeyed.
    """

    def __init__(self, layer_kind: str) -> None:
        super().__init__(layer_kind)
        self._slots: list[tuple[dict[str, Any], str]] = []
        self._procedures: tuple[Procedure, Procedure, Procedure] | None = None
        self._watched: list[nn.Module] = []

    def set_procedures(
        self,
        tensor_names: Sequence[str],
        training: Procedure,
        evaluation: Procedure,
        *,
        watched: Procedure,
        watched_paths: Sequence[str],
    ) -> None:
        """Say what to run.

        Args:
            tensor_names: Paths of the parameters and buffers that the procedures take after the inputs.
            training: Runs while `training` is set.
            evaluation: Runs otherwise.
            watched: As `training`; calls the parts at `watched_paths` with what the user's modules gave there.
            watched_paths: Of the parts that `watched` takes last.
        """
        self._slots = [self._slot(name) for name in tensor_names]
        self._procedures = (training, evaluation, watched)
        self._watched = [self.get_submodule(path) for path in watched_paths]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Scores, rows first."""
        assert self._procedures is not None
        training, evaluation, watched = self._procedures
        tensors = [owner[name] for owner, name in self._slots]
        if not self.training:
            return evaluation(*inputs, *tensors)
        # To call every part at every step would cost a twentieth of a small network's time.
        if any(part._forward_hooks for part in self._watched):
            return watched(*inputs, *tensors, *self._watched)
        return training(*inputs, *tensors)

    def _slot(self, path: str) -> tuple[dict[str, Any], str]:
        """Where the tensor at a path is kept: looked up without the price of an attribute of a module."""
        owner, _, name = path.rpartition(".")
        part = self.get_submodule(owner)
        return (part._parameters if name in part._parameters else part._buffers), name
