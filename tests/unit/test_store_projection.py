"""A job's figures, folded from its events."""

import math

import pytest

from gradsight.v1.event_pb2 import (
    AttemptRewound,
    AttemptStarted,
    ComparisonCompleted,
    DataPrepared,
    EvaluationCompleted,
    JobEvent,
    Layer,
    LogLine,
    ModelBuilt,
    Probe,
    StepsRecorded,
    TrainingStopped,
    VerdictReached,
)
from gradsight.v1.insight_pb2 import (
    COMPARISON_VERDICT_REGRESSED,
    EFFICACY_VERDICT_EFFECTIVE,
    VERDICT_OVERFIT,
    VERDICT_STILL_IMPROVING,
    Comparison,
    RunVerdict,
    UpdateEfficacy,
)
from gradsight.v1.job_pb2 import Job
from gradsight.v1.state_pb2 import SPLIT_TEST, SPLIT_VALIDATION
from gradsight_store.projection import JobProjection, apply_event

BUILT = JobEvent(
    model_built=ModelBuilt(total_steps=1000, steps_per_epoch=100, layers=[Layer(index=0, path="hidden.0")])
)


def steps(first: int, count: int, seconds: float) -> JobEvent:
    """A batch that ends at the given seconds of training; 10 rows a step."""
    return JobEvent(
        steps_recorded=StepsRecorded(
            first_step=first,
            loss=[1 / step for step in range(first, first + count)],
            gradient_norm=[0.5] * count,
            learning_rate=[0.1] * count,
            samples_total=10 * (first + count - 1),
            training_seconds=seconds,
        )
    )


def fold(*events: JobEvent, start: Job | None = None) -> JobProjection:
    projection = JobProjection(start)
    for event in events:
        apply_event(projection, event)
    return projection


def test_progress_follows_the_steps() -> None:
    progress = fold(BUILT, steps(1, 50, 1.0), steps(51, 50, 2.0)).job.progress
    assert (progress.step, progress.total_steps, progress.samples_total) == (100, 1000, 1000)
    assert (progress.epoch, progress.steps_taken) == (1.0, 100)
    assert progress.samples_per_second == pytest.approx(500)
    assert progress.remaining.ToSeconds() == 18


def test_throughput_is_that_of_lately() -> None:
    slow_then_fast = [BUILT, *(steps(10 * i + 1, 10, i + 1.0) for i in range(20))]
    slow_then_fast += [steps(201 + 100 * i, 100, 20 + i + 1.0) for i in range(12)]
    assert fold(*slow_then_fast).job.progress.samples_per_second == pytest.approx(1000)


def test_a_resumed_attempt_goes_back_but_steps_taken_do_not() -> None:
    before = fold(BUILT, steps(1, 80, 4.0)).job
    resumed = JobEvent(attempt_started=AttemptStarted(resumed_at_step=50))
    job = fold(resumed, BUILT, start=before).job
    assert (job.progress.step, job.progress.steps_taken) == (50, 80)
    job = fold(resumed, BUILT, steps(51, 30, 4.1), start=before).job
    assert (job.progress.step, job.progress.steps_taken) == (80, 110)
    assert job.progress.samples_per_second > 0


def test_an_attempt_that_is_rewound_goes_back_further() -> None:
    before = fold(BUILT, steps(1, 80, 4.0)).job
    resumed = JobEvent(attempt_started=AttemptStarted(resumed_at_step=50))
    rewound = JobEvent(attempt_rewound=AttemptRewound(resumed_at_step=20))
    job = fold(resumed, rewound, start=before).job
    assert (job.progress.step, job.progress.steps_taken) == (20, 80)


def test_a_run_that_stops_early_is_all_done() -> None:
    progress = fold(
        BUILT, steps(1, 80, 4.0), JobEvent(training_stopped=TrainingStopped(step=80, message="enough"))
    ).job.progress
    assert (progress.step, progress.total_steps) == (80, 80)
    assert not progress.HasField("remaining")


