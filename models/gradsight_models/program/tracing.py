"""The call of `torch.export`, and its errors in plain words."""

import contextlib
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.export.graph_signature import OutputKind

from gradsight.graph import Scores
from gradsight_models.program.errors import ExportError
from gradsight_models.program.example import Example, scores_of

_TORCH = Path(torch.__file__).parent
_NOT_THE_USERS = (Path(__file__).parent, _TORCH, Path(contextlib.__file__).parent)
"""Ours, torch's and Python's own."""


class Traced:
    """A module as torch's graph, in training or in evaluation."""

    def __init__(
        self, module: nn.Module, example: Example, output: str | int | None, *, training: bool
    ) -> None:
        names: list[str] = []
        caller = _Caller(module, example, output, names)
        rows = Dim("batch", min=1)
        with _mode(module, training=training), _plain_words(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
            name, scores = scores_of(example.call(module, tensors), output)
            names.append(name)
            return scores

        self._call = call

    def forward(self, *tensors: Tensor) -> Tensor:
        return self._call(tensors)


@contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
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


@contextmanager
def _plain_words(module: nn.Module) -> Iterator[None]:
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # Whatever torch or the module raise: the user hears it as one kind of error.
        frames = traceback.extract_tb(error.__traceback__)
        raise ExportError(f"{type(module).__name__}{_where(frames)}: {_reason(error, frames)}") from error


def _where(frames: Sequence[traceback.FrameSummary]) -> str:
    """The last line that is neither torch's nor ours."""
    for frame in reversed(frames):
        path = Path(frame.filename)
        installed = "site-packages" in path.parts and _TORCH not in path.parents
        if path.suffix == ".py" and (
            installed or not any(folder in path.parents for folder in _NOT_THE_USERS)
        ):
            return f" ({path.name}, line {frame.lineno}: {(frame.line or '').strip()[:120]})"
    return ""


def _reason(error: Exception, frames: Sequence[traceback.FrameSummary]) -> str:
    text = str(error)
    kind = type(error).__name__
    if any(frame.name in ("pack_padded_sequence", "pad_packed_sequence") for frame in frames):
        return "packed sequences do not export; pad every row to one fixed length and pass the padded tensor"
    if kind == "GuardOnDataDependentSymNode" or "data-dependent" in text or "Could not guard" in text:
        return (
            "what it does next depends on values in a tensor (an `if`, a loop, .item(), a mask as an index), and only "
            "one way can travel; compute both ways and choose with torch.where, or keep the number out of the graph"
        )
    if "specialized" in text or "Constraints violated" in text or kind == "ConstraintViolationError":
        return (
            "the number of rows became a constant (len(x), int(x.shape[0]), a loop over rows, a reshape "
            "or an expand with a fixed number, an `if` on x.shape[0]); write x.shape[0] or -1 there. torch says: "
            + _first_lines(text)
        )
    return f"{kind}: {_first_lines(text)}"


def _first_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]
