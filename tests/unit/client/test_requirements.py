"""What a result must be: the grammar, and the judgement with its numbers."""

import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradsight
from gradsight import Job, Requirement, _convert
from gradsight.v1 import insight_pb2, job_pb2, state_pb2

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService


def _change(before: int, after: int, verdict: str, rows: int = 100) -> insight_pb2.PairedChange:
    return insight_pb2.PairedChange(
        examples=rows,
        baseline_errors=before,
        errors=after,
        p_value=0.03125,
        level=0.05,
        smallest_detectable_fall=0.06,
        verdict=insight_pb2.ChangeVerdict.Value(f"CHANGE_VERDICT_{verdict}"),
    )


def _message(comparison: str = "MIXED", verdict: str = "CONVERGED") -> job_pb2.Job:
    message = job_pb2.Job(job_id="new", state=state_pb2.JOB_STATE_SUCCEEDED, done=True)
    message.verdict.verdict = insight_pb2.Verdict.Value(f"VERDICT_{verdict}")
    message.verdict.reasons.append("The loss settled.")
    message.verdict.kept_checkpoint_usable = verdict != "DIVERGED"
    test = message.summary.test
    test.examples, test.error_ratio, test.loss, test.macro_f1 = 200, 0.1, 0.4, 0.88
    for name, ratio in (("returns", 0.05), ("sizing", 0.15)):
        test.categories.add(category=name, examples=100, errors=int(ratio * 100), error_ratio=ratio, loss=0.3)
    compared = message.summary.comparison
    compared.baseline_job_id, compared.job_id = "old", "new"
    compared.verdict = insight_pb2.ComparisonVerdict.Value(f"COMPARISON_VERDICT_{comparison}")
    compared.overall.CopyFrom(_change(24, 20, "NO_SIGNIFICANT_CHANGE", rows=200))
    changes = {
        "returns": (12, 5, "IMPROVED"),
        "sizing": (9, 15, "REGRESSED"),
        "rare": (1, 0, "INSUFFICIENT_EVIDENCE"),
    }
    for name, (before, after, said) in changes.items():
        compared.categories.add(category=name, impact=1, change=_change(before, after, said))
    return message


def _job(**said: str) -> Job:
    return _convert.job(_message(**said))


@pytest.mark.parametrize(
    ("text", "comparison", "outcome", "parts"),
    [
        ("no-regression", "IMPROVED", "met", ["improved, all rows 12.0 % → 10.0 % of 200 rows, p 0.03125"]),
        (
            "no-regression",
            "NO_SIGNIFICANT_CHANGE",
            "met",
            ["these rows could have shown a fall of 6.0 points"],
        ),
        ("no-regression", "MIXED", "not_met", ["sizing regressed (9.0 % → 15.0 % of 100 rows"]),
        ("no-regression", "REGRESSED", "not_met", ["is not met: regressed"]),
        ("no-regression", "NOT_COMPARABLE", "cannot_be_judged", ["not comparable with old"]),
        ("improved", "IMPROVED", "met", ["returns improved (12.0 % → 5.0 %"]),
        ("improved", "NO_SIGNIFICANT_CHANGE", "not_met", ["no significant change"]),
        ("improved", "MIXED", "not_met", ["mixed"]),
        ("improved=returns", "MIXED", "met", ["returns improved"]),
        ("improved = returns, sizing", "MIXED", "not_met", ["returns improved", "sizing regressed"]),
        ("improved=rare", "IMPROVED", "cannot_be_judged", ["could have shown only a fall of 6.0 points"]),
        ("no-regression=returns", "MIXED", "met", ["returns improved"]),
        ("no-regression=sizing", "MIXED", "not_met", ["sizing regressed"]),
        ("no-regression=rare", "MIXED", "cannot_be_judged", ["rare has too few rows"]),
        ("improved=retruns", "MIXED", "cannot_be_judged", ["no category retruns", "did you mean returns?"]),
    ],
)
def test_against_the_baseline(text: str, comparison: str, outcome: str, parts: list[str]) -> None:
    result = Requirement.parse(text).check(_job(comparison=comparison))
    assert result.outcome == outcome, result.sentence
    assert result.met is (outcome == "met")
    for part in (text, *parts):
        assert part in result.sentence


@pytest.mark.parametrize(
    ("text", "outcome", "part"),
    [
        ("error<=0.1", "met", "error on test is 10.0 % over 200 rows"),
        ("error < 10%", "not_met", "error on test is 10.0 %"),
        ("error<=1e-1", "met", ""),
        ("error[returns]<=0.05", "met", "error of returns on test is 5.0 % over 100 rows"),
        ("error[sizing]<=5%", "not_met", "15.0 % over 100 rows"),
        ("loss[sizing]<=.5", "met", "loss of sizing on test is 0.3"),
        (
            "error[sizin]<=5%",
            "cannot_be_judged",
            "no category sizin among the test rows; did you mean sizing?",
        ),
        ("macro_f1>=0.9", "not_met", "88.0 %"),
        ("rmse<=3", "cannot_be_judged", "the job's answers have no rmse"),
        ("verdict=converged", "met", "the run is converged: The loss settled"),
        ("verdict=plateaued, converged", "met", ""),
        ("verdict=plateaued", "not_met", "the run is converged"),
        ("verdict!=diverged,overfit", "met", ""),
        ("verdict!=converged", "not_met", ""),
        ("usable", "met", "the kept weights are worth using"),
    ],
)
def test_of_figures_and_the_verdict(text: str, outcome: str, part: str) -> None:
    result = Requirement.parse(text).check(_job())
    assert result.outcome == outcome, result.sentence
    assert part in result.sentence


