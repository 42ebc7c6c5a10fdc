"""Every kind of model, objective, file and option through the real trainer, from a spec to a result."""

import io
import json
import select
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from torch import nn

import gradsight
from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_models import load_result
from gradsight_models.program import export_program
from gradsight_service.defaults import with_defaults
from gradsight_worker.training.channel import (
    AttemptChannel,
    CheckpointMessage,
    EventMessage,
    FailureMessage,
    Message,
    ResultMessage,
    open_channel,
)
from gradsight_worker.training.plan import DataFile, ExitStatus, TrainingPlan
from gradsight_worker.training.trainer import run_trainer

DICE = np.random.default_rng(0)


@dataclass
class Outcome:
    """What a run said and how it ended."""

    status: int
    messages: list[Message] = field(default_factory=list)

    def events(self, kind: str) -> list[Any]:
        events = [message.event for message in self.messages if isinstance(message, EventMessage)]
        return [getattr(event, kind) for event in events if event.HasField(kind)]  # type: ignore[arg-type]

    @property
    def error(self) -> state_pb2.JobError:
        return next(m.error for m in self.messages if isinstance(m, FailureMessage))

    @property
    def checkpoints(self) -> list[Path]:
        return [m.path for m in self.messages if isinstance(m, CheckpointMessage)]

    @property
    def files(self) -> dict[str, Path]:
        files = next(m.files for m in self.messages if isinstance(m, ResultMessage))
        return {file.filename: file.path for file in files}

    @property
    def result(self) -> Any:
        assert self.status == ExitStatus.SUCCEEDED, self.messages[-1]
        return load_result(self.files["manifest.json"].parent)

    @property
    def validation(self) -> list[event_pb2.EvaluationCompleted]:
        return [e for e in self.events("evaluation_completed") if e.split == state_pb2.SPLIT_VALIDATION]

    @property
    def test(self) -> event_pb2.EvaluationCompleted:
        evaluations: list[event_pb2.EvaluationCompleted] = self.events("evaluation_completed")
        return next(event for event in evaluations if event.split == state_pb2.SPLIT_TEST)

    @property
    def lines(self) -> list[str]:
        return [line.message for line in self.events("log_line")]


def plan_of(directory: Path, spec: Mapping[str, Any], data: Path) -> TrainingPlan:
    """The plan that a worker makes of a spec in human form with its rows at `data`."""
    sections = {**spec.get("data", {}), "train": str(data)}
    message = with_defaults(gradsight.JobSpec({**spec, "data": sections})._message)
    directory.mkdir(exist_ok=True)
    return TrainingPlan(
        job_id="job",
        attempt=1,
        spec=message,
        device="cpu",
        directory=directory,
        train=DataFile(path=data, format=spec_pb2.DATA_FORMAT_UNSPECIFIED, filename=data.name),
        threads=1,
    )


def train(plan: TrainingPlan) -> Outcome:
    """Run the plan here, its channel read as an attempt would."""
    ours, theirs = open_channel()
    outcome = Outcome(status=-1)
    reader = threading.Thread(target=_read_all, args=(theirs, outcome.messages))
    reader.start()
    outcome.status = run_trainer(plan, ours)
    ours.close()
    reader.join(timeout=30)
    return outcome


def _read_all(channel: AttemptChannel, messages: list[Message]) -> None:
    while not channel.closed:
        select.select([channel], [], [], 1.0)
        messages += channel.receive()


@pytest.fixture(autouse=True)
def _processor_left_as_it_was() -> Iterator[None]:
    """A trainer sets up the processor of its own process; here it is the suite's."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 rows: numbers with gaps, words, a constant, and targets of every kind."""
    path = tmp_path_factory.mktemp("table") / "table.jsonl"
    with path.open("w") as file:
        for _ in range(600):
            a, b = DICE.normal(size=2).round(3).tolist()
            shop = DICE.choice(["north", "south", "west"]).item()
            price = 1000 + 50 * a - 30 * b + (40 if shop == "north" else 0) + DICE.normal()
            tags = [
                name for name, holds in (("warm", a > 0), ("wide", b > 0), ("near", shop == "west")) if holds
            ]
            row = {"a": a if DICE.random() > 0.05 else None, "b": b, "shop": shop, "always": 3}
            row |= {"price": price, "tags": tags, "kind": "high" if a > b else "low", "yes": int(a > 0)}
            file.write(json.dumps(row) + "\n")
    return path


