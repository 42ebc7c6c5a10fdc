"""Jobs that begin with earlier ones, and recipes: what Create checks, and what it lists."""

import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from gradsight.v1 import event_pb2, job_pb2, spec_pb2, state_pb2, worker_pb2
from gradsight.v1 import training_service_pb2 as pb
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store
from gradsight_store.workers import register_worker, remove_worker

Service = Any
Refused = Callable[[Callable[[], Any]], Any]

CODE = grpc.StatusCode


def finished(service: Service, worker: Any, queue: str, *parts: str) -> job_pb2.Job:
    """A job that has done 100 steps, 5 epochs, and has succeeded."""
    job_id = service.create(f'queue: "{queue}"', *parts).job_id
    attempt = worker(queue).wait_for_job()
    built = event_pb2.ModelBuilt(architecture="mlp", total_steps=100, steps_per_epoch=20)
    steps = event_pb2.StepsRecorded(first_step=1, loss=[1.0] * 100, gradient_norm=[1.0] * 100)
    attempt.append(event_pb2.JobEvent(model_built=built), event_pb2.JobEvent(steps_recorded=steps))
    attempt.finish(state_pb2.JOB_STATE_SUCCEEDED)
    job: job_pb2.Job = service.training.GetJob(pb.GetJobRequest(job_id=job_id)).job
    return job


def extending(job: job_pb2.Job, change: Callable[[spec_pb2.JobSpec], object]) -> pb.CreateJobRequest:
    """A request to go on with a job, with a change of its spec."""
    spec = spec_pb2.JobSpec()
    spec.CopyFrom(job.spec)
    spec.start.extended_job_id = job.job_id
    change(spec)
    return pb.CreateJobRequest(spec=spec, validate_only=True)


@pytest.fixture(scope="module")
def shared() -> dict[str, job_pb2.Job]:
    return {}


@pytest.fixture
def done(service: Service, worker: Any, shared: dict[str, job_pb2.Job]) -> job_pb2.Job:
    """One finished job for all tests here."""
    if "done" not in shared:
        shared["done"] = finished(service, worker, "starts", "budget { epochs: 5 }")
    return shared["done"]


def test_a_longer_budget_extends_a_job(service: Service, done: job_pb2.Job) -> None:
    def change(spec: spec_pb2.JobSpec) -> None:
        spec.budget.epochs = 6
        spec.name, spec.queue, spec.evaluation.patience = "longer", "other", 3
        spec.result.onnx = True

    answer = service.training.CreateJob(extending(done, change))
    assert answer.job.spec.start.extended_job_id == done.job_id


@pytest.mark.parametrize(
    ("unit", "got", "done_before"),
    [("epochs", 5, "done 5"), ("epochs", 2, "done 5"), ("steps", 100, "done 100")],
)
def test_a_budget_that_is_used_up_extends_nothing(
    service: Service, refusal: Refused, done: job_pb2.Job, unit: str, got: int, done_before: str
) -> None:
    request = extending(done, lambda spec: setattr(spec.budget, unit, got))
    refused = refusal(lambda: service.training.CreateJob(request))
    assert list(refused.fields) == [f"budget.{unit}"]
    assert f"got {got}, and the extended job has {done_before}" in refused.fields[f"budget.{unit}"]


def test_an_extension_with_another_spec_is_refused_with_the_difference(
    service: Service, refusal: Refused, done: job_pb2.Job
) -> None:
    def change(spec: spec_pb2.JobSpec) -> None:
        spec.budget.epochs = 9
        spec.optimizer.learning_rate = 0.5

    refused = refusal(lambda: service.training.CreateJob(extending(done, change)))
    assert (refused.code, refused.reason) == (CODE.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refused.fields == {
        "optimizer.learning_rate": "got 0.5, but the extended job has 0.001; allowed the same: "
        "start.weights_job_id begins anew from its weights"
    }


def test_weights_of_the_same_model_begin_a_job(service: Service, refusal: Refused, done: job_pb2.Job) -> None:
    start = f'start {{ weights_job_id: "{done.job_id}" }}'
    sound = service.spec(start, "optimizer { sgd {} } seed: 9")
    assert service.training.CreateJob(pb.CreateJobRequest(spec=sound, validate_only=True)).job.spec.name
    for part, path in (
        ("model { builtin { mlp { hidden_sizes: 7 } } }", "model.builtin.mlp.hidden_sizes"),
        ("objective { mean_squared_error {} }", "objective.mean_squared_error"),
    ):
        other = pb.CreateJobRequest(spec=service.spec(start, part))
        refused = refusal(lambda other=other: service.training.CreateJob(other))  # type: ignore[misc]
        assert list(refused.fields) == [path]


@pytest.mark.parametrize("how", ["extended_job_id", "weights_job_id"])
def test_a_job_begins_only_with_one_that_has_succeeded(service: Service, refusal: Refused, how: str) -> None:
    queued = service.create('queue: "never"').job_id
    for job_id, message in ((queued, "got a job that is QUEUED"), ("nobody", "which no job has")):
        spec = service.spec(f'start {{ {how}: "{job_id}" }}')
        refused = refusal(lambda spec=spec: service.training.CreateJob(pb.CreateJobRequest(spec=spec)))  # type: ignore[misc]
        assert list(refused.fields) == [f"start.{how}"]
        assert message in refused.fields[f"start.{how}"]


def test_a_baseline_answers_the_same_kind_of_question(
    service: Service, refusal: Refused, done: job_pb2.Job
) -> None:
    baseline = f'evaluation {{ baseline_job_id: "{done.job_id}" }}'
    spec = service.spec(baseline, "objective { huber {} }")
    refused = refusal(lambda: service.training.CreateJob(pb.CreateJobRequest(spec=spec)))
    said = "got a job that answers classes, allowed one that answers numbers as this one does"
    assert refused.fields == {"evaluation.baseline_job_id": said}


def test_recipes_are_listed_and_their_options_checked_while_a_worker_has_them(
    service: Service, refusal: Refused
) -> None:
    recipe = worker_pb2.Recipe(name="lora", description="Fine-tunes.")
    recipe.options.add(name="directory", description="Where the model is.", required=True)
    recipe.options.add(name="rank", description="Rank.", default_value="8")
    misspelt = service.spec('model { recipe { name: "lora" options { key: "rnak" value: "4" } } }')
    request = pb.CreateJobRequest(spec=misspelt, validate_only=True)
    assert service.training.CreateJob(request).job.spec.name == "lora"
    with contextlib.closing(Store.open(StoreSettings(url=service.store_server.url))) as store:
        store.run(register_worker(worker_pb2.Worker(worker_id="has-recipes", queue="r", recipes=[recipe])))
        assert list(service.training.ListRecipes(pb.ListRecipesRequest()).recipes) == [recipe]
        refused = refusal(lambda: service.training.CreateJob(request))
        assert refused.fields == {
            'model.recipe.options["rnak"]': 'got an option that lora does not have, nearest is "rank"',
            'model.recipe.options["directory"]': "required: Where the model is.",
        }
        store.run(remove_worker("has-recipes"))
    assert not service.training.ListRecipes(pb.ListRecipesRequest()).recipes
