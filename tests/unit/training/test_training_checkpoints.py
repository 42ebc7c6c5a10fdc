"""Checkpoints: whole or absent, exact, and never loaded when damaged or foreign."""

import random
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from gradsight.v1 import event_pb2, spec_pb2
from gradsight_worker.training import saving
from gradsight_worker.training.channel import CheckpointMessage, EventMessage, open_channel
from gradsight_worker.training.checkpoints import (
    CheckpointRefused,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.saving import CheckpointSaver
from gradsight_worker.training.state import TrainingState, initial_state

SPEC = spec_pb2.JobSpec(name="mine", checkpoint=spec_pb2.CheckpointSpec(interval_steps=10))
SPEC.checkpoint.interval.seconds = 30
SPEC.data.batch_size = 16
SPEC.data.target_column = "label"
SPEC.optimizer.learning_rate = 0.01
SPEC.optimizer.average_decay = 0.9
SPEC.optimizer.adamw.beta1, SPEC.optimizer.adamw.beta2, SPEC.optimizer.adamw.epsilon = 0.9, 0.99, 1e-8
SPEC.schedule.plateau.factor, SPEC.schedule.plateau.patience = 0.5, 1
SPEC.evaluation.patience = 3
SPEC.budget.steps = 100


def state_of(seed: int, *, width: int = 9) -> TrainingState:
    """A state full of numbers that depend on the seed."""
    torch.manual_seed(seed)
    parameters = FlatParameters(
        nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2)), torch.device("cpu")
    )
    state = initial_state(SPEC, parameters, total_steps=100)
    for name, tensor in state.tensors().items():
        if tensor.is_floating_point() and not name.startswith("random."):
            tensor.normal_()
    state.step, state.training_seconds = 10 + seed, 0.1 * seed
    state.cadence.next_step = 20 + seed
    state.watch.total = seed
    state.micro_batch_size = seed
    for figure in range(seed):
        state.schedule.observe(figure)
        state.patience.observe(figure)
    state.gains.add(seed, predicted_decrease=0.1, actual_decrease=0.2 * seed, loss=1.0)
    state.kept.evaluation = event_pb2.EvaluationCompleted(step=seed, loss=0.25)
    return state


def assert_equal(one: TrainingState, other: TrainingState) -> None:
    assert one.facts() == other.facts()
    for name, tensor in one.tensors().items():
        if not name.startswith("random."):
            assert torch.equal(tensor, other.tensors()[name]), name


def test_a_loaded_state_is_the_saved_one_bit_for_bit(tmp_path: Path) -> None:
    saved, loaded = state_of(1), state_of(2)
    torch.manual_seed(33)
    save_checkpoint(tmp_path / "deep" / "c", saved, SPEC)
    drawn = torch.rand(5)
    load_checkpoint(tmp_path / "deep" / "c", loaded, SPEC)
    assert_equal(loaded, saved)
    assert torch.equal(torch.rand(5), drawn)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c"]


def test_a_flipped_bit_anywhere_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "good", state_of(1), SPEC)
    content = (tmp_path / "good").read_bytes()
    loaded, untouched = state_of(2), state_of(2)
    dice = random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [dice.randrange(header) for _ in range(60)] + [
        dice.randrange(header, len(content)) for _ in range(60)
    ]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << dice.randrange(8)
        (tmp_path / "bad").write_bytes(damaged)
        with pytest.raises(CheckpointRefused):
            load_checkpoint(tmp_path / "bad", loaded, SPEC)
    assert_equal(loaded, untouched)