MLP = {"model": {"mlp": {"hidden_sizes": [32], "dropout": 0.0}}, "optimizer": {"learning_rate": 0.01}}


def table_spec(target: str, objective: object = None, **sections: Any) -> dict[str, Any]:
    data = {"target": target, "inputs": ["a", "b", "shop", "always"], "batch_size": 32}
    spec = {**MLP, "data": data, "budget": {"epochs": 12}, **sections}
    return spec if objective is None else {**spec, "objective": objective}


@pytest.mark.parametrize(
    "objective", ["mean_squared_error", {"huber": {"delta": 0.5}}, "mean_absolute_error"]
)
def test_a_number_is_learnt_and_answered_in_its_own_units(
    objective: object, table: Path, tmp_path: Path
) -> None:
    outcome = train(plan_of(tmp_path / "run", table_spec("price", objective), table))
    result = outcome.result
    assert not outcome.test.HasField("error_ratio")
    assert outcome.test.root_mean_square_error < 25 < 60
    assert outcome.test.loss < outcome.events("data_prepared")[0].prior_loss / 4
    answers = result.predict([{"a": 1.0, "b": 0.0, "shop": "north", "always": 3}])
    assert 1050 < answers[0].values["price"] < 1130


def test_several_labels_a_row_are_learnt(table: Path, tmp_path: Path) -> None:
    outcome = train(plan_of(tmp_path / "run", table_spec("tags", "binary_cross_entropy"), table))
    result = outcome.result
    assert outcome.test.macro_f1 > 0.9
    assert outcome.test.error_ratio < 0.25
    (answer,) = result.predict([{"a": 2.0, "b": -2.0, "shop": "west", "always": 3}])
    assert set(answer.labels) == {"warm", "near"}


def test_yes_and_no_is_one_label(table: Path, tmp_path: Path) -> None:
    outcome = train(plan_of(tmp_path / "run", table_spec("yes", "binary_cross_entropy"), table))
    assert outcome.result.outputs.names == ("yes",)
    assert outcome.test.error_ratio < 0.1


def test_gaps_words_and_constants_are_handled_and_said(table: Path, tmp_path: Path) -> None:
    outcome = train(plan_of(tmp_path / "run", table_spec("kind"), table))
    remarks = {remark.column: remark for remark in outcome.events("data_prepared")[0].column_remarks}
    assert remarks["a"].missing_rows > 10
    assert remarks["always"].constant
    assert any('"always" has the same value' in line for line in outcome.lines)
    assert any('"a" has no value in' in line for line in outcome.lines)
    answers = outcome.result.predict([{"a": None, "b": -3.0, "shop": "elsewhere", "always": None}])
    assert answers[0].label == "high"


