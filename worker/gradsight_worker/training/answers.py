"""What a model makes of held-out rows: its answers, row by row, and what they are worth."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradsight.v1 import state_pb2
from gradsight_insight.categories import Categories
from gradsight_insight.measures import macro_f1, macro_f1_of_labels, mean_absolute, root_mean_square
from gradsight_models.outputs import NumberOutputs, Outputs
from gradsight_worker.training.data.encoding import EncodedRows
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.memory import is_out_of_memory
from gradsight_worker.training.objectives import Judged, Objective
from gradsight_worker.training.unit_watch import UnitWatch

Autocast = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a model computes: its number formats."""

_MOST_ROWS = 1024
_MOST_NUMBERS = 1 << 20
"""In the inputs or scores of the rows that are answered at once, unless a training step has more."""
_TARGETS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows of one side, as they came and as the model takes them."""

    split: state_pb2.Split.ValueType
    rows: Rows
    encoded: EncodedRows
    categories: Categories | None
    impacts: Mapping[str, float]
    micro_batch: int = 64
    """Rows that a training step computes at once: so many fit into memory, since judging needs less."""

    def rows_at_once(self, outputs: Outputs) -> int:
        """How many encoded rows to answer at once: small ones in large blocks, large ones in small blocks."""
        numbers = sum(math.prod(spec.shape) for spec in self.encoded.inputs_spec)
        if outputs.kind == "tokens":
            numbers *= outputs.size
        return min(_MOST_ROWS, max(self.micro_batch, _MOST_NUMBERS // max(1, numbers)))


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model made of each row, on the host."""

    losses: npt.NDArray[np.float32]
    """Mean over the row's answers, neither smoothed nor weighted, in the objective's unit; may be non-finite, NaN where
    no answer counts."""
    wrong: npt.NDArray[np.int64] | None
    """Wrong answers of each row; None where answers are not right or wrong."""
    counted: npt.NDArray[np.int64] | None = None
    """Tokens of each row that count; None for other answers: one a row."""
    predicted: npt.NDArray[Any] | None = None
    """Classes: int64 [rows]. Labels: bool [rows, size]. Numbers: float64 [rows, size], in units. None for tokens."""
    macro_f1: float | None = None
    """Present for classes and labels."""
    root_mean_square_error: float | None = None
    """Present for numbers, in units."""
    mean_absolute_error: float | None = None
    """Present for numbers, in units."""
    expected: npt.NDArray[np.int64] | None = None
    """The right class of each row. Present for classes."""
    confidence: npt.NDArray[np.float32] | None = None
    """Probability of the class that is answered, 0 to 1. Present for classes."""

    @property
    def wrong_rows(self) -> npt.NDArray[np.bool_] | None:
        """Whether any answer of a row is wrong; None where a row is not right or wrong.

        Of texts, how often a token is wrong says nothing about the text being wrong.
        """
        return None if self.wrong is None or self.counted is not None else self.wrong > 0


def targets_of(encoded: EncodedRows, outputs: Outputs) -> Iterator[Tensor]:
    """All targets in order, on the device or the host; all at once, but for tokens that do not fit."""
    if outputs.kind == "tokens" and encoded.is_streamed:
        yield from (targets for _, targets in encoded.blocks(_TARGETS_AT_ONCE))
    else:
        yield encoded.targets


def answer(
    model: nn.Module,
    held_out: HeldOut,
    objective: Objective,
    outputs: Outputs,
    autocast: Autocast = nullcontext,
    units: UnitWatch | None = None,
) -> Answers:
    """Let the model answer every row, in evaluation mode; it is back in training mode afterwards.

    `units` watches the first rows. Rows that do not fit into the device's memory are answered fewer at once.
    """
    size = held_out.rows_at_once(outputs)
    while True:
        try:
            judged, targets = _judge(model, held_out.encoded.blocks(size), objective, autocast, units)
            return answers_of(
                judged, targets, outputs, owners=held_out.encoded.owners, rows=len(held_out.rows)
            )
        except (MemoryError, RuntimeError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        size //= 2


def answers_of(
    judged: Judged,
    targets: Tensor,
    outputs: Outputs,
    *,
    owners: npt.NDArray[np.int64] | None,
    rows: int,
) -> Answers:
    """Answers on the host from judged encoded rows on the device, those of one row put together."""
    losses = judged.loss.cpu().numpy()
    wrong = None if judged.wrong is None else judged.wrong.cpu().numpy()
    if judged.counted is not None:
        return _token_answers(losses, wrong, judged.counted.cpu().numpy(), owners, rows)
    assert judged.predicted is not None
    predicted, expected = judged.predicted.cpu(), targets.cpu()
    if isinstance(outputs, NumberOutputs):
        # In deviations first: the mean may be so large that float32 units could not tell the two apart.
        residuals = (predicted.double() - expected.double()).numpy() * np.array(outputs.deviation)
        return Answers(
            losses=losses,
            wrong=None,
            predicted=outputs.decode(predicted).numpy(),
            root_mean_square_error=root_mean_square(residuals),
            mean_absolute_error=mean_absolute(residuals),
        )
    if outputs.kind == "labels":
        f1 = macro_f1_of_labels(expected.bool().numpy(), predicted.numpy())
        return Answers(losses=losses, wrong=wrong, predicted=predicted.numpy(), macro_f1=f1)
    return Answers(
        losses=losses,
        wrong=wrong,
        predicted=predicted.numpy(),
        macro_f1=macro_f1(expected.numpy(), predicted.numpy(), outputs.size),
        expected=expected.numpy(),
        confidence=None if judged.confidence is None else judged.confidence.cpu().numpy(),
    )


def _judge(
    model: nn.Module,
    blocks: Iterator[tuple[tuple[Tensor, ...], Tensor]],
    objective: Objective,
    autocast: Autocast,
    units: UnitWatch | None,
) -> tuple[Judged, Tensor]:
    parts: list[Judged] = []
    targets: list[Tensor] = []
    model.eval()
    if units is not None:
        units.attach()
    try:
        with torch.no_grad():
            for inputs, expected in blocks:
                with autocast():
                    scores = model(*inputs)
                if units is not None:
                    units.answered(len(expected))
                parts.append(objective.judge(scores, expected))
                # Of tokens nothing is asked later, and there are many.
                targets.append(expected if parts[-1].counted is None else expected[:0])
    finally:
        if units is not None:
            units.detach()
        model.train()
    return joined(parts), torch.cat(targets)


def joined(parts: Sequence[Judged]) -> Judged:
    """Judged rows of several blocks as one."""
    return Judged(
        loss=torch.cat([part.loss for part in parts]),
        predicted=_joined([part.predicted for part in parts]),
        wrong=_joined([part.wrong for part in parts]),
        counted=_joined([part.counted for part in parts]),
        confidence=_joined([part.confidence for part in parts]),
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _token_answers(
    loss_sums: npt.NDArray[np.float32],
    wrong: npt.NDArray[np.int64] | None,
    counted: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64] | None,
    rows: int,
) -> Answers:
    if owners is None:
        owners = np.arange(rows)
    assert wrong is not None
    by_row = [np.bincount(owners, weights=values, minlength=rows) for values in (loss_sums, wrong, counted)]
    with np.errstate(invalid="ignore"):
        losses = by_row[0] / by_row[2]
    return Answers(
        losses=losses.astype(np.float32), wrong=by_row[1].astype(np.int64), counted=by_row[2].astype(np.int64)
    )
