"""Jobs that run without training: made, claimed and fed with events through the store's own operations."""

import math
import random
import time

from gradsight.v1 import event_pb2, spec_pb2, state_pb2, worker_pb2
from gradsight_store import attempts, dispatch, jobs, workers
from gradsight_store.operations import Answer, JobRef, new_operation_id
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store

_LEASE_S = 3600.0
_TENANT = "default"


class FedJob:
    """A RUNNING job and its term. `append` adds events as the holder of the job would."""

    def __init__(self, store: Store, number: int) -> None:
        """Create the job and claim it for a worker of its own. No dispatcher may run meanwhile."""
        self._store = store
        spec = spec_pb2.JobSpec(name="fed", queue="default")
        spec.model.builtin.mlp.hidden_sizes.extend((128, 128))
        created = store.run(
            jobs.create_job(_TENANT, spec, request_id="", request_digest="", operation_id=new_operation_id())
        )
        self.ref = JobRef(_TENANT, created.job.job_id)
        worker_id = f"feeder-{number}"
        store.run(workers.register_worker(worker_pb2.Worker(worker_id=worker_id, queue="default")))
        assigned = store.run(dispatch.assign(self.ref, worker_id, operation_id=new_operation_id()))
        claim = store.run(
            attempts.claim(
                self.ref, assigned.term, worker_id=worker_id, device="cpu", operation_id=new_operation_id()
            )
        )
        assert claim.answer is Answer.APPLIED
        self._term = assigned.term
        self._projection = JobProjection(claim.record.job, claim.findings)
        self._step = 0

    def append(self, *events: event_pb2.JobEvent) -> None:
        """Append events to the job's log in one go, the figures folded in."""
        for event in events:
            apply_event(self._projection, event)
        appended = self._store.run(
            attempts.append_events(
                self.ref, self._term, events, self._projection, operation_id=new_operation_id()
            )
        )
        assert appended.answer is Answer.APPLIED

    def steps(self, count: int, *, layers: int = 0) -> event_pb2.JobEvent:
        """The next batch of steps, stamped with the time of now; with layers, it ends in a probe."""
        first, self._step = self._step + 1, self._step + count
        steps = event_pb2.StepsRecorded(
            first_step=first,
            loss=[2 / math.sqrt(first + i) + random.random() / 10 for i in range(count)],
            gradient_norm=[random.random() for _ in range(count)],
            learning_rate=[1e-3] * count,
            clip_factor=[1.0] * count,
            samples_total=64 * self._step,
            training_seconds=self._step / 1000,
        )
        if layers:
            steps.probes.add(
                step=self._step,
                layer_gradient_norm=[random.random() for _ in range(layers)],
                layer_gradient_rms=[random.random() for _ in range(layers)],
                layer_weight_norm=[random.random() for _ in range(layers)],
                layer_update_ratio=[random.random() / 100 for _ in range(layers)],
                gain_ratio=random.random(),
            )
        steps.last_step_time.FromNanoseconds(time.time_ns())
        return event_pb2.JobEvent(steps_recorded=steps)

    def beginning(self, *, layers: int, categories: int) -> tuple[event_pb2.JobEvent, event_pb2.JobEvent]:
        """What comes before the steps, a model of so many layers; and an evaluation of so many categories."""
        built = event_pb2.ModelBuilt(architecture="mlp", total_steps=1_000_000, steps_per_epoch=1000)
        for index in range(layers):
            built.layers.add(index=index, path=f"hidden.{index}", kind="Linear", parameters=16_512)
        evaluation = event_pb2.EvaluationCompleted(
            split=state_pb2.SPLIT_VALIDATION,
            step=0,
            examples=1000,
            loss=random.random(),
            error_ratio=random.random(),
        )
        for index in range(categories):
            evaluation.categories.add(
                category=f"category {index}",
                examples=100,
                errors=index,
                error_ratio=index / 100,
                loss=random.random(),
            )
        return event_pb2.JobEvent(model_built=built), event_pb2.JobEvent(evaluation_completed=evaluation)


def feeder_settings(url: str) -> StoreSettings:
    """Settings under which jobs and their workers need no renewal for the length of a benchmark."""
    return StoreSettings(url=url, lease_s=_LEASE_S, worker_lease_s=_LEASE_S)
