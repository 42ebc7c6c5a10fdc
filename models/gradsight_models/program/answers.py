"""The module and its program side by side: torch leaves out, without a word, the way that an example does not take."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradsight_models.program.errors import ExportError
from gradsight_models.program.example import Example, scores_of
from gradsight_models.program.module import Program
from gradsight_models.program.tracing import mode

_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
"""Kernels may differ by rounding; another way through the module differs by more."""


def check_answers(module: nn.Module, example: Example, output: str | int | None, program: Program) -> None:
    """Compare scores in evaluation, for all rows of the example and for one. Raises ExportError where they differ."""
    program.to(example.tensors[0].device).eval()
    with mode(module, training=False), torch.no_grad(), torch.random.fork_rng(devices=()):
        for rows in (len(example.tensors[0]), 1):
            tensors = [tensor[:rows] for tensor in example.tensors]
            expected = _expected(module, example, output, tensors)
            if expected is not None:
                torch.manual_seed(0)
                _compare(program(*tensors), expected, rows)


def _expected(
    module: nn.Module, example: Example, output: str | int | None, tensors: Sequence[Tensor]
) -> Tensor | None:
    torch.manual_seed(0)
    try:
        return scores_of(example.call(module, [tensor.clone() for tensor in tensors]), output)[1]
    except Exception:
        # Some modules take no single row, batch norm over the batch for one; then there is nothing to compare.
        if len(tensors[0]) == 1:
            return None
        raise


def _compare(scores: Tensor, expected: Tensor, rows: int) -> None:
    if scores.shape != expected.shape:
        raise ExportError(
            f"with {_rows(rows)} the module gives {list(expected.shape)}, its graph {list(scores.shape)}; "
            "reshape by x.shape[0] or -1, and give squeeze() a dimension"
        )
    close = torch.isclose(
        scores, expected, rtol=_RELATIVE, atol=_ABSOLUTE * float(expected.abs().max() + 1), equal_nan=True
    )
    if not close.all():
        raise ExportError(
            f"with {_rows(rows)} the module's scores are not those of its graph; look for an `if` on the number of "
            "rows, random numbers that are not torch's, and state that is no buffer"
        )


def _rows(count: int) -> str:
    return "one row" if count == 1 else f"{count} rows"
