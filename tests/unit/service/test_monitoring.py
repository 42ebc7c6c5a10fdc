"""Detectors and thresholds of a spec are those of the catalogue; what is none is refused with the nearest name."""

import math

import pytest

from gradsight.v1 import spec_pb2
from gradsight_insight.catalogue import KINDS as CATALOGUE
from gradsight_insight.kinds import FindingKind, Threshold
from gradsight_service.monitoring import monitoring_violations


def kind(name: str, **thresholds: Threshold) -> FindingKind:
    return FindingKind(
        code="FM-99",
        name=name,
        title=name,
        severity="info",
        you_see="",
        mechanism="",
        rule="",
        look_alikes=(),
        actions=(),
        gradsight_does="",
        sources=(),
        thresholds=thresholds,
    )


PATIENCE = Threshold(default=5, low=1, high=100, meaning="Evaluations without progress.")
KINDS = {"overfitting": kind("overfitting", patience=PATIENCE), "plateau": kind("plateau")}


def violations(**detectors: spec_pb2.DetectorSpec) -> list[tuple[str, str]]:
    monitoring = spec_pb2.MonitoringSpec(detectors=detectors)
    return [(found.path, found.message) for found in monitoring_violations(monitoring, KINDS)]


def with_thresholds(**thresholds: float) -> spec_pb2.DetectorSpec:
    return spec_pb2.DetectorSpec(thresholds=thresholds)


def test_known_detectors_can_be_changed_and_switched_off() -> None:
    changed = with_thresholds(patience=1)
    assert violations(overfitting=changed, plateau=spec_pb2.DetectorSpec(disabled=True)) == []


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    assert violations(overfiting=spec_pb2.DetectorSpec(), zzz=with_thresholds(a=1)) == [
        (
            'monitoring.detectors["overfiting"]',
            'got "overfiting", no kind of finding, nearest is "overfitting"',
        ),
        ('monitoring.detectors["zzz"]', 'got "zzz", no kind of finding, allowed "overfitting", "plateau"'),
    ]


def test_an_unknown_threshold_is_refused_with_the_nearest() -> None:
    assert violations(overfitting=with_thresholds(patiance=2), plateau=with_thresholds(patience=2)) == [
        (
            'monitoring.detectors["overfitting"].thresholds["patiance"]',
            'got "patiance", no threshold of overfitting, nearest is "patience"',
        ),
        (
            'monitoring.detectors["plateau"].thresholds["patience"]',
            'got "patience", no threshold of plateau, allowed none',
        ),
    ]


@pytest.mark.parametrize(("value", "got"), [(0.5, "0.5"), (101, "101"), (math.nan, "nan"), (math.inf, "inf")])
def test_a_threshold_out_of_its_range_is_refused_with_what_it_means(value: float, got: str) -> None:
    (found,) = violations(overfitting=with_thresholds(patience=value))
    assert found == (
        'monitoring.detectors["overfitting"].thresholds["patience"]',
        f"got {got}, allowed 1 to 100, by default 5: Evaluations without progress.",
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_threshold_of_the_catalogue_can_be_said_as_it_is_and_not_beyond_its_range(name: str) -> None:
    thresholds = CATALOGUE[name].thresholds
    defaults = {threshold: about.default for threshold, about in thresholds.items()}
    sound = spec_pb2.MonitoringSpec(detectors={name: with_thresholds(**defaults)})
    assert list(monitoring_violations(sound)) == []
    beyond = {threshold: about.high * 2 + 1 for threshold, about in thresholds.items()}
    broken = spec_pb2.MonitoringSpec(detectors={name: with_thresholds(**beyond)})
    assert [found.path for found in monitoring_violations(broken)] == [
        f'monitoring.detectors["{name}"].thresholds["{threshold}"]' for threshold in sorted(thresholds)
    ]
