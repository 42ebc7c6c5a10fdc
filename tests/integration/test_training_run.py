"""Whole runs in forked trainer processes, over a real socketpair: results, resumes, drains, refusals."""

import csv
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_models import Prediction, load_result
from gradsight_worker.training.channel import (
    AttemptChannel,
    CheckpointMessage,
    Command,
    EventMessage,
    FailureMessage,
    Message,
    ResultMessage,
    TickMessage,
)
from gradsight_worker.training.plan import ExitStatus

GOLDEN = Path(__file__).parents[1] / "golden" / "mlp_cpu.txt"
DEADLINE_SECONDS = 60.0


@dataclass
class Run:
    """One attempt in a process of its own."""

    pid: int
    channel: AttemptChannel
    wait: Callable[[], int]
    messages: list[Message] = field(default_factory=list)

    def until(self, done: Callable[["Run"], bool]) -> None:
        """Receive until the condition holds or the trainer has closed its end."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not done(self) and not self.channel.closed:
            assert time.monotonic() < deadline, "the trainer says nothing more"
            select.select([self.channel], [], [], 1.0)
            self.messages += self.channel.receive()

    def finish(self) -> int:
        """Receive everything; the exit status."""
        self.until(lambda _: False)
        self.channel.close()
        return self.wait()

    def events(self, kind: str) -> list[Any]:
        events = [message.event for message in self.messages if isinstance(message, EventMessage)]
        return [getattr(event, kind) for event in events if event.HasField(kind)]  # type: ignore[arg-type]

    def one(self, kind: str) -> Any:
        (event,) = self.events(kind)
        return event

    @property
    def checkpoints(self) -> list[CheckpointMessage]:
        return [message for message in self.messages if isinstance(message, CheckpointMessage)]

    @property
    def error(self) -> state_pb2.JobError:
        (failure,) = [message for message in self.messages if isinstance(message, FailureMessage)]
        return failure.error

    @property
    def files(self) -> dict[str, Path]:
        (result,) = [message for message in self.messages if isinstance(message, ResultMessage)]
        return {file.filename: file.path for file in result.files}

    @property
    def losses(self) -> dict[int, float]:
        batches: list[event_pb2.StepsRecorded] = self.events("steps_recorded")
        return {batch.first_step + n: loss for batch in batches for n, loss in enumerate(batch.loss)}


class Zygote:
    """A process that has imported everything and forks trainers."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        script = Path(__file__).with_name("trainer_zygote.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        theirs.close()

    def start(
        self,
        spec: spec_pb2.JobSpec,
        directory: Path,
        files: dict[str, Path],
        *,
        attempt: int = 1,
        checkpoints: list[Path] | None = None,
        baseline: Path | None = None,
        spare_memory_bytes: int | None = None,
    ) -> Run:
        ours, theirs = socket.socketpair()
        request = {
            "spec": spec.SerializeToString().hex(),
            "directory": str(directory),
            "files": {name: str(path) for name, path in files.items()},
            "attempt": attempt,
            "checkpoints": [str(path) for path in checkpoints or []],
            "baseline": str(baseline) if baseline else None,
            "spare_memory_bytes": spare_memory_bytes,
        }
        socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
        theirs.close()
        pid = json.loads(self._control.recv(1000))["pid"]
        return Run(pid=pid, channel=AttemptChannel(ours), wait=lambda: self._wait(pid))

    def close(self) -> None:
        self._control.close()
        self._process.wait(timeout=10)

    def _wait(self, pid: int) -> int:
        self._control.sendall(json.dumps({"wait": pid}).encode())
        return int(json.loads(self._control.recv(1000))["status"])


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 rows of 8 numbers in 4 classes and 3 categories, not quite separable."""
    path = tmp_path_factory.mktemp("numbers") / "numbers.csv"
    dice = np.random.default_rng(0)
    values = dice.normal(size=(1000, 8)).round(4)
    classes = (values @ dice.normal(size=(8, 4)) + dice.normal(size=(1000, 4))).argmax(axis=1)
    categories = dice.choice(["returns", "sizing", "delivery"], size=1000, p=[0.5, 0.3, 0.2])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([f"x{n}" for n in range(8)] + ["kind", "category"])
        for row, kind, category in zip(values.tolist(), classes.tolist(), categories.tolist(), strict=True):
            writer.writerow([*row, f"class {kind}", category])
    return path


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 short texts in 3 classes, told apart by their words."""
    path = tmp_path_factory.mktemp("sentences") / "sentences.jsonl"
    dice = random.Random(0)
    words = {
        "return": ["send back", "return", "refund"],
        "size": ["too small", "size", "fit"],
        "where": ["where is", "parcel", "late"],
    }
    filler = ["my", "the", "shoes", "please", "order", "today", "hello", "again", "pair", "blue"]
    with path.open("w") as file:
        for number in range(600):
            intent = dice.choice(list(words))
            text = " ".join([*dice.choices(filler, k=4), dice.choice(words[intent]), str(number)])
            file.write(json.dumps({"text": text, "intent": intent}) + "\n")
    return path