def test_when_the_newest_is_damaged_or_gone_the_one_before_is_used(tmp_path: Path) -> None:
    old, loaded = state_of(1), state_of(3)
    save_checkpoint(tmp_path / "old", old, SPEC)
    save_checkpoint(tmp_path / "new", state_of(2), SPEC)
    whole = (tmp_path / "new").read_bytes()
    (tmp_path / "new").write_bytes(whole[: len(whole) // 2])
    path, refusals = load_newest([tmp_path / "gone", tmp_path / "new", tmp_path / "old"], loaded, SPEC)
    assert path == tmp_path / "old"
    assert [str(refusal).split()[0] for refusal in refusals] == ["gone", "new"]
    assert_equal(loaded, old)


def test_a_state_of_another_spec_or_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", state_of(1), SPEC)
    other = spec_pb2.JobSpec()
    other.CopyFrom(SPEC)
    other.optimizer.learning_rate = 0.02
    message = (
        r"c belongs to a job with another spec: optimizer.learning_rate: got 0.02, the earlier job has 0.01"
    )
    for extending in (False, True):
        with pytest.raises(CheckpointRefused, match=message):
            load_checkpoint(tmp_path / "c", state_of(1), other, extending=extending)
    with pytest.raises(CheckpointRefused, match="another model"):
        load_checkpoint(tmp_path / "c", state_of(1, width=10), SPEC)


def test_a_job_that_extends_another_may_have_another_budget_and_waits_anew(tmp_path: Path) -> None:
    ended = state_of(3)
    ended.stopped_early = True
    save_checkpoint(tmp_path / "c", ended, SPEC)
    longer = spec_pb2.JobSpec()
    longer.CopyFrom(SPEC)
    longer.name, longer.queue, longer.budget.steps = "longer", "night", 200
    longer.start.extended_job_id = "earlier"
    longer.checkpoint.keep = 5
    loaded = state_of(1)
    with pytest.raises(CheckpointRefused, match='name: got "longer", the earlier job has "mine"'):
        load_checkpoint(tmp_path / "c", loaded, longer)
    assert_equal(loaded, state_of(1))
    load_checkpoint(tmp_path / "c", loaded, longer, extending=True)
    assert loaded.step == 13
    assert not loaded.stopped_early
    assert loaded.patience.state() == {"best": 0, "waited": 0}
    assert loaded.schedule.state() == ended.schedule.state()
    assert torch.equal(loaded.parameters.values, ended.parameters.values)


def test_a_pickle_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointRefused, match="cannot be read"):
        load_checkpoint(tmp_path / "c", state_of(1), SPEC)


def test_saving_is_due_by_step_and_by_time(tmp_path: Path) -> None:
    trainer, attempt = open_channel()
    saver = CheckpointSaver(spec=SPEC, directory=tmp_path, attempt=2, channel=trainer)
    now = saver._last_save
    assert not saver.due(9, now + 29)
    assert saver.due(10, now)
    assert saver.due(11, now + 30)
    saver.save(state_of(1))
    (message,) = attempt.receive()
    assert isinstance(message, CheckpointMessage)
    assert message.path == tmp_path / "step-11.attempt-2.safetensors"
    assert message.step == 11
    assert 0 < message.seconds < 5
    load_checkpoint(message.path, state_of(2), SPEC)
    trainer.close()
    attempt.close()


def test_where_saving_is_slow_the_interval_grows_until_it_costs_5_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def save_slowly(path: Path, state: TrainingState, spec: spec_pb2.JobSpec) -> None:
        clock[0] += 4.0

    monkeypatch.setattr(saving, "save_checkpoint", save_slowly)
    trainer, attempt = open_channel()
    saver = CheckpointSaver(spec=SPEC, directory=tmp_path, attempt=2, channel=trainer)
    spent, started = 0.0, clock[0]
    for step in range(1, 10_000):
        clock[0] += 0.1
        if saver.due(10 * step + 1, clock[0]):
            saver.save(state_of(1))
            spent += 4.0
    # The first save comes before anyone knows what it costs.
    assert 0.04 < spent / (clock[0] - started) < 0.06
    trainer.close()
    attempt.close()


def test_a_disk_that_refuses_costs_the_checkpoint_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    trainer, attempt = open_channel()
    saver = CheckpointSaver(spec=SPEC, directory=tmp_path / "file", attempt=1, channel=trainer)
    saver.save(state_of(1))
    (message,) = attempt.receive()
    assert isinstance(message, EventMessage)
    assert "training goes on" in message.event.log_line.message
    trainer.close()
    attempt.close()
