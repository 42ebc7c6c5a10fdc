"""The monitor remembers enough, tells sparingly, and goes on after an interruption as if there had been none."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from tests.unit.synthetic_signals import evaluation, facts, falling_loss, first_batch, probes, steps

from gradsight_insight import attribution
from gradsight_insight.evaluation_history import NEWEST_WITH_ROWS
from gradsight_insight.findings import Moment, Register
from gradsight_insight.json_values import packed, unpacked
from gradsight_insight.kinds import FindingKind, Number, Observation
from gradsight_insight.monitor import Monitor
from gradsight_insight.rings import MOST_BLOCKS, LossBlocks
from gradsight_insight.signals import Probes, State, Steps

NAMES = ("dead_units", "learning_rate_too_high", "learning_rate_too_low", "divergence", "leakage")
TEST_KINDS: Mapping[str, FindingKind] = {
    name: FindingKind(
        code="FM-00", name=name, title=name, severity="warning", you_see="", mechanism="", rule="",
        look_alikes=(), actions=("act",), gradsight_does="", sources=(),
    )
    for name in NAMES
}  # fmt: skip


def observation(
    kind: str = "divergence", observed: float = 1.0, step: int = 10, **changes: Any
) -> Observation:
    seen = Observation(
        kind=kind, first_step=step, last_step=step, evidence=(Number(name="figure", observed=observed),),
        confidence=0.9, explanation="so it is",
    )  # fmt: skip
    return replace(seen, **changes)


def look(
    register: Register, *observations: Observation, probe: int = 0, evaluation: int = 0, **causes: str
) -> list[tuple[str, str]]:
    changes = register.take_in(
        observations,
        {(consequence, ""): (cause, "") for consequence, cause in causes.items()},
        TEST_KINDS,
        Moment(step=10 * probe, probes=probe, evaluations=evaluation),
    )
    return [(change.change, change.finding.finding_id) for change in changes]


def test_a_finding_opens_once_and_closes_after_a_window() -> None:
    register = Register()
    assert look(register, observation(), probe=1) == [("opened", "divergence-1")]
    assert look(register, observation(step=20), probe=2) == []
    assert register.findings[0].last_step == 20
    assert look(register, probe=21) == []
    assert look(register, probe=22) == [("closed", "divergence-1")]
    assert look(register, probe=60) == []
    assert look(register, observation(step=700), probe=70) == [("opened", "divergence-1")]
    assert register.findings[0].first_step == 10


def test_three_evaluations_close_as_a_window_does() -> None:
    register = Register()
    look(register, observation(), evaluation=1)
    assert look(register, evaluation=3) == []
    assert look(register, evaluation=4) == [("closed", "divergence-1")]


def test_small_and_frequent_changes_are_not_told() -> None:
    register = Register()
    look(register, observation(observed=1.0), probe=1)
    assert look(register, observation(observed=9.0), probe=2) == []
    assert look(register, observation(observed=1.2), probe=30) == []
    assert look(register, observation(observed=9.0), probe=31) == [("updated", "divergence-1")]
    assert look(register, observation(observed=9.0, severity="critical"), probe=32) == [
        ("updated", "divergence-1")
    ]
    assert look(register, observation(observed=math.nan, severity="critical"), probe=80) != []
    assert look(register, observation(observed=math.nan, severity="critical"), probe=120) == []


def test_a_cause_is_told_before_its_consequence_and_named_in_it() -> None:
    register = Register()
    changes = look(register, observation(), observation("dead_units"), probe=1, divergence="dead_units")
    assert changes == [("opened", "dead_units-1"), ("opened", "divergence-1")]
    consequence = next(finding for finding in register.findings if finding.kind == "divergence")
    assert consequence.cause_finding_id == "dead_units-1"


def test_a_consequence_learns_its_cause_later() -> None:
    register = Register()
    look(register, observation(), probe=1)
    changes = look(register, observation(), observation("dead_units"), probe=2, divergence="dead_units")
    assert changes == [("opened", "dead_units-1"), ("updated", "divergence-1")]


def test_dead_units_explain_a_learning_rate_that_looks_wrong() -> None:
    found = attribution.causes(
        {("learning_rate_too_low", ""): 5, ("dead_units", "hidden"): 9, ("leakage", ""): 0}
    )
    assert found == {("learning_rate_too_low", ""): ("dead_units", "hidden")}


def test_too_large_steps_that_were_there_first_explain_dead_units() -> None:
    first = attribution.causes({("learning_rate_too_high", ""): 5, ("dead_units", "hidden"): 9})
    assert first == {("dead_units", "hidden"): ("learning_rate_too_high", "")}
    later = attribution.causes({("learning_rate_too_high", ""): 12, ("dead_units", "hidden"): 9})
    assert later == {("learning_rate_too_high", ""): ("dead_units", "hidden")}


def test_what_was_there_first_explains_what_it_can_also_be_explained_by() -> None:
    first = attribution.causes({("saturated_activations", "a"): 10, ("dead_units", "b"): 100})
    assert first == {("dead_units", "b"): ("saturated_activations", "a")}
    later = attribution.causes({("saturated_activations", "a"): 100, ("dead_units", "b"): 100})
    assert later == {("saturated_activations", "a"): ("dead_units", "b")}


def test_decay_explains_what_weights_that_fade_away_look_like_also_when_that_was_seen_first() -> None:
    since = {
        ("dead_units", "hidden"): 20,
        ("learning_rate_too_high", ""): 10,
        ("vanishing_gradient", "hidden"): 30,
        ("not_learning", ""): 40,
    }
    for step in (1, 200):
        found = attribution.causes({**since, ("excessive_decay", ""): step})
        assert found == dict.fromkeys(since, ("excessive_decay", ""))
    assert attribution.causes({("bad_initialization", ""): 0, ("excessive_decay", ""): 1}) == {}
    double = attribution.causes({("loss_contract", ""): 1, ("excessive_decay", ""): 1})
    assert double == {("excessive_decay", ""): ("loss_contract", "")}


def test_the_layer_that_died_first_explains_the_others() -> None:
    found = attribution.causes({("dead_units", "a"): 90, ("dead_units", "b"): 30})
    assert found == {("dead_units", "a"): ("dead_units", "b")}
    assert attribution.causes({("weak_category", "a"): 90, ("weak_category", "b"): 30}) == {}


def test_a_cause_that_is_over_stays_the_cause() -> None:
    register = Register()
    look(register, observation("dead_units"), observation(), probe=1, divergence="dead_units")
    assert look(register, observation(), probe=22) == [("closed", "dead_units-1")]
    assert [finding.cause_finding_id for finding in register.findings] == ["dead_units-1", ""]


def test_every_kind_has_a_place_and_explains_kinds_that_exist() -> None:
    assert len(set(attribution.ORDER)) == len(attribution.ORDER)
    for cause, consequences in attribution.EXPLAINS.items():
        assert {cause, *consequences} <= set(attribution.ORDER)
        assert len(set(consequences)) == len(consequences)
        assert cause not in consequences


@pytest.mark.parametrize(
    "value", [1.5, -math.inf, None, "x", np.array([1.5, math.nan]), np.arange(3), np.eye(3) > 0]
)
def test_values_survive_json(value: Any) -> None:
    again = unpacked(json.loads(json.dumps(packed(value), allow_nan=False)))
    np.testing.assert_array_equal(again, value)
    if isinstance(value, np.ndarray):
        assert again.dtype == value.dtype


def test_blocks_hold_the_whole_run_in_equal_lengths() -> None:
    blocks = LossBlocks()
    loss = np.arange(12_345, dtype=float)
    for first in range(0, len(loss), 37):
        blocks.add(steps(loss[first : first + 37], first=first + 1))
    assert len(blocks.loss) < MOST_BLOCKS
    assert set(np.diff(blocks.step)) == {blocks.length}
    np.testing.assert_allclose(blocks.loss, blocks.step - (blocks.length + 1) / 2)


def test_blocks_leave_out_what_was_not_finite_or_skipped() -> None:
    blocks = LossBlocks()
    loss = np.array([1.0, math.nan, 9.0, 3.0, *[2.0] * 6, *[math.inf] * 10])
    skipped = np.arange(20) == 2
    blocks.add(steps(loss, skipped=skipped))
    np.testing.assert_allclose(blocks.loss, [2.0, math.nan])


def part(columns: Any, first: int, last: int) -> Any:
    return type(columns)(
        **{field.name: getattr(columns, field.name)[first:last] for field in fields(columns)}
    )


def feed(monitor: Monitor, first: int, last: int, all_steps: Steps, all_probes: Probes) -> list[Any]:
    changes: list[Any] = []
    for start in range(first, last, 50):
        if start == 0:
            monitor.note_first_batch(first_batch())
        monitor.add_steps(part(all_steps, start, start + 50))
        monitor.add_probe(part(all_probes, start // 10, start // 10 + 5))
        if start % 200 == 150:
            monitor.add_evaluation(evaluation(start + 50, loss=1.0 + start / 1000))
        changes += monitor.look()
    return changes


class Watchful:
    """Finds something in every signal, so that a lost one shows."""

    kinds: Sequence[FindingKind] = tuple(TEST_KINDS.values())
    at_evaluations = False

    def __call__(self, signals: Any, thresholds: Any) -> Sequence[Observation]:
        numbers = {
            "divergence": float(np.nansum(signals.steps.loss)),
            "dead_units": float(np.nansum(signals.probes.update_ratio)),
            "learning_rate_too_high": float(np.nansum(signals.block_loss)) * (signals.step % 500 < 200),
            "learning_rate_too_low": float(sum(seen.loss for seen in signals.evaluations)),
            "leakage": float(sum(seen.rows.losses.sum() for seen in signals.evaluations if seen.rows)),
        }
        return [observation(kind, value, step=signals.step) for kind, value in numbers.items() if value]


@pytest.fixture
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradsight_insight.monitor.DETECTORS", [Watchful()])
    monkeypatch.setattr("gradsight_insight.monitor.KINDS", TEST_KINDS)


@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("interrupted_at", [0, 650, 1000])
def test_a_restored_monitor_finds_what_the_unbroken_one_does(interrupted_at: int) -> None:
    loss = falling_loss(2000)
    loss[[300, 777]] = math.nan
    all_steps, all_probes = steps(loss), probes(loss[9::10])
    unbroken = Monitor(facts())
    expected = feed(unbroken, 0, 2000, all_steps, all_probes)

    before = Monitor(facts(first_batch=None))
    seen = feed(before, 0, interrupted_at, all_steps, all_probes)
    state: State = json.loads(json.dumps(before.state(), allow_nan=False))
    after = Monitor(facts(first_batch=None), state=state)
    seen += feed(after, interrupted_at, 2000, all_steps, all_probes)
    assert repr(seen) == repr(expected)
    assert json.dumps(after.state()) == json.dumps(unbroken.state())
    assert {change.change for change in seen} == {"opened", "updated", "closed"}


@pytest.mark.parametrize("interrupted_at", [450, 1100])
def test_an_interrupted_run_that_breaks_has_the_same_findings(interrupted_at: int) -> None:
    loss = falling_loss(2000)
    loss[1000:1500] = 30.0
    loss[700] = math.nan
    nonfinite = np.arange(2000) == 700
    all_steps = steps(loss, nonfinite=nonfinite)
    frozen = np.full((200, 3), 1e-3) * np.array([1, 0, 1])
    all_probes = probes(loss[9::10], update_ratio=frozen, gradient_norm=0.5 * (frozen > 0))
    unbroken = Monitor(facts())
    expected = feed(unbroken, 0, 2000, all_steps, all_probes)

    before = Monitor(facts())
    seen = feed(before, 0, interrupted_at, all_steps, all_probes)
    state: State = json.loads(json.dumps(before.state(), allow_nan=False))
    after = Monitor(facts(), state=state)
    seen += feed(after, interrupted_at, 2000, all_steps, all_probes)
    assert repr(seen) == repr(expected)
    told = {(change.change, change.finding.kind) for change in seen}
    assert {("opened", "frozen_parameters"), ("opened", "nonfinite_values"), ("opened", "divergence")} <= told
    assert {("closed", "nonfinite_values"), ("closed", "divergence")} <= told
    assert (
        next(change.finding.severity for change in seen if change.finding.kind == "divergence") == "critical"
    )


def test_only_rows_that_tests_need_are_kept() -> None:
    monitor = Monitor(facts())
    for number in range(300):
        monitor.add_evaluation(evaluation(number + 1, loss=1.0, kept=number == 3))
    evaluations = monitor.signals.evaluations
    with_rows = [seen.step for seen in evaluations if seen.rows is not None]
    assert with_rows == [4, *range(301 - NEWEST_WITH_ROWS, 301)]
    assert len(evaluations) == 256
    assert monitor.signals.kept is evaluations[0]


def test_windows_begin_anew_at_an_event() -> None:
    monitor = Monitor(facts())
    loss = falling_loss(400)
    feed(monitor, 0, 400, steps(loss), probes(loss[9::10]))
    monitor.note_event("rolled_back", 390)
    assert monitor.signals.steps.step.tolist() == list(range(391, 401))
    assert monitor.signals.probes.step.tolist() == [400]
    assert monitor.signals.block_step.tolist() == [400]
    monitor.note_event("learning_rate_changed", 400)
    assert not len(monitor.signals.steps)
    assert not len(monitor.signals.probes)


def test_what_does_not_exist_is_refused_with_its_nearest() -> None:
    with pytest.raises(ValueError, match="kind of finding 'dead_unit'"):
        Monitor(facts(), disabled=["dead_unit"])
    with pytest.raises(ValueError, match="version 7"):
        Monitor(facts(), state={"version": 7})
