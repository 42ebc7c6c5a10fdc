"""The module that a graph becomes: two procedures over one set of parameters, under the user's own paths."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

Procedure = Callable[..., Tensor]
"""Takes the inputs, then all tensors of the module, then the parts that are watched, if any."""
Watched = tuple[Procedure, Sequence[str]]
"""A procedure that calls parts with what the user's modules gave there, and the paths of the parts it takes last."""


class Part(nn.Module):
    """A place in the tree of modules that owns parameters or buffers, or holds parts that do."""

    layer_kind: str
    """Class name of the user's module at this place."""
    output_activation: str | None
    """The activation that what hooks see has gone through: `relu` say. None: none that is known."""

    def __init__(self, layer_kind: str) -> None:
        super().__init__()
        self.layer_kind = layer_kind
        self.output_activation = None

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
        self._procedures: tuple[Procedure, Procedure] | None = None
        self._watch: Callable[[bool], Watched] | None = None
        self._watching: dict[bool, tuple[Procedure, list[nn.Module]]] = {}
        """For training and for evaluation, once somebody has watched them."""
        self._watched: list[nn.Module] = []

    def set_procedures(
        self,
        tensor_names: Sequence[str],
        training: Procedure,
        evaluation: Procedure,
        *,
        watch: Callable[[bool], Watched],
        activations: Mapping[str, str | None],
    ) -> None:
        """Say what to run.

        Args:
            tensor_names: Paths of the parameters and buffers that the procedures take after the inputs.
            training: Runs while `training` is set.
            evaluation: Runs otherwise.
            watch: Makes a procedure like `training` (True) or `evaluation` (False) that calls the parts that can be
                watched; called when somebody watches one for the first time.
            activations: Paths of the parts that can be watched, with what their outputs went through.
        """
        self._slots = [self._slot(name) for name in tensor_names]
        self._procedures, self._watch = (training, evaluation), watch
        self._watched = []
        for path, activation in activations.items():
            part = self.get_submodule(path)
            part.output_activation = activation  # type: ignore[assignment]
            self._watched.append(part)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Scores, rows first."""
        assert self._procedures is not None
        training, evaluation = self._procedures
        tensors = [owner[name] for owner, name in self._slots]
        # To call every part at every step would cost a twentieth of a small network's time.
        if any(part._forward_hooks for part in self._watched):
            procedure, parts = self._watching_procedure()
            return procedure(*inputs, *tensors, *parts)
        return training(*inputs, *tensors) if self.training else evaluation(*inputs, *tensors)

    def _watching_procedure(self) -> tuple[Procedure, list[nn.Module]]:
        if self.training not in self._watching:
            assert self._watch is not None
            procedure, paths = self._watch(self.training)
            self._watching[self.training] = procedure, [self.get_submodule(path) for path in paths]
        return self._watching[self.training]

    def _slot(self, path: str) -> tuple[dict[str, Any], str]:
        """Where the tensor at a path is kept: looked up without the price of an attribute of a module."""
        owner, _, name = path.rpartition(".")
        part = self.get_submodule(owner)
        return (part._parameters if name in part._parameters else part._buffers), name
