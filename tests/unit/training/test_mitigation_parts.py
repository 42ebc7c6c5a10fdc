"""What repairs are made of: spikes skipped on the device, snapshots, new weights, the paired test on held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.unit.synthetic_signals import LAYERS, probes, signals, steps
from torch import nn

from gradsight.v1 import spec_pb2
from gradsight_insight.categories import Categories
from gradsight_insight.findings import Finding
from gradsight_worker.training.mitigation.held_out_test import HeldOutAnswers, held_out_test
from gradsight_worker.training.mitigation.reinitialization import reinitialize
from gradsight_worker.training.mitigation.remedies import LEAST_GROWTH, Action, Remedy, choose, growth
from gradsight_worker.training.mitigation.repairs import Repairs
from gradsight_worker.training.mitigation.snapshots import GoodSnapshots, Snapshot
from gradsight_worker.training.mitigation.spikes import FEWEST, MOST_IN_A_ROW, STEPS, SpikeGuard

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper

CPU = torch.device("cpu")


def judged(guard: SpikeGuard, loss: float, norm: float = 1.0) -> bool:
    spike = torch.zeros(())
    finite = float(not np.isfinite(loss + norm))
    guard.judge(torch.tensor(loss), torch.tensor(norm), torch.tensor(finite), spike)
    return bool(spike)


def noisy(count: int, *, seed: int = 0) -> list[float]:
    dice = np.random.default_rng(seed)
    return [2.0 + 0.1 * float(value) for value in dice.standard_normal(count)]


def test_no_ordinary_step_is_a_spike() -> None:
    guard = SpikeGuard(CPU, prior_loss=2.3)
    norms = (1.0 + 0.2 * np.random.default_rng(1).standard_normal(600)).tolist()
    assert not any(judged(guard, loss, norm) for loss, norm in zip(noisy(600), norms, strict=True))


@pytest.mark.parametrize(("loss", "norm"), [(9.0, 1.0), (2.0, 80.0)])
def test_a_jump_of_loss_or_gradient_is_skipped_and_forgotten(loss: float, norm: float) -> None:
    guard = SpikeGuard(CPU, prior_loss=2.3)
    for value in noisy(STEPS):
        judged(guard, value)
    assert judged(guard, loss, norm)
    assert guard.state["ring"][0].sum() == STEPS - 1  # its place counts as empty
    assert not judged(guard, 2.0)
    assert judged(guard, loss, norm)


def test_nothing_is_a_spike_before_there_is_something_to_compare_with() -> None:
    guard = SpikeGuard(CPU, prior_loss=2.3)
    assert not any(judged(guard, 50.0 * (place % 2)) for place in range(FEWEST))


def test_a_small_jump_of_a_small_loss_is_no_spike() -> None:
    guard = SpikeGuard(CPU, prior_loss=2.3)
    for place in range(STEPS):
        judged(guard, 1e-3 + 1e-5 * (place % 3))
    assert not judged(guard, 0.1)
    assert judged(guard, 1.0)


def test_what_goes_on_is_no_spike() -> None:
    guard = SpikeGuard(CPU, prior_loss=2.3)
    for value in noisy(STEPS):
        judged(guard, value)
    skipped = [judged(guard, 9.0) for _ in range(40)]
    assert skipped[: MOST_IN_A_ROW + 1] == [True] * MOST_IN_A_ROW + [False]
    assert sum(skipped) <= 12
    assert not any(skipped[20:])


def test_steps_that_are_not_finite_leave_no_trace() -> None:
    guard = SpikeGuard(CPU, prior_loss=2.3)
    for value in noisy(STEPS):
        judged(guard, value)
    assert not judged(guard, float("nan"))
    assert not judged(guard, float("inf"))
    assert not any(tensor.isnan().any() for tensor in guard.state.values())
    assert not judged(guard, 2.0)
    assert judged(guard, 9.0)


def with_average(stepper: Callable[..., Stepper]) -> Stepper:
    torch.manual_seed(3)
    spec = spec_pb2.JobSpec(
        optimizer=spec_pb2.OptimizerSpec(adamw=spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8))
    )
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.max_gradient_norm = 1.0
    spec.optimizer.average_decay = 0.9
    model = nn.Sequential(nn.Linear(7, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return stepper(model, spec)


def test_going_back_restores_everything_but_the_step(stepper: Callable[..., Stepper]) -> None:
    made = with_average(stepper)
    for _ in range(5):
        made.step()
    then, snapshot = made.tensors(), Snapshot.of(made.state)
    for _ in range(5):
        made.step()
    assert not made.tensors()["values"].equal(then["values"])
    snapshot.put_into(made.state)
    assert made.state.step == 10
    for name, tensor in made.tensors().items():
        if not name.startswith("kept."):
            assert tensor.equal(then[name]), name


def test_good_snapshots_are_few_and_keep_the_beginning() -> None:
    good = GoodSnapshots()
    for step in (0, 50, 100, 150, 200, 250):
        good.add(Snapshot(step=step, tensors={}))
    assert [snapshot.step for snapshot in good.snapshots] == [0, 150, 200, 250]
    assert [good.before(step).step for step in (300, 250, 151, 10)] == [250, 200, 150, 0]
    good.drop_after(150)
    assert good.newest_step == 150
    with pytest.raises(KeyError, match="no snapshot of step 200"):
        good.at(200)


def test_new_weights_are_as_wide_as_their_layer_asks_for(stepper: Callable[..., Stepper]) -> None:
    made = with_average(stepper)
    for _ in range(3):
        made.step()
    with torch.no_grad():
        made.parameters.values.zero_()
    reinitialize(made.model, made.state, names=(), activations={"0": "relu"}, seed=1)
    weights = dict(made.model.named_parameters())
    assert weights["0.weight"].std().item() == pytest.approx((2 / 7) ** 0.5, rel=0.2)
    assert weights["3.weight"].std().item() == pytest.approx((1 / 16) ** 0.5, rel=0.3)
    assert (weights["1.weight"] == 1).all()
    assert not weights["0.bias"].any()
    assert all(not tensor.any() for tensor in made.state.optimizer.state.values())
    assert made.state.average is not None
    assert made.state.average.values.equal(made.parameters.values)
    again = made.parameters.values.clone()
    reinitialize(made.model, made.state, names=(), activations={"0": "relu"}, seed=1)
    assert again.equal(made.parameters.values)


def test_only_the_named_layers_begin_anew(stepper: Callable[..., Stepper]) -> None:
    made = with_average(stepper)
    before = {name: value.clone() for name, value in made.model.named_parameters()}
    reinitialize(made.model, made.state, names={"3.weight", "3.bias"}, activations={}, seed=1)
    changed = {name for name, value in made.model.named_parameters() if not value.equal(before[name])}
    assert changed == {"3.weight", "3.bias"}


def test_recurrent_and_embedded_weights_are_drawn_by_their_own_rules(stepper: Callable[..., Stepper]) -> None:
    model = nn.ModuleDict({"words": nn.Embedding(50, 16), "gru": nn.GRU(16, 8), "out": nn.Linear(8, 3)})
    spec = spec_pb2.JobSpec(optimizer=spec_pb2.OptimizerSpec(sgd=spec_pb2.Sgd(momentum=0.9)))
    made = stepper(model, spec)
    reinitialize(made.model, made.state, names=(), activations={}, seed=2)
    weights = dict(made.model.named_parameters())
    for gate in weights["gru.weight_hh_l0"].view(3, 8, 8):
        assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)
    assert weights["words.weight"].std().item() == pytest.approx(0.25, rel=0.15)


def answers_of(losses: object, wrong: object) -> HeldOutAnswers:
    return HeldOutAnswers(losses=np.asarray(losses, np.float32), wrong=np.asarray(wrong, bool))


def test_better_and_worse_are_told_apart_row_by_row() -> None:
    dice = np.random.default_rng(0)
    losses, wrong = dice.random(400), dice.random(400) < 0.5
    now = answers_of(losses - 0.1 * dice.random(400), wrong & (dice.random(400) < 0.7))
    test = held_out_test(answers_of(losses, wrong), now, None, prior_loss=9.0)
    assert test.better
    assert test.not_worse
    back = held_out_test(now, answers_of(losses, wrong), None, prior_loss=9.0)
    assert not back.better
    assert not back.not_worse
    same = held_out_test(now, now, None, prior_loss=9.0)
    assert (same.loss_z, same.error_z) == (0.0, 0.0)
    assert same.not_worse
    assert not same.better


def test_any_number_is_better_than_none() -> None:
    before = answers_of(np.full(50, np.nan), np.ones(50))
    assert held_out_test(before, answers_of(np.full(50, 2.0), np.ones(50)), None, prior_loss=9.0).better
    assert not held_out_test(answers_of(np.full(50, 2.0), np.ones(50)), before, None, prior_loss=9.0).better


def test_a_category_that_fell_stops_a_repair_that_helps_the_others() -> None:
    categories = Categories.of(np.array(["a"] * 200 + ["b"] * 40 + ["c"] * 10))
    before, now = np.ones(250, bool), np.zeros(250, bool)
    before[200:], now[200:240] = False, True
    now[240:] = True
    test = held_out_test(
        answers_of(np.ones(250), before), answers_of(np.zeros(250), now), categories, prior_loss=9.0
    )
    assert test.worse_categories == ("b",)
    assert test.error_z < 0
    assert not test.not_worse


def test_answering_all_rows_alike_is_no_merit_of_a_category() -> None:
    categories = Categories.of(np.array(["a"] * 200 + ["b"] * 40))
    before, now = np.ones(240, bool), np.zeros(240, bool)
    before[200:], now[200:] = False, True
    losses = answers_of(np.full(240, 1.6), before), answers_of(np.full(240, 0.4), now)
    assert held_out_test(*losses, categories, prior_loss=9.0).worse_categories == ("b",)
    assert held_out_test(*losses, categories, prior_loss=1.6).not_worse


# Learning rates that are raised.


@pytest.mark.parametrize(
    ("largest", "factor"),
    [(1e-7, 100.0), (5e-5, 20.0), (1e-3, 4.0), (5e-3, 4.0), (1e-2, 3.0), (2e-2, LEAST_GROWTH)],
)
def test_a_learning_rate_is_raised_to_usual_updates_at_once_and_never_to_those_that_break_units(
    largest: float, factor: float
) -> None:
    update_ratio = np.full((3, len(LAYERS)), largest / 10)
    update_ratio[:, 1] = largest
    assert growth(probes([2.3] * 3, update_ratio=update_ratio)) == pytest.approx(factor)


def test_a_learning_rate_whose_updates_break_units_is_high_enough() -> None:
    assert growth(probes([2.3] * 3, update_ratio=np.full((3, len(LAYERS)), 0.1))) < LEAST_GROWTH


def test_what_does_not_move_at_all_is_raised_carefully() -> None:
    assert growth(probes([2.3] * 3, update_ratio=np.zeros((3, len(LAYERS))))) == 4.0


# Learning rates that are cut.


def too_high(update: float, *, failed: int = 0, nonfinite: bool = False) -> Remedy:
    """The remedy for steps of which one changed a layer by this share of its weights, after so many failed trials."""
    repairs = Repairs.none_yet(CPU, prior_loss=2.3, norm_limit=None)
    repairs.good.add(Snapshot(step=0, tensors={}))
    repairs.failed = {"learning_rate_too_high": failed} if failed else {}
    finding = Finding(
        finding_id="learning_rate_too_high-1",
        kind="learning_rate_too_high",
        severity="critical",
        subject_kind="run",
        subject="",
        first_step=10,
        last_step=20,
        evidence=(),
        confidence=0.9,
        explanation="",
        actions=(),
        open=True,
        cause_finding_id="",
        page_url="",
    )
    run = signals(
        20,
        steps=steps([2.3] * 20, nonfinite=np.arange(20) > (18 if nonfinite else 20)),
        block_loss=np.array([2.3, 2.3]),
        block_step=np.array([10, 20]),
        probes=probes(
            [2.3] * 2,
            update_ratio=np.array([[update, 1e-3, 1e-3], [update / 2, 1e-3, 1e-3]]),
        ),
    )
    remedy = choose([finding], run, repairs, recipe_changes=False)
    assert remedy is not None
    assert (remedy.action, remedy.restored_step) == (Action.ROLL_BACK, 0)
    return remedy


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"update": 0.02}, 0.1),
        ({"update": 0.06}, 0.05),
        ({"update": 5.0}, 0.01),
        ({"update": 0.06, "nonfinite": True}, 0.01),
        ({"update": 0.06, "failed": 1}, 0.005),
    ],
)
def test_a_learning_rate_is_cut_to_updates_of_a_usual_size(options: dict[str, Any], factor: float) -> None:
    assert too_high(**options).learning_rate_factor == pytest.approx(factor)