def mlp_spec(**mlp: Any) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec(name="mlp", seed=11)
    spec.model.builtin.mlp.CopyFrom(spec_pb2.Mlp(hidden_sizes=[32, 32], dropout=0.1, **mlp))
    spec.data.target_column = "kind"
    spec.data.category_column = "category"
    _fill(spec, batch_size=32, learning_rate=3e-3, epochs=6)
    return spec


def text_spec() -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec(name="text_classifier", seed=11)
    spec.model.builtin.text_classifier.CopyFrom(
        spec_pb2.TextClassifier(embedding_size=16, max_vocabulary=500)
    )
    spec.data.target_column = "intent"
    spec.data.input_columns.append("text")
    _fill(spec, batch_size=32, learning_rate=5e-3, epochs=4)
    return spec


def _fill(spec: spec_pb2.JobSpec, *, batch_size: int, learning_rate: float, epochs: int) -> None:
    spec.data.batch_size = batch_size
    spec.data.split.CopyFrom(spec_pb2.SplitSpec(validation_fraction=0.2, test_fraction=0.2, seed=0))
    spec.objective.cross_entropy.label_smoothing = 0.0
    spec.optimizer.learning_rate = learning_rate
    spec.optimizer.weight_decay = 0.01
    spec.optimizer.max_gradient_norm = 1.0
    spec.optimizer.adamw.CopyFrom(spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8))
    spec.schedule.warmup_fraction = 0.05
    spec.schedule.cosine.final_fraction = 0.0
    spec.budget.epochs = epochs
    spec.checkpoint.interval.seconds = 30
    spec.checkpoint.keep = 2


def test_a_table_is_learnt_and_every_fact_is_reported(zygote: Zygote, numbers: Path, tmp_path: Path) -> None:
    run = zygote.start(mlp_spec(), tmp_path, {"train": numbers})
    assert run.finish() == ExitStatus.SUCCEEDED
    prepared = run.one("data_prepared")
    assert sum(side.rows for side in prepared.splits) == 1000
    assert [category.category for category in prepared.categories] == ["returns", "sizing", "delivery"]
    built = run.one("model_built")
    assert built.total_steps == 6 * built.steps_per_epoch
    assert [layer.path for layer in built.layers] == ["hidden.0.linear", "hidden.1.linear", "output"]
    assert sorted(run.losses) == list(range(1, built.total_steps + 1))
    evaluations = run.events("evaluation_completed")
    assert [e.split for e in evaluations] == [state_pb2.SPLIT_VALIDATION] * 6 + [state_pb2.SPLIT_TEST]
    assert evaluations[-1].error_ratio < 0.5 * prepared.prior_error_ratio
    assert sum(category.examples for category in evaluations[-1].categories) == evaluations[-1].examples
    assert any(probe for batch in run.events("steps_recorded") for probe in batch.probes)
    assert any(isinstance(message, TickMessage) for message in run.messages)


