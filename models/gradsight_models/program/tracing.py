"""The call of `torch.export`: for any number of rows, with buffers that change and without shortcuts."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.graph_signature import OutputKind

from gradsight.graph import Scores
from gradsight_models.program.errors import ExportError, plain_words
from gradsight_models.program.example import Example, scores_of


class Traced:
    """A module as torch's graph, in training or in evaluation."""

    def __init__(
        self, module: nn.Module, example: Example, output: str | int | None, *, training: bool
    ) -> None:
        names: list[str] = []
        caller = _Caller(module, example, output, names)
        rows = Dim("batch", min=1)
        with mode(module, training=training), plain_words(type(module).__name__), _quiet():
            self.program = torch.export.export(
                caller,
                example.tensors,
                dynamic_shapes={"tensors": tuple({0: rows} for _ in example.tensors)},
                strict=False,
            )
        result = next(node for node in self.program.graph.nodes if node.op == "output").args[0]
        places = [spec.kind is OutputKind.USER_OUTPUT for spec in self.program.graph_signature.output_specs]
        self.scores = _scores(names[-1], result[places.index(True)].meta["val"])


def _scores(name: str, tensor: Tensor) -> Scores:
    rows, *rest = tensor.shape
    # A number of rows that is the input's is one symbol; arithmetic on it is not.
    if (
        not isinstance(rows, torch.SymInt)
        or not rows.node.expr.is_Symbol
        or any(type(size) is not int for size in rest)
    ):
        raise ExportError(
            f"output {name!r} has the shape {[str(size) for size in tensor.shape]}, allowed: rows first, all "
            "other sizes fixed; choose another by output=, or reshape it in the module"
        )
    return Scores(name=name, dtype=str(tensor.dtype).removeprefix("torch."), row_shape=tuple(rest))


class _Caller(nn.Module):
    """Calls the module with tensors alone and gives its scores alone."""

    def __init__(
        self, module: nn.Module, example: Example, output: str | int | None, names: list[str]
    ) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

        # A closure: torch puts a traced module's attributes back as they were.
        def call(tensors: tuple[Tensor, ...]) -> Tensor:
            with _replaced_buffers_written(module):
                name, scores = scores_of(example.call(module, tensors), output)
            names.append(name)
            return scores

        self._call = call

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._call(tensors)


@contextlib.contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """The module in training or in evaluation, with gradients and without shortcuts; everything is put back."""
    before = [(part, part.training) for part in module.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    module.train(training)
    # The shortcut of nn.TransformerEncoder calls kernels that no graph may name.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for part, was in before:
            part.training = was


@contextlib.contextmanager
def _replaced_buffers_written(module: nn.Module) -> Iterator[None]:
    """A buffer that the module sets anew (`self.mean = …`) is written to instead: torch would forget the new one."""
    before = [(part, name, buffer) for part in module.modules() for name, buffer in part._buffers.items()]
    yield
    for part, name, buffer in before:
        now = part._buffers.get(name)
        if now is not buffer and buffer is not None and now is not None:
            with torch.no_grad():
                buffer.copy_(now)
            part._buffers[name] = buffer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch prints while it gives up; the error says it all."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        nowhere = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
