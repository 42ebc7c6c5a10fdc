"""GetJobReport of a real service: what it holds, for jobs in every state, and how it is refused."""

import contextlib
import math
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf import text_format
from tests.integration.service.conftest import FakeAttempt, FakeWorker, Refusal, Service, ServiceStarter

from gradsight.v1 import event_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as pb

Worker = Callable[..., FakeWorker]
Refused = Callable[[Callable[[], Any]], Refusal]

LAYERS = ("hidden.0", "hidden.1", "output")
PREPARED = """
    data_prepared {
      splits { split: SPLIT_TRAIN rows: 160 } splits { split: SPLIT_VALIDATION rows: 20 }
      splits { split: SPLIT_TEST rows: 20 }
      classes: "no" classes: "<b>yes</b>" duplicate_rows: 3 prior_error_ratio: 0.5 prior_loss: 0.69
      column_remarks { column: "height" missing_rows: 4 }
    }"""
FOUND = """
    finding_opened { finding {
      finding_id: "plateau-1" kind: "plateau" severity: SEVERITY_WARNING subject_kind: FINDING_SUBJECT_RUN
      first_step: 20 last_step: 40 explanation: "Nothing <script>moves</script>."
      actions: "Raise the learning rate." open: true
      evidence { name: "slope" observed: nan threshold: 0.1 } page_url: "https://gradsight.dev/failure-modes/FM-14-plateau"
    } }"""
VERDICT = """
    verdict_reached { verdict {
      verdict: VERDICT_CONVERGED confirmed: true kept_checkpoint_usable: true step: 40 reasons: "It has converged."
    } }"""


def event(text: str) -> event_pb2.JobEvent:
    return text_format.Parse(text, event_pb2.JobEvent())


def built() -> event_pb2.JobEvent:
    layers = [event_pb2.Layer(index=place, path=path) for place, path in enumerate(LAYERS)]
    return event_pb2.JobEvent(
        model_built=event_pb2.ModelBuilt(layers=layers, total_steps=40, steps_per_epoch=10)
    )


def steps(first: int, loss: list[float]) -> event_pb2.JobEvent:
    probe = event_pb2.Probe(step=first, gain_ratio=0.5)
    probe.layer_gradient_rms.extend([1e-4, 1e-3, 1e-2])
    probe.layer_update_ratio.extend([1e-4, 1e-3, 1e-2])
    size = len(loss)
    recorded = event_pb2.StepsRecorded(
        first_step=first, loss=loss, gradient_norm=[1.0] * size, learning_rate=[0.1] * size, probes=[probe]
    )
    return event_pb2.JobEvent(steps_recorded=recorded)


def evaluated(step: int, error: float, split: int = state_pb2.SPLIT_VALIDATION) -> event_pb2.JobEvent:
    evaluation = event_pb2.EvaluationCompleted(
        split=state_pb2.Split.ValueType(split), step=step, examples=20, loss=0.5, error_ratio=error, kept=True
    )
    category = evaluation.categories.add(category='k"1<i>', examples=20, errors=4, error_ratio=0.2)
    category.error_interval.ratio, category.error_interval.lower, category.error_interval.upper = (
        0.2,
        0.08,
        0.42,
    )
    return event_pb2.JobEvent(evaluation_completed=evaluation)


def trained(service: Service, worker: Worker, name: str) -> FakeAttempt:
    """An attempt of a new job that took 40 steps, found something and was judged."""
    service.create(f'name: "{name}" queue: "{name}" labels {{ key: "week" value: "48" }}')
    attempt = worker(name).wait_for_job()
    attempt.append(event(PREPARED), built())
    attempt.append(*[steps(1 + 10 * place, [1.0 - 0.2 * place] * 10) for place in range(4)])
    attempt.append(evaluated(20, 0.4), evaluated(40, 0.2), event(FOUND), event(VERDICT))
    return attempt


def report(service: Service, job_id: str, form: int = pb.REPORT_FORMAT_HTML) -> pb.GetJobReportResponse:
    request = pb.GetJobReportRequest(job_id=job_id, format=pb.ReportFormat.ValueType(form))
    return service.training.GetJobReport(request, timeout=60)