def test_what_was_measured_of_a_healthy_run_is_in_the_log_and_its_verdict_too(
    zygote: Zygote, numbers: Path, tmp_path: Path
) -> None:
    run = zygote.start(mlp_spec(), tmp_path, {"train": numbers})
    assert run.finish() == ExitStatus.SUCCEEDED
    (figures,) = run.one("data_prepared").inputs
    assert figures.largest > 1
    assert figures.deviation == pytest.approx(1.0, abs=0.1)
    probes = [probe for batch in run.events("steps_recorded") for probe in batch.probes]
    layers = len(run.one("model_built").layers)
    for probe in probes:
        assert sum(probe.layer_predicted_decrease) == pytest.approx(probe.predicted_decrease, rel=1e-4)
        assert len(probe.layer_activation_mean) == len(probe.layer_saturated_ratio) == layers
        # Half of a ReLU's outputs are 0, none of the scores are.
        assert all(0.1 < ratio < 0.9 for ratio in probe.layer_zero_ratio[:-1])
        assert probe.layer_zero_ratio[-1] == 0
    assert any(probe.HasField("gradient_noise_scale") for probe in probes)
    *earlier, last = [each for each in run.events("evaluation_completed") if each.split != 3]
    assert not earlier[0].HasField("loss_z")
    assert last.HasField("error_z")
    assert 0.25 < last.mean_confidence < 1
    assert 0 < last.calibration_error < 0.5
    assert last.answer_entropy_ratio == pytest.approx(1.0, abs=0.2)
    assert len(last.layer_dead_ratio) == layers
    assert max(last.layer_dead_ratio[:-1]) < 0.2
    assert last.update_efficacy.probes >= 8
    for category in last.categories:
        assert category.error_interval.lower < category.error_ratio < category.error_interval.upper
    verdict = run.events("verdict_reached")[-1].verdict
    assert verdict.confirmed
    assert verdict.kept_checkpoint_usable
    assert not [finding for finding in run.events("finding_opened") if finding.finding.severity == 3]
    assert not [line for line in run.events("log_line") if "failed" in line.message]


def test_measuring_changes_no_bit_of_the_result(zygote: Zygote, numbers: Path, tmp_path: Path) -> None:
    found = []
    for interval in (1, 1_000_000):
        spec = mlp_spec(normalization=spec_pb2.NORMALIZATION_BATCH)
        spec.monitoring.probe_interval_steps = interval
        run = zygote.start(spec, tmp_path / str(interval), {"train": numbers})
        assert run.finish() == ExitStatus.SUCCEEDED
        probes = sum(len(batch.probes) for batch in run.events("steps_recorded"))
        assert (probes > 100) == (interval == 1)
        kept = [each.kept for each in run.events("evaluation_completed")]
        weights = next(path for name, path in run.files.items() if name.endswith(".safetensors"))
        found.append((run.losses, kept, weights.read_bytes()))
    assert found[0] == found[1]


def test_the_examples_and_the_result_agree_with_the_test_figures(
    zygote: Zygote, numbers: Path, tmp_path: Path
) -> None:
    run = zygote.start(mlp_spec(), tmp_path, {"train": numbers})
    run.finish()
    rows = pyarrow.parquet.read_table(run.files["examples.parquet"]).to_pylist()
    test = run.events("evaluation_completed")[-1]
    held_out = [row for row in rows if row["split"] == "test"]
    assert len(held_out) == test.examples
    assert sum(not row["correct"] for row in held_out) == round(test.error_ratio * test.examples)
    assert np.mean([row["loss"] for row in held_out]) == pytest.approx(test.loss, rel=1e-5)
    model = load_result(run.files["manifest.json"].parent)
    with numbers.open(newline="") as file:
        original = list(csv.DictReader(file))
    sources = [original[int(row["row_id"]) - 1] for row in held_out]
    assert [source["kind"] for source in sources] == [row["target"] for row in held_out]
    answers = model.predict([{k: float(v) for k, v in s.items() if k[0] == "x"} for s in sources])
    predicted = [answer.label for answer in answers if isinstance(answer, Prediction)]
    assert predicted == [row["predicted"] for row in held_out]


