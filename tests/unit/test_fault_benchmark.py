"""The benchmark of faults says what it means: its kinds exist, its tests exist, its rates count what they should."""

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradsight.v1 import event_pb2, state_pb2
from gradsight_insight.catalogue import KINDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in [name for name in sys.modules if name.startswith("_fault") or name == "_published_rules"]:
        del sys.modules[name]


def test_every_kind_that_is_expected_or_mapped_to_a_published_rule_exists() -> None:
    from _fault_list import FAULTS
    from _published_rules import NAMES, RULES

    codes = {kind.code for kind in KINDS.values()}
    for fault in FAULTS:
        assert set(fault.expected) <= KINDS.keys(), fault.name
        assert not fault.repairable or fault.repairable in codes
    assert NAMES.keys() <= KINDS.keys()
    assert {rule for rules in NAMES.values() for rule in rules} <= RULES.keys()


def test_what_is_called_prevented_names_a_test_that_exists() -> None:
    from _fault_prevented import PREVENTED

    for fault in PREVENTED:
        path, _, name = fault.checked.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), fault.checked


def test_the_design_has_five_seeds_in_each_family_and_a_hundred_healthy_runs_that_judge() -> None:
    from _fault_design import FRESH_SEEDS, REPORTED, design

    rows = design()
    assert len({row.key for row in rows}) == len(rows)
    healthy = [row for row in rows if not row.fault and row.family in REPORTED]
    assert len(healthy) >= 100
    for row in rows:
        if row.fault:
            seeds = {other.seed for other in rows if (other.fault, other.family) == (row.fault, row.family)}
            fresh = row.family in REPORTED and row.fault in FRESH_SEEDS
            assert seeds == set(range(10 if fresh else 5))


def line(key: str, **facts: Any) -> dict[str, Any]:
    wrong = np.zeros(400, dtype=bool)
    wrong[: int(facts.pop("error", 0.0) * 400)] = True
    bits = base64.b64encode(np.packbits(wrong).tobytes()).decode()
    found = {"key": key, "findings": [], "published": {}, "test_error": float(wrong.mean())}
    return {**found, "test_wrong": bits, "test_rows": 400, **facts}


def finding(kind: str, **facts: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "subject": "",
        "step": 10,
        "severity": "critical",
        "cause": "",
        "open": True,
        **facts,
    }


def test_a_cause_is_named_by_the_first_alarm_that_is_no_consequence() -> None:
    from _fault_list import NAMED
    from _fault_measures import attributed, detected

    fault = NAMED["dead bias"]
    consequence = finding("not_learning", cause="dead_units")
    flag = finding("plateau", severity="info")
    assert attributed(fault, line("", findings=[flag, consequence, finding("dead_units")]))
    late = line("", findings=[finding("leakage"), finding("dead_units")])
    assert detected(fault, late)
    assert not attributed(fault, late)


def test_a_repair_must_bring_the_run_near_its_twin_and_beyond_the_untreated() -> None:
    from _fault_measures import Results, repair_rate, trials

    start = "dead bias/mlp/digits/0"
    twin = "healthy/mlp/digits/0/watched"

    def rate(untreated: float, repaired: float) -> str:
        lines = {f"{start}/watched": untreated, f"{start}/repaired": repaired, twin: 0.05}
        results = Results({key: line(key, error=error) for key, error in lines.items()})
        found = repair_rate(trials(results, "repaired"))
        return f"{found.count}/{found.of}"

    assert rate(0.9, 0.05) == "1/1"
    assert rate(0.9, 0.2) == "0/1"
    assert rate(0.055, 0.05) == "0/0"


def test_published_rules_read_the_events_of_a_run() -> None:
    from _published_rules import fired

    probe = event_pb2.Probe(step=20, layer_gradient_rms=[1e-9, 1e-2], layer_gradient_norm=[1e-8, 1.0])
    steps = event_pb2.StepsRecorded(
        first_step=1, loss=[2.0] * 10 + [2.5] * 10, gradient_norm=[1.0] * 19 + [float("nan")], probes=[probe]
    )
    evaluation = event_pb2.EvaluationCompleted(split=state_pb2.SPLIT_VALIDATION, step=20, error_ratio=0.9)
    events = [event_pb2.JobEvent(steps_recorded=steps), event_pb2.JobEvent(evaluation_completed=evaluation)]
    found = fired(events)
    assert found["SMD VanishingGradient"] == found["AT vanish"] == 20
    assert found["SMD ExplodingTensor"] == 20
    assert found["SMD LossNotDecreasing"] == 20
    assert "SMD DeadRelu" not in found
    assert fired([]) == {}