def test_going_back_in_time_gives_no_negative_throughput() -> None:
    progress = fold(BUILT, steps(1, 80, 4.0), steps(51, 10, 2.5), steps(61, 10, 3.0)).job.progress
    assert progress.samples_per_second == pytest.approx(200)


def test_the_summary_keeps_the_newest_of_each_kind() -> None:
    probe = JobEvent(steps_recorded=StepsRecorded(first_step=3, loss=[math.nan], nonfinite_steps=[3]))
    probe.steps_recorded.probes.append(Probe(step=3, gain_ratio=0.9))
    summary = fold(
        JobEvent(data_prepared=DataPrepared(classes=["returns", "sizing"])),
        BUILT,
        steps(1, 2, 1.0),
        probe,
        JobEvent(
            evaluation_completed=EvaluationCompleted(split=SPLIT_VALIDATION, step=2, kept=True, loss=0.5)
        ),
        JobEvent(evaluation_completed=EvaluationCompleted(split=SPLIT_VALIDATION, step=3, loss=0.7)),
        JobEvent(evaluation_completed=EvaluationCompleted(split=SPLIT_TEST, step=2, loss=0.6)),
        JobEvent(evaluation_completed=EvaluationCompleted(split=SPLIT_TEST, loss=0.9, baseline_job_id="b")),
    ).job.summary
    assert list(summary.classes) == ["returns", "sizing"]
    assert math.isnan(summary.train_loss)
    assert (summary.gradient_norm, summary.nonfinite_steps) == (0.5, 1)
    assert summary.gain_ratio == pytest.approx(0.9)
    assert summary.probe.step == 3
    assert (summary.validation.step, summary.kept.step) == (3, 2)
    assert (summary.test.loss, summary.baseline_test.loss) == (0.6, 0.9)
    assert summary.layers[0].path == "hidden.0"


def test_events_without_figures_and_empty_batches_change_nothing() -> None:
    projection = fold(JobEvent(log_line=LogLine(message="hello")), JobEvent(steps_recorded=StepsRecorded()))
    assert projection.job == Job()


def test_only_figures_are_taken_from_an_earlier_job() -> None:
    assert fold(start=Job(job_id="a", state=2)).job == Job()  # type: ignore[arg-type]


def reached(verdict: int, step: int) -> JobEvent:
    return JobEvent(verdict_reached=VerdictReached(verdict=RunVerdict(verdict=verdict, step=step)))  # type: ignore[arg-type]


def test_the_newest_judgements_are_the_jobs() -> None:
    efficacy = UpdateEfficacy(first_step=1, last_step=8, verdict=EFFICACY_VERDICT_EFFECTIVE)
    judged = EvaluationCompleted(split=SPLIT_VALIDATION, step=8, update_efficacy=efficacy)
    compared = Comparison(verdict=COMPARISON_VERDICT_REGRESSED, baseline_job_id="b", job_id="a")
    job = fold(
        reached(VERDICT_STILL_IMPROVING, 8),
        JobEvent(evaluation_completed=judged),
        JobEvent(evaluation_completed=EvaluationCompleted(split=SPLIT_VALIDATION, step=9)),
        reached(VERDICT_OVERFIT, 16),
        JobEvent(comparison_completed=ComparisonCompleted(comparison=compared)),
    ).job
    assert job.verdict == RunVerdict(verdict=VERDICT_OVERFIT, step=16)
    assert job.summary.update_efficacy == efficacy
    assert job.summary.comparison == compared


def test_judgements_on_steps_that_are_taken_back_go_with_them() -> None:
    efficacy = UpdateEfficacy(first_step=9, last_step=16, verdict=EFFICACY_VERDICT_EFFECTIVE)
    judged = EvaluationCompleted(split=SPLIT_VALIDATION, step=16, update_efficacy=efficacy)
    before = fold(reached(VERDICT_OVERFIT, 16), JobEvent(evaluation_completed=judged)).job
    for step, stays in ((10, False), (16, True)):
        job = fold(JobEvent(attempt_started=AttemptStarted(resumed_at_step=step)), start=before).job
        assert (job.HasField("verdict"), job.summary.HasField("update_efficacy")) == (stays, stays)