def test_texts_are_learnt_and_an_earlier_result_is_judged_on_the_same_rows(
    zygote: Zygote, sentences: Path, tmp_path: Path
) -> None:
    first = zygote.start(text_spec(), tmp_path / "1", {"train": sentences})
    assert first.finish() == ExitStatus.SUCCEEDED
    spec = text_spec()
    spec.evaluation.baseline_job_id = "first"
    baseline = first.files["manifest.json"].parent
    second = zygote.start(spec, tmp_path / "2", {"train": sentences}, baseline=baseline)
    assert second.finish() == ExitStatus.SUCCEEDED
    ours, theirs = second.events("evaluation_completed")[-2:]
    assert theirs.baseline_job_id == "first"
    # Same rows, seed and spec: the earlier model is this one.
    assert theirs.error_ratio == ours.error_ratio <= 0.05
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-5)
    rows = pyarrow.parquet.read_table(second.files["examples.parquet"]).to_pylist()
    assert all(
        row["baseline_correct"] is (row["correct"] if row["split"] == "test" else None) for row in rows
    )


def test_nothing_is_imported_between_the_fork_and_the_first_step(
    zygote: Zygote, numbers: Path, sentences: Path, tmp_path: Path
) -> None:
    for name, spec, data in (("a", mlp_spec(), numbers), ("b", text_spec(), sentences)):
        run = zygote.start(spec, tmp_path / name, {"train": data})
        run.finish()
        lines = [line.message for line in run.events("log_line")]
        assert lines == ["imported: "]