OPTIONS: dict[str, dict[str, Any]] = {
    "sgd, one cycle": {
        "optimizer": {"sgd": {"nesterov": True}, "learning_rate": 0.05},
        "schedule": "one_cycle",
    },
    "adam, linear": {"optimizer": {"adam": {}, "learning_rate": 0.01}, "schedule": "linear"},
    "adafactor, step": {"optimizer": {"adafactor": {}, "learning_rate": 0.02}, "schedule": "step"},
    "muon, plateau": {"optimizer": {"muon": {}}, "schedule": {"plateau": {"patience": 1}}},
    "average": {"optimizer": {"learning_rate": 0.01, "average_decay": 0.98}, "schedule": "constant"},
    "parts": {"optimizer": {"learning_rate": 0.01, "accumulation_steps": 4, "max_gradient_value": 0.5}},
    "bfloat16": {"compute": {"precision": "bfloat16"}},
    "deterministic": {"compute": {"deterministic": True}},
    "smoothed": {"objective": {"cross_entropy": {"label_smoothing": 0.1, "class_weighting": "balanced"}}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_training_learns_a_table(name: str, table: Path, tmp_path: Path) -> None:
    outcome = train(plan_of(tmp_path / "run", table_spec("kind", **OPTIONS[name]), table))
    assert outcome.result.outputs.names == ("high", "low")
    assert outcome.test.error_ratio < 0.15


def test_a_run_without_improvement_stops_early_and_says_so(table: Path, tmp_path: Path) -> None:
    sections = {"evaluation": {"patience": 2, "min_improvement": 0.5}, "budget": {"epochs": 50}}
    outcome = train(plan_of(tmp_path / "run", table_spec("kind", **sections), table))
    (stopped,) = outcome.events("training_stopped")
    assert "no improvement in 2 evaluations" in stopped.message
    assert len(outcome.validation) == 3
    assert outcome.status == ExitStatus.SUCCEEDED


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 images of 12 × 12: a bright bar that lies or stands."""
    images = DICE.integers(0, 90, size=(400, 1, 12, 12)).astype(np.uint8)
    lies = DICE.integers(0, 2, size=400)
    for image, lying in zip(images, lies.tolist(), strict=True):
        place = int(DICE.integers(1, 10))
        if lying:
            image[0, place, 1:11] = 250
        else:
            image[0, 1:11, place] = 250
    path = tmp_path_factory.mktemp("pictures") / "pictures.safetensors"
    safetensors.numpy.save_file({"image": images, "lies": lies.astype(np.int64)}, path)
    return path


def test_images_are_learnt_from_tensors(pictures: Path, tmp_path: Path) -> None:
    spec = {
        "model": {"cnn": {"channels": [8, 16]}},
        "data": {"target": "lies", "batch_size": 32},
        "optimizer": {"learning_rate": 0.005},
        "budget": {"epochs": 6},
    }
    outcome = train(plan_of(tmp_path / "run", spec, pictures))
    result = outcome.result
    assert outcome.test.error_ratio < 0.1
    image = np.zeros((1, 12, 12), dtype=np.uint8)
    image[0, 5, 1:11] = 250
    assert result.predict([{"image": image}])[0].label == "1"


def test_images_are_learnt_from_an_archive_of_folders(pictures: Path, tmp_path: Path) -> None:
    columns = safetensors.numpy.load_file(pictures)
    archive = tmp_path / "pictures.tar"
    with tarfile.open(archive, "w") as members:
        for number, (image, lies) in enumerate(zip(columns["image"], columns["lies"], strict=True)):
            file = io.BytesIO()
            Image.fromarray(image[0]).save(file, "PNG")
            member = tarfile.TarInfo(f"bars/{'lying' if lies else 'standing'}/{number}.png")
            member.size = file.tell()
            file.seek(0)
            members.addfile(member, file)
    spec = {
        "model": {"cnn": {"channels": [8, 16], "image_size": 12}},
        "data": {"target": "label", "batch_size": 32},
        "optimizer": {"learning_rate": 0.005},
        "budget": {"epochs": 6},
    }
    outcome = train(plan_of(tmp_path / "run", spec, archive))
    assert list(outcome.events("data_prepared")[0].classes) == ["lying", "standing"]
    assert outcome.test.error_ratio < 0.1


@pytest.fixture(scope="module")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 short texts in two classes."""
    path = tmp_path_factory.mktemp("phrases") / "phrases.csv"
    lines = ["text,intent"]
    for number in range(500):
        back = number % 2
        thing = DICE.choice(["shoes", "boots", "laces", "sandals"])
        wish, intent = ("take back the", "return") if back else ("find a size for my", "size")
        lines.append(f"please {wish} {thing} {number},{intent}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_transformer_learns_texts(phrases: Path, tmp_path: Path) -> None:
    model = {"text_transformer": {"layers": 1, "width": 32, "heads": 2, "max_vocabulary": 400}}
    spec = {"model": model, "data": {"text": "text", "target": "intent"}, "budget": {"epochs": 5}}
    outcome = train(plan_of(tmp_path / "run", {**spec, "optimizer": {"learning_rate": 0.003}}, phrases))
    assert outcome.test.error_ratio < 0.05
    assert outcome.result.predict(["take back the boots"])[0].label == "return"


def test_a_language_model_learns_what_comes_next(phrases: Path, tmp_path: Path) -> None:
    model = {"gpt": {"layers": 1, "width": 32, "heads": 2, "context_length": 16, "max_vocabulary": 300}}
    spec = {"model": model, "data": {"text": "text"}, "budget": {"epochs": 6}}
    outcome = train(plan_of(tmp_path / "run", {**spec, "optimizer": {"learning_rate": 0.01}}, phrases))
    prepared = outcome.events("data_prepared")[0]
    assert outcome.test.loss < prepared.prior_loss / 2
    assert outcome.test.perplexity == pytest.approx(np.exp(outcome.test.loss), rel=1e-4)
    assert outcome.result.generate("please take", tokens=4).startswith(" back the")


class Towers(nn.Module):
    """Two inputs, batch norm and dropout: what a user brings along."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.numbers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1))
        self.output = nn.Linear(16, 2)

    def forward(self, tokens: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        scores: torch.Tensor = self.output(
            torch.cat([self.words(tokens).mean(dim=1), self.numbers(numbers)], dim=1)
        )
        return scores


def program_plan(plan: TrainingPlan, module: nn.Module, example: Any) -> TrainingPlan:
    exported = export_program(module, example)
    graph, weights = plan.directory / "graph.json", plan.directory / "weights.safetensors"
    graph.write_bytes(exported.graph)
    weights.write_bytes(exported.weights)
    return replace(plan, graph=graph, weights=weights)


PROGRAM = {"program": {"graph": f"sha256:{'0' * 64}", "weights": f"sha256:{'1' * 64}"}}


def test_a_module_of_the_users_own_learns_from_two_inputs(tmp_path: Path) -> None:
    tokens = DICE.integers(0, 20, size=(500, 5))
    numbers = DICE.normal(size=(500, 3)).astype(np.float32)
    target = ((tokens < 8).sum(axis=1) + numbers[:, 0] > 2).astype(np.int64)
    path = tmp_path / "rows.safetensors"
    safetensors.numpy.save_file({"tokens": tokens, "numbers": numbers, "above": target}, path)
    torch.manual_seed(3)
    module = Towers()
    spec = {"model": PROGRAM, "data": {"target": "above", "batch_size": 32}, "budget": {"epochs": 15}}
    plan = plan_of(tmp_path / "run", {**spec, "optimizer": {"learning_rate": 0.01}}, path)
    outcome = train(program_plan(plan, module, (torch.tensor(tokens[:4]), torch.tensor(numbers[:4]))))
    assert outcome.test.error_ratio < 0.15
    kinds = {layer.path: layer.kind for layer in outcome.events("model_built")[0].layers}
    assert kinds["numbers.1"] == "BatchNorm1d"
    (answer,) = outcome.result.predict([{"tokens": tokens[0], "numbers": numbers[0]}])
    assert answer.label in ("0", "1")


class NextToken(nn.Module):
    """A small language model of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.mix = nn.Linear(16, 32)
        self.output = nn.Linear(32, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores [rows, tokens, 11]."""
        scores: torch.Tensor = self.output(torch.relu(self.mix(self.embedding(tokens))))
        return scores


def test_a_language_model_of_the_users_own_learns_what_comes_next(tmp_path: Path) -> None:
    # A line begins anywhere, in one of many ways, and goes on by threes.
    tokens = (DICE.integers(0, 11, size=(400, 1)) + 3 * np.arange(12)) % 11
    tokens[:, :3] = DICE.integers(0, 11, size=(400, 3))
    path = tmp_path / "tokens.safetensors"
    ids = np.arange(400)
    safetensors.numpy.save_file({"tokens": tokens, "number": ids}, path)
    spec = {"model": PROGRAM, "objective": "causal_language_model", "budget": {"epochs": 12}}
    spec |= {"data": {"inputs": ["tokens"], "id": "number"}, "optimizer": {"learning_rate": 0.03}}
    plan = plan_of(tmp_path / "run", spec, path)
    outcome = train(program_plan(plan, NextToken(), torch.tensor(tokens[:4])))
    assert outcome.status == ExitStatus.SUCCEEDED, outcome.messages[-1]
    # Three of eleven places cannot be foreseen.
    assert outcome.test.error_ratio < 0.3
    assert outcome.test.error_ratio < outcome.events("data_prepared")[0].prior_error_ratio / 2


def test_onnx_is_written_on_request(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    spec = table_spec("kind", result={"onnx": True}, budget={"epochs": 1})
    outcome = train(plan_of(tmp_path / "run", spec, table))
    assert outcome.status == ExitStatus.SUCCEEDED, outcome.messages[-1]
    assert outcome.files["model.onnx"].stat().st_size > 1000


def test_a_job_begins_with_the_weights_of_another(table: Path, tmp_path: Path) -> None:
    first = train(plan_of(tmp_path / "first", table_spec("kind"), table))
    plan = plan_of(tmp_path / "second", table_spec("kind", budget={"steps": 1}), table)
    start = first.files["manifest.json"].parent
    second = train(replace(plan, start_weights=start))
    assert second.validation[0].error_ratio <= first.validation[-1].error_ratio + 0.05
    other = plan_of(tmp_path / "third", table_spec("kind", model={"mlp": {"hidden_sizes": [8]}}), table)
    refused = train(replace(other, start_weights=start))
    assert refused.error.field == "start.weights_job_id"
    assert "both must have the same" in refused.error.message


def test_a_finished_job_goes_on_with_more_budget(table: Path, tmp_path: Path) -> None:
    schedule = {"schedule": "constant"}
    first = train(plan_of(tmp_path / "first", table_spec("kind", **schedule, budget={"epochs": 2}), table))
    longer = table_spec("kind", **schedule, budget={"epochs": 4})
    second = train(replace(plan_of(tmp_path / "second", longer, table), extended=first.checkpoints[-1]))
    whole = train(plan_of(tmp_path / "whole", longer, table))
    assert second.events("steps_recorded")[0].first_step == first.events("steps_recorded")[
        -1
    ].first_step + len(first.events("steps_recorded")[-1].loss)
    for name, value in whole.result.module.state_dict().items():
        assert torch.equal(value, second.result.module.state_dict()[name])
    other = train(
        replace(
            plan_of(tmp_path / "other", table_spec("kind", **schedule, seed=5), table),
            extended=first.checkpoints[-1],
        )
    )
    assert other.error.field == "start.extended_job_id"
    assert "seed" in other.error.message


STREAMED: dict[str, dict[str, Any]] = {
    "table": table_spec("kind"),
    "phrases": {
        "model": {"text_classifier": {"embedding_size": 8}},
        "data": {"text": "text", "target": "intent"},
    },
    "sequences": {
        "model": {"gpt": {"layers": 1, "width": 16, "heads": 2, "context_length": 16, "max_vocabulary": 300}},
        "data": {"text": "text"},
    },
    "pictures": {"model": {"cnn": {"channels": [4]}}, "data": {"target": "lies"}},
}


@pytest.mark.parametrize("name", STREAMED)
def test_rows_that_do_not_fit_into_memory_train_the_same_weights(
    name: str, table: Path, phrases: Path, pictures: Path, tmp_path: Path
) -> None:
    path = {"table": table, "phrases": phrases, "sequences": phrases, "pictures": pictures}[name]
    weights = []
    for memory_bytes in (1 << 30, 1000):
        directory = tmp_path / str(memory_bytes)
        plan = plan_of(directory, {**STREAMED[name], "budget": {"epochs": 2}}, path)
        outcome = train(replace(plan, data_memory_bytes=memory_bytes))
        assert outcome.status == ExitStatus.SUCCEEDED
        weights.append(outcome.files["weights.safetensors"].read_bytes())
    assert weights[0] == weights[1]
