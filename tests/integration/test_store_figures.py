"""Figures for the exporter, from real records on a real store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gradsight.v1.state_pb2 import (
    FAULT_DATA,
    JOB_ERROR_REASON_INVALID_DATA,
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    JobError,
)
from gradsight.v1.worker_pb2 import WORKER_STATE_BUSY, WORKER_STATE_DRAINING, WORKER_STATE_IDLE
from gradsight_store import attempts, jobs, workers
from gradsight_store.figures import active_jobs, fleet_figures

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

BROKEN = JobError(reason=JOB_ERROR_REASON_INVALID_DATA, fault=FAULT_DATA, message="row 7")


def test_an_empty_store_has_empty_figures(lab: Lab) -> None:
    figures = lab.run(fleet_figures())
    assert (figures.created, figures.jobs, figures.finished, figures.workers) == ({}, {}, {}, {})
    assert lab.run(active_jobs(0)) == []


def test_counters_follow_the_jobs(lab: Lab) -> None:
    waiting = lab.create()
    lab.create(queue="night", tenant="other")
    succeeds, term = lab.start("w1")
    lab.run(attempts.finish(succeeds, term, state=JOB_STATE_SUCCEEDED, operation_id="1"))
    fails, term = lab.start("w1")
    lab.run(attempts.finish(fails, term, state=JOB_STATE_FAILED, error=BROKEN, operation_id="2"))
    lab.run(jobs.request_cancel(lab.create(), operation_id="3"))
    lab.start("w2")
    lab.worker("w3")
    lab.run(workers.renew_worker("w3", WORKER_STATE_DRAINING))
    figures = lab.run(fleet_figures())
    assert figures.created == {"default": 5, "night": 1}
    assert {by: count for by, count in figures.jobs.items() if count} == {
        ("default", JOB_STATE_QUEUED): 1,
        ("default", JOB_STATE_RUNNING): 1,
        ("default", JOB_STATE_SUCCEEDED): 1,
        ("default", JOB_STATE_FAILED): 1,
        ("default", JOB_STATE_CANCELLED): 1,
        ("night", JOB_STATE_QUEUED): 1,
    }
    assert figures.finished == {
        ("default", JOB_STATE_SUCCEEDED, 0, 0): 1,
        ("default", JOB_STATE_FAILED, FAULT_DATA, JOB_ERROR_REASON_INVALID_DATA): 1,
        ("default", JOB_STATE_CANCELLED, 0, 0): 1,
    }
    assert sum(figures.waits["default"].buckets) == 3
    assert figures.waits["default"].total_s < 3
    assert figures.queued == {"default": 1, "night": 1}
    since = lab.job(waiting).create_time.ToMilliseconds()
    assert figures.oldest_waiting_s["default"] == (figures.now_ms - since) / 1000
    assert figures.workers == {
        ("default", WORKER_STATE_IDLE): 1,
        ("default", WORKER_STATE_BUSY): 1,
        ("default", WORKER_STATE_DRAINING): 1,
    }
    assert lab.run(fleet_figures("other")).created == {"night": 1}


def test_active_jobs_carry_their_figures_and_leave_a_while_after_their_end(lab: Lab) -> None:
    running, term = lab.start("w1")
    lab.append(running, term, 0)
    ended, term = lab.start("w2")
    done = lab.run(attempts.finish(ended, term, state=JOB_STATE_SUCCEEDED, operation_id="1"))
    end_ms = done.job.end_time.ToMilliseconds()
    found = {job.job_id: job for job in lab.run(active_jobs(end_ms))}
    assert set(found) == {running.job_id, ended.job_id}
    assert found[running.job_id].progress.step == 4
    assert found[running.job_id].last_sequence == 4
    assert [job.job_id for job in lab.run(active_jobs(end_ms + 1))] == [running.job_id]
    assert [job.job_id for job in lab.run(active_jobs(0, limit=1))] == [running.job_id]


def test_a_thousand_active_jobs_are_read_in_a_fraction_of_a_second(lab: Lab) -> None:
    for _ in range(1000):
        lab.create()
    begin = time.perf_counter()
    assert len(lab.run(active_jobs(0))) == 1000
    assert time.perf_counter() - begin < 5