SPECS: dict[str, Callable[[], spec_pb2.JobSpec]] = {
    "mlp": mlp_spec,
    "text_classifier": text_spec,
    "batch norm": lambda: mlp_spec(normalization=spec_pb2.NORMALIZATION_BATCH),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_run_that_is_killed_again_and_again_ends_with_the_weights_of_an_unbroken_one(
    zygote: Zygote, numbers: Path, sentences: Path, tmp_path: Path, name: str
) -> None:
    data = {"train": sentences if name == "text_classifier" else numbers}
    spec = SPECS[name]()
    spec.checkpoint.interval_steps = 11
    # Beyond step 200 probes follow the clock, which must not show in the weights.
    spec.budget.epochs = 20
    unbroken = zygote.start(spec, tmp_path / "unbroken", data)
    assert unbroken.finish() == ExitStatus.SUCCEEDED
    run, losses, kills = run_with_kills(zygote, spec, tmp_path, data, dice=random.Random(name))
    assert kills >= 3
    assert max(losses) > 220
    assert losses == unbroken.losses
    for file in ("weights.safetensors", "examples.parquet"):
        assert run.files[file].read_bytes() == unbroken.files[file].read_bytes()


def run_with_kills(
    zygote: Zygote,
    spec: spec_pb2.JobSpec,
    directory: Path,
    data: dict[str, Path],
    *,
    dice: random.Random,
) -> tuple[Run, dict[int, float], int]:
    """Kill the trainer soon after one of its first checkpoints, five times at most, and let others go on from there."""
    checkpoints: list[Path] = []
    losses: dict[int, float] = {}
    kills = 0
    while True:
        run = zygote.start(
            spec, directory / f"after {kills}", data, attempt=kills + 1, checkpoints=checkpoints
        )
        enough = dice.randrange(1, 6) if kills < 5 else 10_000
        run.until(lambda run, enough=enough: len(run.checkpoints) >= enough)  # type: ignore[misc]
        if not run.channel.closed:
            time.sleep(dice.random() * 0.01)
            os.kill(run.pid, signal.SIGKILL)
        status = run.finish()
        checkpoints = [message.path for message in reversed(run.checkpoints)] + checkpoints
        losses |= run.losses
        if status == ExitStatus.SUCCEEDED:
            return run, losses, kills
        assert status == -signal.SIGKILL
        kills += 1


def test_a_trainer_that_is_asked_to_stop_saves_first_and_its_successor_goes_on(
    zygote: Zygote, numbers: Path, tmp_path: Path
) -> None:
    spec = mlp_spec()
    spec.budget.epochs = 300
    run = zygote.start(spec, tmp_path / "1", {"train": numbers})
    run.until(lambda run: len(run.losses) > 0)
    run.channel.send_command(Command.STOP_AFTER_CHECKPOINT)
    assert run.finish() == ExitStatus.STOPPED
    (checkpoint,) = run.checkpoints
    assert max(run.losses) == checkpoint.step
    successor = zygote.start(
        spec, tmp_path / "2", {"train": numbers}, attempt=2, checkpoints=[checkpoint.path]
    )
    successor.until(lambda run: len(run.losses) > 0)
    assert min(successor.losses) == checkpoint.step + 1
    os.kill(successor.pid, signal.SIGKILL)
    successor.finish()


def test_a_damaged_checkpoint_is_passed_over_with_a_line_in_the_log(
    zygote: Zygote, numbers: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not a state")
    run = zygote.start(
        mlp_spec(),
        tmp_path,
        {"train": numbers},
        attempt=2,
        checkpoints=[tmp_path / "broken.safetensors", tmp_path / "gone.safetensors"],
    )
    assert run.finish() == ExitStatus.SUCCEEDED
    lines = [line.message for line in run.events("log_line")]
    assert "broken.safetensors" in lines[0]
    assert "gone.safetensors" in lines[1]
    assert "begins at step 0" in lines[2]
    assert min(run.losses) == 1


def test_a_trainer_whose_attempt_is_gone_ends(zygote: Zygote, numbers: Path, tmp_path: Path) -> None:
    spec = mlp_spec()
    spec.budget.epochs = 10_000
    run = zygote.start(spec, tmp_path, {"train": numbers})
    run.until(lambda run: len(run.losses) > 0)
    run.channel.close()
    assert run.wait() == ExitStatus.CHANNEL_CLOSED


def test_losses_are_those_of_the_golden_file(zygote: Zygote, numbers: Path, tmp_path: Path) -> None:
    """A change that should not alter numerics must leave this file alone; GRADSIGHT_GOLDEN=1 writes it anew."""
    run = zygote.start(mlp_spec(), tmp_path, {"train": numbers})
    run.finish()
    if os.environ.get("GRADSIGHT_GOLDEN"):
        GOLDEN.write_text("".join(f"{step} {loss:.7f}\n" for step, loss in sorted(run.losses.items())))
    expected = {int(step): float(loss) for step, loss in map(str.split, GOLDEN.read_text().splitlines())}
    assert run.losses == pytest.approx(expected, rel=1e-4)


def _write(tmp_path: Path, text: str) -> dict[str, Path]:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    return {"train": path}


def test_rows_that_cannot_be_used_fail_the_run_with_row_and_column(zygote: Zygote, tmp_path: Path) -> None:
    data = _write(tmp_path, "x,kind,category\n" + "1,a,c\n2,b,c\n" * 50 + "oops,a,c\n")
    run = zygote.start(mlp_spec(), tmp_path, data)
    assert run.finish() == ExitStatus.FAILED
    assert run.error.reason == state_pb2.JOB_ERROR_REASON_INVALID_DATA
    assert run.error.fault == state_pb2.FAULT_DATA
    assert run.error.row == 101
    assert '"x"' in run.error.message


def test_a_single_class_is_refused_before_the_first_step(zygote: Zygote, tmp_path: Path) -> None:
    data = _write(tmp_path, "x,kind,category\n" + "".join(f"{n},a,c\n" for n in range(100)))
    run = zygote.start(mlp_spec(), tmp_path, data)
    assert run.finish() == ExitStatus.FAILED
    assert run.error.field == "data.target_column"
    assert not run.losses


def test_a_class_that_only_held_out_rows_have_is_said_in_the_log(zygote: Zygote, tmp_path: Path) -> None:
    data = _write(tmp_path, "x,kind,category\n" + "".join(f"{n},{'ab'[n % 2]},c\n" for n in range(100)))
    (tmp_path / "test.csv").write_text("x,kind,category\n1,a,c\n2,never seen,c\n")
    run = zygote.start(mlp_spec(), tmp_path, data | {"test": tmp_path / "test.csv"})
    assert run.finish() == ExitStatus.SUCCEEDED
    assert any("never seen" in line.message for line in run.events("log_line"))
    assert run.one("data_prepared").classes == ["a", "b", "never seen"]


def test_a_model_that_does_not_fit_fails_with_what_to_lower(zygote: Zygote, tmp_path: Path) -> None:
    data = _write(tmp_path, "x,kind,category\n" + "".join(f"{n},{'ab'[n % 2]},c\n" for n in range(100)))
    spec = mlp_spec()
    spec.model.builtin.mlp.hidden_sizes[:] = [16_384, 16_384]
    run = zygote.start(spec, tmp_path, data, spare_memory_bytes=256 << 20)
    assert run.finish() == ExitStatus.FAILED
    assert run.error.reason == state_pb2.JOB_ERROR_REASON_OUT_OF_MEMORY
    assert "Lower the batch size" in run.error.message


def test_options_that_an_architecture_does_not_allow_are_refused_with_their_field(
    zygote: Zygote, numbers: Path, tmp_path: Path
) -> None:
    spec = mlp_spec()
    spec.model.builtin.mlp.hidden_sizes[:] = [1_000_000_000]
    run = zygote.start(spec, tmp_path, {"train": numbers})
    assert run.finish() == ExitStatus.FAILED
    assert run.error.reason == state_pb2.JOB_ERROR_REASON_INVALID_SPEC
    assert run.error.field == "model.builtin.mlp"


def test_a_file_that_is_gone_is_the_machines_fault_and_worth_another_try(
    zygote: Zygote, tmp_path: Path
) -> None:
    run = zygote.start(mlp_spec(), tmp_path, {"train": tmp_path / "gone.csv"})
    assert run.finish() == ExitStatus.FAILED
    assert run.error.reason == state_pb2.JOB_ERROR_REASON_ARTIFACT_UNAVAILABLE
    assert run.error.retryable


def test_batch_norm_with_a_batch_of_one_row_is_refused_with_the_field(
    zygote: Zygote, numbers: Path, tmp_path: Path
) -> None:
    spec = mlp_spec(normalization=spec_pb2.NORMALIZATION_BATCH)
    spec.data.batch_size = 1
    run = zygote.start(spec, tmp_path, {"train": numbers})
    assert run.finish() == ExitStatus.FAILED
    assert run.error.field == "data.batch_size"
    assert run.error.fault == state_pb2.FAULT_USER


def test_a_run_that_diverges_fails_with_the_models_fault_and_advice(zygote: Zygote, tmp_path: Path) -> None:
    data = _write(tmp_path, "x,kind,category\n" + "".join(f"{n % 7},{'ab'[n % 2]},c\n" for n in range(300)))
    spec = mlp_spec(activation=spec_pb2.ACTIVATION_RELU)
    spec.optimizer.learning_rate = 1000.0
    spec.optimizer.weight_decay = 10.0
    spec.optimizer.ClearField("max_gradient_norm")
    spec.optimizer.clipping_disabled = True
    spec.optimizer.sgd.CopyFrom(spec_pb2.Sgd(momentum=0.9))
    spec.budget.epochs = 1000
    run = zygote.start(spec, tmp_path, data)
    assert run.finish() == ExitStatus.FAILED
    assert run.error.reason == state_pb2.JOB_ERROR_REASON_NONFINITE_LOSS
    assert "Lower the learning rate" in run.error.message
