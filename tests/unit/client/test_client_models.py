"""What a client can train: exported modules and recipes, and what earlier jobs left."""

import asyncio
import copy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gradsight
from gradsight import ExportedModel, InvalidRequest, InvalidSpec, JobSpec, Patience, aio
from gradsight.v1 import artifact_pb2, state_pb2, worker_pb2

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService

QUICK = Patience(first_pause=0.02, longest_pause=0.2, reconnect=10.0)
EXPORTED = ExportedModel(b'{"format": "gradsight.graph"}', b"weights")


class Module:
    """Looks like a module of torch, which is not needed here."""

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def client(service: "LittleService") -> Iterator[gradsight.Client]:
    with gradsight.Client(service.address, patience=QUICK) as client:
        yield client


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,y\n1,2,yes\n")
    return path


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for the package that needs torch; keeps what it was called with."""
    calls: list[tuple[Any, ...]] = []

    def export_program(module: Any, examples: Any, **options: Any) -> ExportedModel:
        calls.append((module, examples, options))
        return EXPORTED

    package = types.SimpleNamespace(export_program=export_program)
    monkeypatch.setitem(sys.modules, "gradsight_models", types.SimpleNamespace(program=package))
    monkeypatch.setitem(sys.modules, "gradsight_models.program", package)
    return calls


def test_an_exported_model_is_two_files(tmp_path: Path) -> None:
    folder = EXPORTED.save(tmp_path / "new" / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["graph.json", "weights.safetensors"]
    assert ExportedModel.load(folder) == EXPORTED
    assert repr(EXPORTED) == "ExportedModel(<graph of 29 bytes>, <weights of 7 bytes>)"
    with pytest.raises(OSError, match=r"graph\.json"):
        ExportedModel.load(tmp_path)


def test_an_exported_model_is_uploaded_and_named_by_its_digests(
    service: "LittleService", client: gradsight.Client, rows: Path
) -> None:
    spec = JobSpec(model=EXPORTED, train=rows, target="y")
    spec = copy.deepcopy(spec)  # as sending it to another process does
    assert dict(zip(("graph", "weights"), EXPORTED.digests, strict=True)) == spec["model"]["program"]
    program = client.submit(spec).get().spec["model"]["program"]
    for name, content, kind in (
        ("graph", EXPORTED.graph, artifact_pb2.ARTIFACT_KIND_GRAPH),
        ("weights", EXPORTED.weights, artifact_pb2.ARTIFACT_KIND_WEIGHTS),
    ):
        artifact, stored = service.blobs[program[name]]
        assert (stored, artifact.kind) == (content, kind)
    uploads = service.calls.count("WriteUpload")
    client.submit(spec)
    assert service.calls.count("WriteUpload") == uploads, "what is there is not sent again"


def test_a_module_is_exported_with_its_example_inputs(
    service: "LittleService", client: gradsight.Client, rows: Path, exporter: list[tuple[Any, ...]]
) -> None:
    module = Module()
    job = client.submit(model=module, example_inputs=("batch",), train=rows, target="y")
    assert exporter == [(module, ("batch",), {"input_names": None, "output": None})]
    assert service.jobs[job.job_id].spec.model.program.graph == EXPORTED.digests[0]
    assert gradsight.export(module, ("batch",), input_names=["x"], output=1) == EXPORTED
    assert exporter[-1][2] == {"input_names": ["x"], "output": 1}


def test_modules_and_example_inputs_go_together() -> None:
    with pytest.raises(InvalidSpec, match="got a module without example_inputs"):
        JobSpec(model=Module())
    with pytest.raises(InvalidSpec, match="beside a module only"):
        JobSpec(model="mlp", example_inputs=("batch",))


def test_exporting_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradsight_models.program", None)
    with pytest.raises(gradsight.MissingExtra, match=r"gradsight\[models\]"):
        gradsight.export(Module(), ("batch",))


def test_files_of_a_program_are_paths_or_digests_or_a_folder(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    for model, graph, weights in (
        ({"graph": "g.json", "weights": digest}, str(tmp_path / "g.json"), digest),
        ("saved", str(tmp_path / "saved" / "graph.json"), str(tmp_path / "saved" / "weights.safetensors")),
        (Path("/saved"), "/saved/graph.json", "/saved/weights.safetensors"),
    ):
        spec = JobSpec({"model": {"program": model}}, directory=tmp_path)
        assert spec["model"] == {"program": {"graph": graph, "weights": weights}}
        assert JobSpec(spec)["model"] == spec["model"]


def test_a_file_of_a_program_that_is_not_there_is_named(client: gradsight.Client, rows: Path) -> None:
    model = {"program": {"graph": "/no/g.json", "weights": "/no/w.safetensors"}}
    with pytest.raises(InvalidSpec, match=r"model.program.graph: /no/g\.json cannot be uploaded"):
        client.submit(model=model, train=rows, target="y")


def test_options_of_a_recipe_are_text_whatever_they_mean() -> None:
    spec = JobSpec(model={"recipe": {"name": "lora", "options": {"rank": 8, "rate": 0.5, "merge": True}}})
    assert spec["model"]["recipe"]["options"] == {"rank": "8", "rate": "0.5", "merge": "true"}
    assert JobSpec(model={"recipe": "lora"})["model"] == {"recipe": {"name": "lora"}}


def test_short_names_reach_their_sections() -> None:
    spec = JobSpec(
        {"start": {"extend": "old"}, "evaluation": {"interval_steps": 5}},
        objective="mean_squared_error",
        precision="bfloat16",
        patience=4,
        from_job="older",
        schedule={"step": {"milestones": [0.5, 0.9]}},
        compute={"deterministic": True},
        result={"onnx": True},
    )
    assert spec["objective"] == "mean_squared_error"
    assert spec["start"] == {"from_job": "older"}
    assert spec["evaluation"] == {"interval_steps": 5, "patience": 4}
    assert spec["compute"] == {"precision": "bfloat16", "deterministic": True}
    assert spec["schedule"] == {"step": {"milestones": [0.5, 0.9]}}
    assert spec["result"] == {"onnx": True}
    weighed = JobSpec(objective={"cross_entropy": {"class_weighting": "balanced"}})
    assert weighed["objective"] == {"cross_entropy": {"class_weighting": "balanced"}}


def test_a_job_stands_for_its_id(client: gradsight.Client) -> None:
    handle = client.job("older")
    assert JobSpec(from_job=handle)["start"] == {"from_job": "older"}
    assert JobSpec(start={"extend": handle})["start"] == {"extend": "older"}


def test_extend_goes_on_with_the_stored_spec(
    service: "LittleService", client: gradsight.Client, rows: Path
) -> None:
    first = client.submit(model="mlp", train=rows, target="y", steps=10, seed=3, name="weekly")
    service.change(first.job_id, state_pb2.JOB_STATE_SUCCEEDED)
    second = first.extend(epochs=20, request_id="more")
    assert first.extend(epochs=20, request_id="more").job_id == second.job_id != first.job_id
    spec = second.get().spec
    assert spec["start"] == {"extend": first.job_id}
    assert spec["budget"] == {"epochs": 20}
    assert (spec["seed"], spec["name"]) == (3, "weekly")
    third = second.extend(steps=99).get().spec
    assert (third["start"], third["budget"]) == ({"extend": second.job_id}, {"steps": 99})


@pytest.mark.parametrize("budget", [{}, {"epochs": 1, "steps": 1}, {"epochs": 0}, {"steps": 2**31}])
def test_extend_takes_one_length(client: gradsight.Client, service: "LittleService", budget: Any) -> None:
    service.add_job("job1")
    with pytest.raises(InvalidRequest):
        client.job("job1").extend(**budget)


def test_the_asyncio_client_extends_and_lists_recipes_too(service: "LittleService", rows: Path) -> None:
    recipe = worker_pb2.Recipe(name="lora", description="Fine-tunes.")
    recipe.options.add(name="rank", default_value="8")
    service.recipes.append(recipe)

    async def use() -> None:
        async with aio.Client(service.address, patience=QUICK) as client:
            [found] = await client.recipes()
            assert (found.name, found.options[0].default_value) == ("lora", "8")
            spec = JobSpec(JobSpec(model=EXPORTED, target="y"), train=rows)
            job = await client.submit(spec)
            longer = await job.extend(epochs=9)
            assert (await longer.get()).spec["start"] == {"extend": job.job_id}

    asyncio.run(use())
    assert EXPORTED.digests[0] in service.blobs
