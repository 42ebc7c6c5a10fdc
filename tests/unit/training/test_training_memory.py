"""Memory that runs out: smaller parts, the same step; and a failure with figures only when parts cannot be smaller."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.memory import is_out_of_memory, shortage_of_memory

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper

SAID = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


class Hungry(nn.Module):
    """Fits no more than some rows at once; with dropout and BatchNorm, so that an attempt leaves traces."""

    def __init__(self, most_rows: int, *, fails_in_backward: bool = False, batch_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(5)
        norm: nn.Module = nn.BatchNorm1d(33) if batch_norm else nn.LayerNorm(33)
        self.layers = nn.Sequential(nn.Linear(7, 33), norm, nn.Tanh(), nn.Dropout(0.3), nn.Linear(33, 3))
        self.most_rows = most_rows
        self.fails_in_backward = fails_in_backward

    def forward(self, values: Tensor) -> Tensor:
        scores: Tensor = self.layers(values)
        if len(values) > self.most_rows:
            if not self.fails_in_backward:
                raise RuntimeError(SAID)
            scores.register_hook(self._refuse)  # type: ignore[no-untyped-call]
        return scores

    @staticmethod
    def _refuse(_gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 bytes.")


def spec_of(*, average: bool = False) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec()
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.weight_decay = 0.1
    spec.optimizer.max_gradient_norm = 1.0
    spec.optimizer.adamw.beta1, spec.optimizer.adamw.beta2, spec.optimizer.adamw.epsilon = 0.9, 0.999, 1e-8
    if average:
        spec.optimizer.average_decay = 0.9
    spec.schedule.constant.SetInParent()
    return spec


def reductions(made: Stepper) -> list[event_pb2.MicroBatchReduced]:
    return [event.micro_batch_reduced for event in made.events if event.HasField("micro_batch_reduced")]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("fails_in_backward", [False, True])
def test_a_step_that_does_not_fit_is_the_same_step_in_smaller_parts(
    stepper: Callable[..., Stepper], fails_in_backward: bool, batch_norm: bool
) -> None:
    options = {"fails_in_backward": fails_in_backward, "batch_norm": batch_norm}
    short = stepper(Hungry(5, **options), spec_of(average=True))
    small = stepper(Hungry(99, **options), spec_of(average=True))
    small.state.micro_batch_size = 4
    torch.manual_seed(1)
    for _ in range(4):
        short.step()
    torch.manual_seed(1)
    for _ in range(4):
        small.step()
    assert [(r.step, r.micro_batch_size, r.accumulation_steps) for r in reductions(short)] == [
        (1, 8, 2),
        (1, 4, 4),
    ]
    assert all(reduced.peak_bytes > 2**20 for reduced in reductions(short))
    assert short.state.facts()["micro_batch_size"] == 4
    for name, tensor in small.tensors().items():
        assert torch.equal(tensor, short.tensors()[name]), name


def test_a_row_that_does_not_fit_alone_fails_with_figures(stepper: Callable[..., Stepper]) -> None:
    made = stepper(Hungry(0), spec_of())
    with pytest.raises(
        TrainingFailed, match=r"with 1 of 16 rows at once; the most that was held is \d+ MiB"
    ) as caught:
        made.step()
    assert caught.value.error.reason == state_pb2.JOB_ERROR_REASON_OUT_OF_MEMORY
    assert [reduced.micro_batch_size for reduced in reductions(made)] == [8, 4, 2, 1]


def test_batch_norm_is_not_driven_below_two_rows(stepper: Callable[..., Stepper]) -> None:
    made = stepper(Hungry(1, batch_norm=True), spec_of())
    with pytest.raises(TrainingFailed, match="with 2 of 16 rows at once"):
        made.step()


def test_a_probed_step_that_does_not_fit_measures_what_was_computed_in_the_end(
    stepper: Callable[..., Stepper],
) -> None:
    probes = []
    for rows, size in ((5, 16), (99, 4)):
        spec = spec_of()
        spec.monitoring.probe_interval_steps = 1
        made = stepper(Hungry(rows), spec)
        made.state.micro_batch_size = size
        torch.manual_seed(1)
        telemetry = made.telemetry()
        inputs, targets = made.batch(0)
        made.take_step.probed(inputs, targets, 0.01, telemetry.begin_step(1), telemetry)
        telemetry.end_step(1, 0.01, 16, probed=True)
        telemetry.drain()
        (recorded,) = [e.steps_recorded for e in made.events if e.HasField("steps_recorded")]
        probes.append(recorded.probes[0])
    assert probes[0] == probes[1]


def test_the_failed_attempt_keeps_no_tensor_alive() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def compute() -> None:
        activations = torch.zeros(1000)
        alive.append(weakref.ref(activations))
        raise RuntimeError(SAID)

    gc.disable()
    try:
        assert shortage_of_memory(compute) == SAID
        assert alive[0]() is None
    finally:
        gc.enable()


def test_other_errors_are_no_shortage_of_memory() -> None:
    others: list[Exception] = [
        ValueError(SAID),
        RuntimeError("shapes cannot be multiplied"),
        RuntimeError(""),
    ]
    shortages: list[Exception] = [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(SAID),
    ]
    assert not any(map(is_out_of_memory, others))
    assert all(map(is_out_of_memory, shortages))

    def fail() -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        shortage_of_memory(fail)


REAL = """
import resource
import sys

import torch
from torch import nn
from stepper import Stepper
from gradsight.v1 import spec_pb2

torch.set_num_threads(1)
spec = spec_pb2.JobSpec.FromString(bytes.fromhex(sys.argv[1]))

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(7, 3)
    def forward(self, values):
        # More than 32 MiB for every row: so much is given back to the system when it is freed.
        wide = values.repeat(1, 1_200_000)
        return self.out(values) + (wide * self.out.bias[0]).square().mean(dim=1, keepdim=True)

made = Stepper(Wide(), spec)
made.step(rows=1)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 512 * 2**20, held + 512 * 2**20))
for _ in range(2):
    assert made.step(rows=6).nonfinite.item() == 0.0
print([event.micro_batch_reduced.micro_batch_size for event in made.events])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space")
def test_a_real_allocator_that_has_no_more_is_survived(tmp_path: Path) -> None:
    (tmp_path / "stepper.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "real.py").write_text(REAL)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "real.py"), spec_of().SerializeToString().hex()],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = json.loads(done.stdout)
    assert sizes
    assert sizes[-1] <= 3
