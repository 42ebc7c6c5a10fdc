"""An earlier model on this job's rows: by name, in this job's terms, refused where the two say different things."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradsight.v1 import spec_pb2, state_pb2
from gradsight_models.columns import Chunk, Column, ColumnKind
from gradsight_models.outputs import ClassOutputs, LabelOutputs, NumberOutputs, Outputs, TokenOutputs
from gradsight_worker.training.answers import Answers, HeldOut
from gradsight_worker.training.baseline import baseline_answers, require_comparable
from gradsight_worker.training.data.encoding import ResidentRows
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.objectives import build_objective


def baseline(outputs: Outputs, scores: list[list[float]], columns: tuple[Column, ...] | None = None) -> Any:
    """A result that reads the number of a row and answers with that row of a table."""
    table = torch.tensor(scores)

    def answer(chunk: Chunk) -> Tensor:
        return table[torch.from_numpy(chunk[0]).long()]

    return SimpleNamespace(
        outputs=outputs,
        columns=columns or (Column(name="n", kind=ColumnKind.NUMBER),),
        input_columns=("n",),
        scores=answer,
        module=nn.Identity(),
        preprocessing=SimpleNamespace(to_json=lambda: {"kind": "tables"}),
    )


def judged(outputs: Outputs, targets: Any, earlier: Any) -> Answers:
    rows = Rows.in_memory(
        [Column(name="other", kind=ColumnKind.NUMBER), Column(name="n", kind=ColumnKind.NUMBER)],
        [np.zeros(len(targets)), np.arange(len(targets), dtype=np.float64)],
    )
    held_out = HeldOut(
        split=state_pb2.SPLIT_TEST,
        rows=rows,
        encoded=ResidentRows((torch.zeros(len(targets), 1), torch.tensor(targets))),
        categories=None,
        impacts={},
    )
    require_comparable(earlier, rows, outputs, earlier.preprocessing)
    objective = build_objective(
        spec_pb2.ObjectiveSpec(), outputs, class_counts=None, device=torch.device("cpu")
    )
    return baseline_answers(earlier, held_out, objective, outputs)


def test_classes_are_matched_by_name_and_an_unknown_one_costs_an_infinite_loss() -> None:
    earlier = baseline(
        ClassOutputs(names=("b", "old", "a")), [[0.0, 0, 9], [9.0, 0, 0], [0.0, 9, 0], [9.0, 0, 0]]
    )
    answers = judged(ClassOutputs(names=("a", "b", "new")), [0, 1, 1, 2], earlier)
    assert answers.wrong is not None
    assert answers.wrong.tolist() == [0, 0, 1, 1]
    right = math.log(1 + 2 * math.exp(-9))
    assert answers.losses.tolist() == pytest.approx([right, right, right + 9, math.inf], rel=1e-5, abs=1e-6)
    # a: 1 of 1; b: 1 right, 2 targets, 2 answers; new: a target never answered; old: an answer never right.
    assert answers.macro_f1 == pytest.approx((1.0 + 0.5 + 0.0 + 0.0) / 4)


def test_labels_are_matched_by_name_and_one_that_is_gone_is_a_wrong_answer() -> None:
    earlier = baseline(LabelOutputs(names=("b", "old")), [[9.0, -9], [9.0, 9], [-9.0, -9]])
    answers = judged(LabelOutputs(names=("a", "b")), [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], earlier)
    assert answers.wrong is not None
    assert answers.wrong.tolist() == [0, 1, 1]
    assert answers.losses[0] == pytest.approx(2 * math.log(1 + math.exp(-9)) / 3, abs=1e-6)
    assert math.isfinite(answers.losses[1])
    assert answers.losses[2] == math.inf


def test_numbers_are_judged_in_this_jobs_unit_whatever_the_earlier_one_learnt_in() -> None:
    earlier = baseline(NumberOutputs(names=("x",), mean=(100.0,), deviation=(50.0,)), [[0.0], [1.0]])
    ours = NumberOutputs(names=("x",), mean=(10.0,), deviation=(2.0,))
    answers = judged(ours, [[(99.0 - 10) / 2], [(153.0 - 10) / 2]], earlier)
    assert answers.losses.tolist() == pytest.approx([1.0, 9.0], rel=1e-4)
    assert answers.mean_absolute_error == pytest.approx(2.0, rel=1e-5)
    assert answers.predicted is not None
    assert answers.predicted.ravel().tolist() == pytest.approx([100.0, 150.0], rel=1e-6)


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (baseline(LabelOutputs(names=("a",)), []), "answers with labels, this job with classes"),
        (
            baseline(ClassOutputs(names=("a", "b")), [], (Column(name="n", kind=ColumnKind.TEXT),)),
            'column "n" as text, this job as number',
        ),
        (
            baseline(ClassOutputs(names=("a", "b")), [], (Column(name="m", kind=ColumnKind.NUMBER),)),
            'column "m", which is not an input of this job',
        ),
    ],
)
def test_an_earlier_model_that_says_something_else_is_refused(earlier: Any, message: str) -> None:
    with pytest.raises(TrainingFailed, match=message) as caught:
        judged(ClassOutputs(names=("a", "b")), [0], earlier)
    assert caught.value.error.field == "evaluation.baseline_job_id"


def test_a_language_model_with_the_same_tokens_answers_the_encoded_rows_and_windows_join_their_row() -> None:
    table = nn.Embedding(3, 3)
    table.weight = nn.Parameter(torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]]))
    earlier = baseline(TokenOutputs(3), [])
    earlier.module = table
    inputs = torch.tensor([[0, 1], [2, 2], [0, 0]])
    targets = torch.tensor([[1, 2], [0, -100], [2, 1]])
    held_out = HeldOut(
        split=state_pb2.SPLIT_TEST,
        rows=range(2),  # type: ignore[arg-type]
        encoded=ResidentRows((inputs, targets), np.array([0, 0, 1])),
        categories=None,
        impacts={},
    )
    objective = build_objective(
        spec_pb2.ObjectiveSpec(), TokenOutputs(3), class_counts=None, device=torch.device("cpu")
    )
    answers = baseline_answers(earlier, held_out, objective, TokenOutputs(3))
    assert answers.counted is not None
    assert answers.wrong is not None
    assert answers.counted.tolist() == [3, 2]
    assert answers.wrong.tolist() == [0, 1]
    right = math.log(1 + 2 * math.exp(-9))
    assert answers.losses.tolist() == pytest.approx([right, right + 4.5], abs=1e-6)


def test_language_models_with_different_tokens_cannot_be_compared() -> None:
    earlier = baseline(TokenOutputs(5), [])
    rows = Rows.in_memory([Column(name="n", kind=ColumnKind.NUMBER)], [np.zeros(1)])
    require_comparable(earlier, rows, TokenOutputs(5), earlier.preprocessing)
    with pytest.raises(TrainingFailed, match="splits texts into other tokens"):
        require_comparable(
            earlier,
            rows,
            TokenOutputs(5),
            SimpleNamespace(to_json=lambda: {"kind": "tokens"}),
        )
