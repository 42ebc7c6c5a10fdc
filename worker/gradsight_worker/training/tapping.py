"""Looking into a model from outside while it computes: its layers' outputs, and the attention between them.

Each layer's module is watched by a hook, and the functions that the model calls by a function mode, both only for the
forward passes that are asked for. When a layer's output goes into an activation, it is the activation's output that
counts: dead and saturated units show there, whether the activation is a module or a function. A program's parts bring
their activations with them. Nothing is changed; the same kernels run in the same order.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from gradsight_models import Layer

_ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
    *("hardtanh", "hardswish", "tanh", "sigmoid"),
)
_ATTENTION = "scaled_dot_product_attention"
# Functions go by several names: torch.relu, Tensor.relu_, torch.ops.aten.relu.default.
_WATCHED = {
    f"{name}{in_place}{overload}": name
    for name in (*_ACTIVATIONS, _ATTENTION)
    for in_place in ("", "_")
    for overload in ("", ".default")
}


class Sink(Protocol):
    """Takes what is seen, during the forward pass."""

    def see(self, layer: int, call: int, output: Tensor, activation: str | None) -> None:
        """A layer gave an output; of the same `call` only the last one counts."""

    def see_attention(
        self, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> None:
        """Attention was computed: queries and keys [..., tokens, numbers], `mask` as torch takes it."""


class LayerTap:
    """Watches a model's layers during forward passes.

    Args:
        model: Computed by torch itself, not compiled.
        layers: Whose outputs are watched.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self._model = model
        self.owners = [_owner_of(model, layer) for layer in layers]
        self.activations: list[str | None] = [
            getattr(owner, "output_activation", None) for owner in self.owners
        ]
        """What each layer's output goes through; None where nothing was seen."""
        self.has_attention = False
        """Whether attention was seen."""
        self._watches = [self._output_hook(index) for index in range(len(self.owners))]
        self._hooks: list[RemovableHandle] = []
        self._sink: Sink | None = None
        self._mode = _CalledFunctions(self._called)
        self._open: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        """Outputs of this pass by identity, with layer and call: an activation may follow."""
        self._calls = 0
        self._follows = False
        self.failure: Exception | None = None
        """What kept the sink from taking something in; the model knows nothing of it."""

    def attach(self, sink: Sink, *, functions: bool = True) -> None:
        """Watch from now on; without `functions` only what the layers' own modules give is seen."""
        self.detach()
        self._sink, self.failure = sink, None
        self._follows = functions
        self._hooks = [
            owner.register_forward_hook(watch)
            for owner, watch in zip(self.owners, self._watches, strict=True)
        ]
        if functions:
            self._hooks.append(self._model.register_forward_pre_hook(self._enter))
            self._hooks.append(self._model.register_forward_hook(self._leave, always_call=True))

    def detach(self) -> None:
        """Watch no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._open = {}
        self._sink = None

    def _enter(self, _model: nn.Module, _inputs: Any) -> None:
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self, _model: nn.Module, _inputs: Any, _output: Any) -> None:
        self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._open = {}

    def _output_hook(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        def watch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point() or not output.numel():
                return
            self._calls += 1
            if self._follows:
                self._open[id(output)] = weakref.ref(output), index, self._calls
                if self.activations[index] is not None and not brings_its_own:
                    return  # its activation comes next
            self._see(index, self._calls, output)

        brings_its_own = hasattr(self.owners[index], "output_activation")
        return watch

    def _called(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        if name == _ATTENTION:
            self._see_attention(arguments, options)
            return
        opened = self._open.get(id(arguments[0])) if arguments else None
        if opened is not None and opened[0]() is arguments[0] and isinstance(result, Tensor):
            _, index, call = self._open.pop(id(arguments[0]))
            self.activations[index] = name
            self._see(index, call, result)

    def _see(self, index: int, call: int, output: Tensor) -> None:
        try:
            if self._sink is not None:
                with DisableTorchFunction():  # what the sink computes is none of the model's
                    self._sink.see(index, call, output.detach(), self.activations[index])
        except Exception as error:
            self.failure = error

    def _see_attention(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.has_attention = True
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, arguments, strict=False)) | options
        try:
            if self._sink is not None:
                query, key = given["query"].detach(), given["key"].detach()
                scale = given.get("scale")
                self._sink.see_attention(
                    query,
                    key,
                    given.get("attn_mask"),
                    bool(given.get("is_causal", False)),
                    query.shape[-1] ** -0.5 if scale is None else scale,
                )
        except Exception as error:
            self.failure = error


class _CalledFunctions(TorchFunctionMode):
    def __init__(self, called: Callable[[str, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()
        self._called = called

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if name := _WATCHED.get(getattr(func, "__name__", "")):
            self._called(name, args, kwargs or {}, result)
        return result


def _owner_of(model: nn.Module, layer: Layer) -> nn.Module:
    """The module of a layer's last parameter."""
    return model.get_submodule(layer.parameter_names[-1].rpartition(".")[0])
