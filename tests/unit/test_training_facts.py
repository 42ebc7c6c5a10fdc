"""What is known of a run before its first step: inputs, priors, the sample of train; and how fast it goes."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gradsight.v1 import spec_pb2
from gradsight_models import BuiltinSource, ClassOutputs, NumberOutputs
from gradsight_models.columns import Column, ColumnKind, Reading
from gradsight_worker.training.data.encoding import ResidentRows
from gradsight_worker.training.input_facts import input_facts, input_figures
from gradsight_worker.training.objectives import ClassObjective, build_objective
from gradsight_worker.training.pace import Pace
from gradsight_worker.training.prior import training_prior_loss
from gradsight_worker.training.schedules import build_schedule
from gradsight_worker.training.train_sample import TrainSample

CPU = torch.device("cpu")


def prepared(*inputs: torch.Tensor, kind: str = "tensors", names: tuple[str, ...] = ("signal",)) -> Any:
    columns = tuple(Column(name=name, kind=ColumnKind.TENSOR) for name in names)
    return SimpleNamespace(
        train=ResidentRows((*inputs, torch.zeros(len(inputs[0]), dtype=torch.int64))),
        preprocessing=SimpleNamespace(kind=kind),
        source=SimpleNamespace(reads=Reading.TENSORS, input_names=names),
        splits=SimpleNamespace(train=SimpleNamespace(columns=columns)),
    )


def test_numbers_have_mean_deviation_and_largest() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, -6.0]])
    (facts,) = input_facts(prepared(values))
    assert (facts.name, facts.mean, facts.largest) == ("signal", 0.0, 6.0)
    assert facts.deviation == pytest.approx(values.numpy().std())
    assert facts.neighbour_correlation is None
    assert input_figures(facts).largest == 6.0


def test_numbers_that_are_none_are_counted_and_left_out() -> None:
    (facts,) = input_facts(prepared(torch.tensor([[1.0, math.nan], [math.inf, 3.0]])))
    assert (facts.nonfinite_ratio, facts.mean, facts.largest) == (0.5, 2.0, 3.0)
    (none,) = input_facts(prepared(torch.full((3, 2), math.nan)))
    assert (none.nonfinite_ratio, none.mean) == (1.0, None)


def test_neighbours_of_a_signal_are_correlated_and_those_of_shuffled_places_are_not() -> None:
    torch.manual_seed(0)
    smooth = torch.randn(500, 40).cumsum(dim=1)
    (signal,) = input_facts(prepared(smooth))
    (shuffled,) = input_facts(prepared(torch.randn(500, 40)))
    (table,) = input_facts(prepared(smooth, kind="table"))
    assert signal.neighbour_correlation is not None
    assert signal.neighbour_correlation > 0.8
    assert shuffled.neighbour_correlation == pytest.approx(0.0, abs=0.05)
    assert table.neighbour_correlation is None


def test_rows_that_are_all_the_same_say_nothing() -> None:
    row = torch.randn(1, 5)
    same, nearly = row.repeat(40, 1), row.repeat(40, 1)
    nearly[30, 2] += 1e-3
    assert input_facts(prepared(same))[0].constant
    assert not input_facts(prepared(nearly))[0].constant
    assert input_facts(prepared(torch.ones(40, 5, dtype=torch.int32), kind="tokens"))[0].constant


def test_padding_counts_for_models_that_read_it() -> None:
    tokens = torch.tensor([[5, 0, 0, 0], [6, 7, 0, 0]], dtype=torch.int32)
    read = prepared(tokens, kind="tokens")
    (facts,) = input_facts(read)
    assert facts.padding_ratio == 5 / 8
    assert facts.mean is None
    read.source = BuiltinSource("gpt", {})
    assert input_facts(read)[0].padding_ratio is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_prior_of_training_is_the_lowest_loss_of_a_constant_answer(
    smoothing: float, balanced: bool
) -> None:
    counts = np.array([6, 3, 1])
    targets = torch.from_numpy(np.repeat(np.arange(3), counts))
    spec = spec_pb2.ObjectiveSpec()
    spec.cross_entropy.label_smoothing = smoothing
    if balanced:
        spec.cross_entropy.class_weighting = spec_pb2.CLASS_WEIGHTING_BALANCED
    outputs = ClassOutputs(names=("a", "b", "c"))
    objective = build_objective(spec, outputs, class_counts=counts, device=CPU)
    found = training_prior_loss(objective, outputs, ResidentRows((targets[:, None], targets)), counts)
    scores = torch.zeros(3, requires_grad=True)
    descent = torch.optim.LBFGS([scores], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        descent.zero_grad()
        cost = objective.loss(scores.expand(len(targets), 3), targets)
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    descent.step(loss)  # type: ignore[no-untyped-call]
    assert found == pytest.approx(loss().item(), rel=1e-4)


def test_the_prior_of_numbers_is_in_the_training_losss_unit() -> None:
    outputs = NumberOutputs(names=("price",), mean=(100.0,), deviation=(20.0,))
    objective = build_objective(spec_pb2.ObjectiveSpec(), outputs, class_counts=None, device=CPU)
    targets = torch.tensor([[-1.0], [1.0]])
    assert training_prior_loss(objective, outputs, ResidentRows((targets, targets)), None) == pytest.approx(
        1.0
    )


def test_class_prior_without_weights_is_the_entropy() -> None:
    assert ClassObjective().constant_loss(np.array([5, 5, 0])) == pytest.approx(math.log(2))


def test_the_sample_of_train_is_judged_as_often_as_its_rows_allow() -> None:
    sample = TrainSample(prepared=None, rows=100, batch_size=50, seed=0)  # type: ignore[arg-type]
    due = [step for step in range(5, 101, 5) if sample.due(step, before=step - 5, total_steps=97)]
    # 100 rows for every 1,000 that were trained on: every 20 steps.
    assert due == [20, 40, 60, 80, 100]
    assert sample.due(97, before=95, total_steps=97)


def test_pauses_are_no_steps_and_a_long_step_shows() -> None:
    pace = Pace(lambda: 0.5)
    for now in (0.0, 0.1, 0.2, 0.3):
        pace.step_ended(now)
    pace.resume(100.0)
    pace.step_ended(101.0)
    timing = pace.timing(5, 10.0)
    assert timing.longest_step_seconds == pytest.approx(1.0)
    assert timing.step_seconds == pytest.approx(1.3 / 5)
    assert timing.data_wait_ratio == pytest.approx(0.05)
    assert math.isnan(Pace(lambda: 0.0).timing(3, 1.0).step_seconds)


@pytest.mark.parametrize(("shape", "steps"), [("constant", 10), ("cosine", 10), ("one_cycle", 10 + 27)])
def test_the_warm_up_ends_at_the_largest_rate(shape: str, steps: int) -> None:
    spec = spec_pb2.ScheduleSpec(warmup_fraction=0.1)
    getattr(spec, shape).SetInParent()
    spec.one_cycle.rise_fraction = 0.3 if shape == "one_cycle" else 0.0
    if shape != "one_cycle":
        spec.ClearField("one_cycle")
        getattr(spec, shape).SetInParent()
    schedule = build_schedule(spec, peak=1.0, total_steps=100)
    assert schedule.warm_up_steps == steps
    rates = [schedule.rate(step) for step in range(1, 101)]
    assert rates[schedule.warm_up_steps] == pytest.approx(max(rates), rel=1e-3)