@pytest.mark.parametrize("text", ["improved", "error<=0.1", "verdict=converged", "usable", "error[x]<1"])
def test_a_job_without_figures_cannot_be_judged(text: str) -> None:
    bare = job_pb2.Job(job_id="bare", state=state_pb2.JOB_STATE_SUCCEEDED)
    assert Requirement.parse(text).check(_convert.job(bare)).outcome == "cannot_be_judged"
    failed = _message()
    failed.state = state_pb2.JOB_STATE_FAILED
    result = Requirement.parse(text).check(_convert.job(failed))
    assert (result.outcome, result.met) == ("cannot_be_judged", False)
    assert "the job is failed" in result.sentence


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "allowed: no-regression"),
        ("better", "allowed: no-regression"),
        ("no_regression", "did you mean no-regression?"),
        ("improvd", "did you mean improved?"),
        ("improved=", "a name is missing"),
        ("improved=a,,b", "a name is missing"),
        ("eror<=0.1", "no figure eror"),
        ("eror<=0.1", "did you mean error?"),
        ("error<=5", "error is a share of 0 to 1; write 0.05 or 5%"),
        ("error=0.1", "allowed: no-regression"),
        ("error<=x", "allowed: no-regression"),
        ("macro_f1[returns]>=0.9", "macro_f1 is not known by category, allowed: error, loss"),
        ("loss<=5%", "loss is no share"),
        ("verdict=convergd", "did you mean converged?"),
        ("verdict!=", "a name is missing"),
        ("verdict<=converged", "allowed: no-regression"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(gradsight.InvalidRequest) as caught:
        Requirement.parse(text)
    assert message in str(caught.value)
    assert f"got {text!r}, allowed:" in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        result = Requirement.parse(text).check(_job())
    except gradsight.InvalidRequest:
        return
    assert result.sentence.startswith(text.strip())


@given(st.floats(0, 1), st.sampled_from(["<=", ">=", "<", ">"]))
def test_a_bound_is_met_or_its_opposite_is(bound: float, relation: str) -> None:
    opposite = {"<=": ">", ">": "<=", ">=": "<", "<": ">="}[relation]
    results = _job().check([f"error{relation}{bound!r}", f"error{opposite}{bound!r}"])
    assert sorted(result.met for result in results) == [False, True]


def test_a_reason_that_ends_in_a_colon_is_told_with_what_follows() -> None:
    message = _message()
    message.verdict.reasons[:] = ["It came to rest, but:", "One category is bad.", "Another one, too."]
    verdict = _convert.job(message).verdict
    assert verdict is not None
    assert verdict.reason == "It came to rest, but: One category is bad."


def test_a_requirement_pickles_and_equals_the_same_one() -> None:
    parsed = Requirement.parse(" error[returns] <= 5% ")
    assert pickle.loads(pickle.dumps(parsed)) == parsed  # noqa: S301 (our own bytes)
    assert pickle.loads(pickle.dumps(parsed)).check(_job()).met  # noqa: S301
    assert [Requirement.parse(text).needs_baseline for text in ("improved", "usable")] == [True, False]


@pytest.fixture
def client(service: "LittleService") -> Iterator[gradsight.Client]:
    with gradsight.Client(service.address) as client:
        yield client


def _store(service: "LittleService", message: job_pb2.Job) -> None:
    service.jobs[message.job_id], service.logs[message.job_id] = message, []


def test_waiting_with_requirements_returns_a_job_that_meets_them(
    service: "LittleService", client: gradsight.Client
) -> None:
    _store(service, _message("IMPROVED"))
    handle = client.job("new")
    assert handle.wait(require=["no-regression", Requirement.parse("error<=0.2")]).job_id == "new"
    assert handle.wait(require="usable").job_id == "new"
    with pytest.raises(gradsight.RequirementNotMet) as caught:
        handle.wait(require=["usable", "error<=0.01", "improved=rare"])
    assert [result.met for result in caught.value.results] == [True, False, False]
    assert "error<=0.01 is not met: error on test is 10.0 %" in str(caught.value)
    assert "usable" not in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).job == caught.value.job  # noqa: S301


@pytest.mark.parametrize(("state", "error"), [("FAILED", "JobFailed"), ("CANCELLED", "JobCancelled")])
def test_a_job_without_a_result_is_an_error_of_its_own(
    service: "LittleService", client: gradsight.Client, state: str, error: str
) -> None:
    message: Any = _message()
    message.state = state_pb2.JobState.Value(f"JOB_STATE_{state}")
    _store(service, message)
    with pytest.raises(getattr(gradsight, error)):
        client.job("new").wait(require="usable")


def test_a_wrong_requirement_is_refused_before_the_wait(
    service: "LittleService", client: gradsight.Client
) -> None:
    with pytest.raises(gradsight.InvalidRequest):
        client.job("nowhere").wait(require="bettr")
    assert service.calls == []
