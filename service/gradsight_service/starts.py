"""Earlier jobs at the door: whether a job may go on with one, begin with its weights, or be compared with it."""

from collections.abc import Iterator

from gradsight._objectives import target_kind
from gradsight._starts import FREE_IN_EXTENSION, spec_difference, weights_difference
from gradsight.v1 import job_pb2, spec_pb2
from gradsight_service.errors import Violation


def extension_violations(spec: spec_pb2.JobSpec, earlier: job_pb2.Job) -> Iterator[Violation]:
    """Why the spec, with its defaults, cannot go on with the earlier job: another spec, or nothing left to do."""
    if found := spec_difference(spec, earlier.spec, free=FREE_IN_EXTENSION):
        yield Violation(
            path=found.path,
            message=f"got {found.value}, but the extended job has {found.earlier}; allowed the same: "
            "start.weights_job_id begins anew from its weights",
        )
    progress = earlier.progress
    if spec.budget.HasField("steps") and spec.budget.steps <= progress.step:
        yield _too_short("steps", f"{spec.budget.steps}", f"{progress.step}")
    if spec.budget.HasField("epochs") and spec.budget.epochs <= progress.epoch:
        yield _too_short("epochs", f"{spec.budget.epochs}", f"{progress.epoch:g}")


def weights_violations(spec: spec_pb2.JobSpec, earlier: job_pb2.Job) -> Iterator[Violation]:
    """Why the spec, with its defaults, cannot begin with the earlier job's weights."""
    if found := weights_difference(spec, earlier.spec):
        yield Violation(
            path=found.path,
            message=f"got {found.value}, but the job of the weights has {found.earlier}; allowed the same",
        )


def baseline_violations(spec: spec_pb2.JobSpec, baseline: job_pb2.Job) -> Iterator[Violation]:
    """Why the baseline cannot answer this job's test rows: it answers another kind of question."""
    asked, answered = target_kind(spec.objective), target_kind(baseline.spec.objective)
    if asked != answered:
        yield Violation(
            path="evaluation.baseline_job_id",
            message=f"got a job that answers {answered}, allowed one that answers {asked} as this one does",
        )


def _too_short(unit: str, got: str, done: str) -> Violation:
    return Violation(
        path=f"budget.{unit}",
        message=f"got {got}, and the extended job has done {done}, allowed more: the budget counts from its beginning",
    )
