"""What the holder of a job may do, on a real store: fencing, replays, races."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from gradsight.v1.artifact_pb2 import Artifact
from gradsight.v1.event_pb2 import JobEvent, StepsRecorded
from gradsight.v1.job_pb2 import (
    WAITING_REASON_NO_WORKER,
    WAITING_REASON_WORKERS_BUSY,
    Job,
    JobProgress,
)
from gradsight.v1.state_pb2 import (
    FAULT_DATA,
    JOB_ERROR_REASON_INVALID_DATA,
    JOB_ERROR_REASON_TRAINER_DIED,
    JOB_ERROR_REASON_WORKER_DRAINED,
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    JobError,
)
from gradsight.v1.worker_pb2 import (
    WORKER_STATE_BUSY,
    WORKER_STATE_DRAINING,
    WORKER_STATE_IDLE,
    Recipe,
    Worker,
)
from gradsight_store import attempts, dispatch, jobs, workers
from gradsight_store.errors import JobNotFound, TransitionRefused
from gradsight_store.operations import Answer, JobRef, Operation, new_operation_id
from gradsight_store.projection import JobProjection
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

DIED = JobError(reason=JOB_ERROR_REASON_TRAINER_DIED, message="killed")
DRAINED = JobError(reason=JOB_ERROR_REASON_WORKER_DRAINED)


def worker_state(lab: Lab, worker_id: str = "w1") -> int:
    return {worker.worker_id: worker.state for worker in lab.run(workers.list_workers())}[worker_id]


def test_the_way_of_a_job(lab: Lab) -> None:
    ref, term = lab.start()
    assert worker_state(lab) == WORKER_STATE_BUSY
    lab.append(ref, term, 0)
    checkpoint = Artifact(digest="sha256:c", step=4)
    lab.run(attempts.record_checkpoint(ref, term, checkpoint, 0.1, operation_id="c"))
    result = [Artifact(digest="sha256:r", filename="weights.safetensors")]
    done = lab.run(attempts.finish(ref, term, state=JOB_STATE_SUCCEEDED, result=result, operation_id="f"))
    assert (done.answer, done.job.state) == (Answer.APPLIED, JOB_STATE_SUCCEEDED)
    assert [event.WhichOneof("kind") for event in lab.events(ref)] == [
        "state_changed",
        "state_changed",
        "attempt_started",
        "steps_recorded",
        "checkpoint_saved",
        "state_changed",
    ]
    assert [event.attempt for event in lab.events(ref)] == [0, 1, 1, 1, 1, 1]
    job = lab.job(ref)
    assert job.progress.step == 4
    assert job.result[0].filename == "weights.safetensors"
    assert job.attempts[0].HasField("end_time")
    assert worker_state(lab) == WORKER_STATE_IDLE


def test_a_job_that_was_given_back_resumes_from_its_checkpoint_with_its_figures(lab: Lab) -> None:
    ref, term = lab.start()
    lab.append(ref, term, 0)
    lab.run(attempts.record_checkpoint(ref, term, Artifact(digest="a", step=4), 0.1, operation_id="c"))
    released = lab.run(attempts.release(ref, term, error=DRAINED, operation_id="r"))
    assert (released.answer, released.job.state) == (Answer.APPLIED, JOB_STATE_QUEUED)
    assert worker_state(lab) == WORKER_STATE_IDLE
    lab.worker("w2")
    new_term = lab.assign(ref, "w2")
    claim = lab.run(attempts.claim(ref, new_term, worker_id="w2", device="cpu", operation_id="k"))
    assert (claim.attempt, claim.resumed_at_step) == (2, 4)
    assert claim.record.job.progress.steps_taken == 4
    assert [checkpoint.digest for checkpoint in claim.record.checkpoints] == ["a"]
    assert new_term > term


def test_a_damaged_checkpoint_is_let_go_and_the_attempt_begins_earlier(lab: Lab) -> None:
    ref, term = lab.start()
    for step in (4, 8):
        artifact = Artifact(digest=f"c{step}", step=step)
        lab.run(attempts.record_checkpoint(ref, term, artifact, 0.1, operation_id=f"c{step}"))
    lab.run(attempts.release(ref, term, error=DRAINED, operation_id="r"))
    term = lab.claim(ref, lab.assign(ref))
    rewound = lab.run(attempts.rewind(ref, term, step=4, reason="damaged", unusable={"c8"}, operation_id="w"))
    assert [artifact.digest for artifact in rewound.dropped] == ["c8"]
    assert rewound.job.attempts[-1].resumed_at_step == 4
    kinds = [event.WhichOneof("kind") for event in lab.events(ref)]
    assert kinds[-2:] == ["attempt_started", "attempt_rewound"]
    done = lab.run(attempts.finish(ref, term, state=JOB_STATE_SUCCEEDED, operation_id="f"))
    assert done.dropped == ()


def test_a_job_goes_on_from_the_last_state_of_one_that_succeeded(lab: Lab) -> None:
    first, term = lab.start()
    for step in (4, 8):
        artifact = Artifact(digest=f"c{step}", step=step)
        lab.run(attempts.record_checkpoint(first, term, artifact, 0.1, operation_id=f"c{step}"))
    done = lab.run(attempts.finish(first, term, state=JOB_STATE_SUCCEEDED, operation_id="f"))
    assert [artifact.digest for artifact in done.dropped] == ["c4"]
    ref = lab.create(start={"extended_job_id": first.job_id})
    claim = lab.run(attempts.claim(ref, lab.assign(ref), worker_id="w1", device="cpu", operation_id="k"))
    assert (claim.resumed_at_step, claim.record.extended.digest) == (8, "c8")
    assert lab.events(ref)[-1].attempt_started.resumed_at_step == 8


def test_only_a_job_that_succeeded_can_be_gone_on_with(lab: Lab) -> None:
    running, term = lab.start()
    lab.run(attempts.record_checkpoint(running, term, Artifact(digest="c", step=4), 0.1, operation_id="c"))
    lab.worker("w2")
    for job_id in (running.job_id, "nothing"):
        ref = lab.create(start={"extended_job_id": job_id})
        claim = lab.run(
            attempts.claim(ref, lab.assign(ref, "w2"), worker_id="w2", device="cpu", operation_id="k")
        )
        assert (claim.resumed_at_step, claim.record.HasField("extended")) == (0, False)
        lab.run(attempts.release(ref, claim.record.term, error=DRAINED, operation_id="r"))
        lab.run(jobs.request_cancel(ref, operation_id="x"))


def stale_calls(ref: JobRef, term: int) -> dict[str, Operation[Any]]:
    return {
        "claim": attempts.claim(ref, term, worker_id="w1", device="cpu", operation_id="1"),
        "renew": attempts.renew_lease(ref, term),
        "append": attempts.append_events(ref, term, [], JobProjection(), operation_id="2"),
        "checkpoint": attempts.record_checkpoint(ref, term, Artifact(digest="z"), 0.0, operation_id="3"),
        "rewind": attempts.rewind(ref, term, step=0, reason="", unusable={"z"}, operation_id="6"),
        "finish": attempts.finish(ref, term, state=JOB_STATE_SUCCEEDED, operation_id="4"),
        "release": attempts.release(ref, term, error=DIED, operation_id="5"),
    }


@pytest.mark.parametrize("end", ["released", "finished", "cancelled"])
def test_after_its_end_an_attempt_is_fenced_in_everything(lab: Lab, end: str) -> None:
    ref, term = lab.start()
    if end == "released":
        lab.run(attempts.release(ref, term, error=DIED, operation_id="r"))
    else:
        if end == "cancelled":
            lab.run(jobs.request_cancel(ref, operation_id="x"))
        lab.run(attempts.finish(ref, term, state=JOB_STATE_SUCCEEDED, operation_id="f"))
    before = (lab.job(ref), lab.events(ref))
    for name, call in stale_calls(ref, term).items():
        assert lab.run(call).answer is Answer.FENCED, name
    assert (lab.job(ref), lab.events(ref)) == before


def test_a_forged_message_claims_nothing(lab: Lab) -> None:
    ref = lab.create()
    lab.worker()
    for term in (0, 1, 99):
        forged = attempts.claim(ref, term, worker_id="w1", device="cpu", operation_id=new_operation_id())
        assert lab.run(forged).answer is Answer.FENCED
    assert len(lab.events(ref)) == 1


def test_calls_on_an_unknown_job_say_so(lab: Lab) -> None:
    for call in stale_calls(JobRef("default", "nothing"), 1).values():
        with pytest.raises(JobNotFound):
            lab.run(call)


def mutations(lab: Lab) -> dict[str, Callable[[], Callable[[], Operation[Any]]]]:
    """By name: brings a job into the situation, returns a factory of the mutation with one operation id."""

    def of_running(
        make: Callable[[JobRef, int], Operation[Any]],
    ) -> Callable[[], Callable[[], Operation[Any]]]:
        def prepare() -> Callable[[], Operation[Any]]:
            ref, term = lab.start()
            return lambda: make(ref, term)

        return prepare

    def assign() -> Callable[[], Operation[Any]]:
        ref = lab.create()
        lab.worker()
        return lambda: dispatch.assign(ref, "w1", operation_id="op")

    def claim() -> Callable[[], Operation[Any]]:
        ref = lab.create()
        lab.worker()
        term = lab.assign(ref)
        return lambda: attempts.claim(ref, term, worker_id="w1", device="cpu", operation_id="op")

    def cancel() -> Callable[[], Operation[Any]]:
        ref = lab.create()
        return lambda: jobs.request_cancel(ref, operation_id="op")

    failed = JobError(reason=JOB_ERROR_REASON_INVALID_DATA, fault=FAULT_DATA, message="row 7")
    return {
        "assign": assign,
        "claim": claim,
        "cancel_queued": cancel,
        "cancel_running": of_running(lambda ref, term: jobs.request_cancel(ref, operation_id="op")),
        "append": of_running(
            lambda ref, term: attempts.append_events(
                ref, term, [_steps()], JobProjection(Job(progress=JobProgress(step=4))), operation_id="op"
            )
        ),
        "checkpoint": of_running(
            lambda ref, term: attempts.record_checkpoint(
                ref, term, Artifact(digest="a", step=4), 0.1, operation_id="op"
            )
        ),
        "finish": of_running(
            lambda ref, term: attempts.finish(ref, term, state=JOB_STATE_SUCCEEDED, operation_id="op")
        ),
        "fail": of_running(
            lambda ref, term: attempts.finish(
                ref, term, state=JOB_STATE_FAILED, error=failed, operation_id="op"
            )
        ),
        "release": of_running(lambda ref, term: attempts.release(ref, term, error=DIED, operation_id="op")),
    }


def _steps() -> JobEvent:
    return JobEvent(steps_recorded=StepsRecorded(first_step=1, loss=[1, 2, 3, 4]))


MUTATIONS = (
    "assign claim cancel_queued cancel_running append checkpoint finish fail release".split()  # noqa: SIM905
)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_that_is_sent_again_changes_nothing_and_says_so(lab: Lab, name: str) -> None:
    make = mutations(lab)[name]()
    first = lab.run(make())
    assert first.answer is Answer.APPLIED
    (page,) = [lab.run(jobs.list_jobs("default", page_size=10)).jobs]
    ref = JobRef("default", page[0].job_id)
    before = (lab.job(ref), lab.events(ref), lab.run(workers.list_workers()))
    for _ in range(3):
        again = lab.run(make())
        assert again.answer is Answer.ALREADY_APPLIED
        for field in ("term", "attempt", "resumed_at_step", "record", "last_sequence", "job"):
            assert getattr(again, field, None) == getattr(first, field, None), field
    assert (lab.job(ref), lab.events(ref), lab.run(workers.list_workers())) == before


def test_every_mutation_is_tested_for_being_sent_again(lab: Lab) -> None:
    assert set(mutations(lab)) == set(MUTATIONS)


def test_old_appends_are_known_again_for_a_while(lab: Lab) -> None:
    ref, term = lab.start()

    def append(number: int) -> Operation[attempts.Appended]:
        return attempts.append_events(ref, term, [_steps()], JobProjection(), operation_id=f"op{number}")

    for number in range(30):
        assert lab.run(append(number)).answer is Answer.APPLIED
    assert lab.run(append(0)).answer is Answer.ALREADY_APPLIED


def test_a_worker_holds_one_job(lab: Lab) -> None:
    first, second = lab.create(), lab.create()
    lab.worker()
    lab.assign(first)
    assert lab.run(dispatch.assign(second, "w1", operation_id="a")).answer is Answer.FENCED
    assert lab.run(dispatch.idle_workers()) == []
    assert [job.ref for job in lab.run(dispatch.waiting_jobs(10))] == [second]


def test_draining_unknown_and_dead_workers_are_given_nothing(lab: Lab, settings: StoreSettings) -> None:
    ref = lab.create()
    lab.worker()
    lab.run(workers.renew_worker("w1", WORKER_STATE_DRAINING))
    assert lab.run(dispatch.assign(ref, "w1", operation_id="a")).answer is Answer.FENCED
    assert lab.run(dispatch.assign(ref, "nobody", operation_id="b")).answer is Answer.FENCED
    brief = Store.open(StoreSettings(url=settings.url, worker_lease_s=0.05))
    brief.run(workers.renew_worker("w1", WORKER_STATE_IDLE))
    lab.until(lambda: lab.run(dispatch.idle_workers()) == [])
    assert lab.run(dispatch.assign(ref, "w1", operation_id="c")).answer is Answer.FENCED
    brief.close()


def test_waiting_jobs_are_best_first_across_queues(lab: Lab) -> None:
    low, night, high = lab.create(priority=-5), lab.create(queue="night"), lab.create(priority=7)
    assert [job.ref for job in lab.run(dispatch.waiting_jobs(10))] == [high, night, low]
    assert [job.priority for job in lab.run(dispatch.waiting_jobs(10))] == [7, 0, -5]
    assert [job.ref for job in lab.run(dispatch.waiting_jobs(1))] == [high, night]
    assert [job.ref for job in lab.run(dispatch.waiting_jobs(10, queues={"night"}))] == [night]


def test_a_job_with_a_recipe_waits_for_a_worker_that_has_it_and_hides_no_other(lab: Lab) -> None:
    recipe, plain = lab.create(model={"recipe": {"name": "bert"}}), lab.create()
    assert [job.ref for job in lab.run(dispatch.waiting_jobs(1))] == [plain]
    waiting = lab.job(recipe).waiting
    assert waiting.reason == WAITING_REASON_NO_WORKER
    lab.worker()
    waiting = lab.job(recipe).waiting
    assert waiting.reason == WAITING_REASON_NO_WORKER
    assert waiting.message.endswith("start one for queue 'default' and the recipe 'bert' installed")
    lab.run(workers.register_worker(Worker(worker_id="w2", queue="default", recipes=[Recipe(name="bert")])))
    waiting = lab.job(recipe).waiting
    assert (waiting.reason, waiting.position) == (WAITING_REASON_WORKERS_BUSY, 1)
    idle = lab.run(dispatch.idle_workers())
    found = lab.run(dispatch.waiting_jobs(2, recipes=dispatch.recipes_of(idle)))
    assert [(job.ref, job.recipe) for job in found] == [(recipe, "bert"), (plain, "")]
    assert [(job.ref, worker.worker_id) for job, worker in dispatch.choose(found, idle)] == [
        (recipe, "w2"),
        (plain, "w1"),
    ]


def test_recipes_are_those_of_the_workers_that_are_alive(lab: Lab) -> None:
    assert lab.run(workers.list_recipes()) == []
    for worker_id, names in (("w1", ["b", "c"]), ("w2", ["a", "b"])):
        recipes = [Recipe(name=name, description=f"{name} of {worker_id}") for name in names]
        lab.run(workers.register_worker(Worker(worker_id=worker_id, queue="q", recipes=recipes)))
        time.sleep(0.002)  # the store's clock counts milliseconds
    found = [recipe.description for recipe in lab.run(workers.list_recipes())]
    assert found == ["a of w2", "b of w2", "c of w1"]
    lab.run(workers.remove_worker("w2"))
    assert [recipe.name for recipe in lab.run(workers.list_recipes())] == ["b", "c"]


def test_a_message_that_nobody_wants_any_more_leaves_the_slot(lab: Lab) -> None:
    ref = lab.create()
    lab.worker()
    lab.assign(ref)
    lab.run(jobs.request_cancel(ref, operation_id="x"))
    assert worker_state(lab) == WORKER_STATE_IDLE
    assert not lab.run(workers.free_worker("w1", "default_other_1"))


def race(settings: StoreSettings, *calls: Callable[[], Operation[Any]]) -> list[Any]:
    """Outcomes of calls that start at the same moment, each on a connection of its own."""
    barrier, outcomes = threading.Barrier(len(calls)), [None] * len(calls)

    def run(number: int, call: Callable[[], Operation[Any]]) -> None:
        store = Store.open(settings)
        try:
            barrier.wait()
            outcomes[number] = store.run(call())
        except Exception as error:
            outcomes[number] = error  # type: ignore[call-overload]
        finally:
            store.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_cancel_against_finish_ends_once_and_both_are_told(lab: Lab, settings: StoreSettings) -> None:
    seen = set()
    for number in range(60):
        ref, term = lab.start(f"w{number}")
        cancel, finish = race(
            settings,
            lambda ref=ref: jobs.request_cancel(ref, operation_id="x"),  # type: ignore[misc]
            lambda ref=ref, term=term: attempts.finish(  # type: ignore[misc]
                ref, term, state=JOB_STATE_SUCCEEDED, operation_id="f"
            ),
        )
        state = lab.job(ref).state
        seen.add(state)
        assert finish.answer is Answer.APPLIED
        assert finish.job.state == state
        if state == JOB_STATE_SUCCEEDED:
            assert isinstance(cancel, TransitionRefused)
        else:
            assert (state, cancel.answer) == (JOB_STATE_CANCELLED, Answer.APPLIED)
        terminal = [event for event in lab.events(ref) if event.state_changed.state >= JOB_STATE_SUCCEEDED]
        assert len(terminal) == 1
    assert seen <= {JOB_STATE_SUCCEEDED, JOB_STATE_CANCELLED}


def test_of_many_dispatchers_one_assigns_and_of_many_workers_one_claims(
    lab: Lab, settings: StoreSettings
) -> None:
    ref = lab.create()
    for name in ("w1", "w2", "w3", "w4"):
        lab.worker(name)
    assigned = race(
        settings,
        *(
            lambda name=name: dispatch.assign(ref, name, operation_id=name)
            for name in ("w1", "w2", "w3", "w4")
        ),
    )
    (winner,) = [number for number, outcome in enumerate(assigned) if outcome.answer is Answer.APPLIED]
    term, name = assigned[winner].term, f"w{winner + 1}"
    claims = race(
        settings,
        *(
            lambda n=n: attempts.claim(ref, term, worker_id=name, device="cpu", operation_id=f"c{n}")
            for n in range(4)
        ),
    )
    assert sorted(claim.answer.name for claim in claims) == ["APPLIED", "FENCED", "FENCED", "FENCED"]
    assert lab.job(ref).state == JOB_STATE_RUNNING
    assert [worker.worker_id for worker in lab.run(dispatch.idle_workers())] == sorted(
        {"w1", "w2", "w3", "w4"} - {name}
    )