def test_a_finished_job_has_its_page(service: Service, worker: Worker) -> None:
    attempt = trained(service, worker, "report-done")
    attempt.append(evaluated(40, 0.25, state_pb2.SPLIT_TEST))
    attempt.finish(state_pb2.JOB_STATE_SUCCEEDED)
    answer = report(service, attempt.ref.job_id)
    page = answer.content.decode()
    assert answer.media_type == "text/html; charset=utf-8"
    assert answer.filename == f"report-done-{attempt.ref.job_id}.html"
    for text in (
        "Converged",
        "25.0\N{NO-BREAK SPACE}%",
        "Raise the learning rate.",
        "It has converged.",
        "hidden.1",
        "3 rows: the same",
    ):
        assert text in page
    for picture in ("learning-curves", "gradient-flow", "update-ratios", "gain-ratio", "by-category"):
        assert f'id="{picture}-title"' in page
    assert "<script" not in page
    assert "<i>" not in page.replace('<i class="', "")
    HTMLParser().feed(page)


def test_the_same_as_markdown(service: Service, worker: Worker) -> None:
    attempt = trained(service, worker, "report-text")
    answer = report(service, attempt.ref.job_id, pb.REPORT_FORMAT_MARKDOWN)
    text = answer.content.decode()
    assert answer.media_type == "text/markdown; charset=utf-8"
    assert answer.filename.endswith(".md")
    assert text.startswith("# report-text: Converged")
    assert "not a number" in text
    assert "Raise the learning rate." in text
    assert "| training loss | 1 | 0.4 |" in text


def test_a_job_that_waits_has_one(service: Service) -> None:
    job = service.create('queue: "report-nobody"')
    assert "No step was taken yet." in report(service, job.job_id).content.decode()


def test_what_a_resumed_attempt_took_back_is_not_in_it(service: Service, worker: Worker) -> None:
    service.create('name: "report-again" queue: "report-again"')
    workers = worker("report-again")
    first = workers.wait_for_job()
    first.append(
        event(PREPARED), built(), steps(1, [1.0] * 10), steps(11, [math.nan] * 10), evaluated(20, 0.9)
    )
    first.hand_back(resume_at_step=10)
    second = workers.wait_for_job(10)
    second.append(steps(11, [0.5] * 10), evaluated(20, 0.3))
    text = report(service, first.ref.job_id, pb.REPORT_FORMAT_MARKDOWN).content.decode()
    assert "| held-out error | 0.3 | 0.3 |" in text
    assert "| training loss | 1 | 0.5 |" in text


def test_a_job_that_is_not_there_and_a_format_that_is_none_are_refused(
    service: Service, refusal: Refused
) -> None:
    unknown = refusal(lambda: report(service, "no-such-job"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    job = service.create('queue: "report-nobody"')
    wrong = refusal(lambda: report(service, job.job_id, 7))
    assert wrong.code is grpc.StatusCode.INVALID_ARGUMENT
    assert wrong.fields == {"format": "got 7, allowed html, markdown"}


def test_a_report_that_takes_too_long_is_given_up_and_leaves_no_process(
    start_service: ServiceStarter, refusal: Refused
) -> None:
    service = start_service()
    job = service.create('queue: "report-nobody"')
    late = refusal(
        lambda: service.training.GetJobReport(pb.GetJobReportRequest(job_id=job.job_id), timeout=0.15)
    )
    assert late.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.training.GetJob(pb.GetJobRequest(job_id=job.job_id)).job.job_id == job.job_id
    assert gone(service.process.pid)


def gone(parent: int) -> bool:
    """Whether the process has no child that renders, within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):  # one ended while it was looked at
            children = psutil.Process(parent).children(recursive=True)
            if not [child for child in children if "gradsight_service.report_process" in child.cmdline()]:
                return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_watching_goes_on_while_reports_are_made(service: Service, worker: Worker) -> None:
    attempt = trained(service, worker, "report-many")
    request = pb.GetJobReportRequest(job_id=attempt.ref.job_id)
    waiting = [service.training.GetJobReport.future(request, timeout=60) for _ in range(4)]
    slowest = 0.0
    while not all(call.done() for call in waiting):
        before = time.monotonic()
        service.training.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
        slowest = max(slowest, time.monotonic() - before)
    assert all(call.result().content for call in waiting)
    assert slowest < 2.0
