"""How the processor computes, compiled and repeatable computing: all that bears on speed beyond the number format."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gradsight.v1 import spec_pb2
from gradsight_worker.training.errors import TrainingFailed

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def set_up_processor(threads: int | None) -> None:
    """Threads of torch, None for its own choice; numbers too small to matter count as 0.

    A model that has learnt its rows sends gradients back of 1e-40 and less, and the processor takes a hundred cycles
    for each of those: unflushed, a small model's step takes twice as long at the end of a run as at its beginning.
    Call it before the first operation, because threads take the setting from the one that starts them.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def computed_as(spec: spec_pb2.ComputeSpec, model: nn.Module) -> nn.Module:
    """The model as steps call it: compiled where the spec says so. Both share parameters and buffers."""
    if not spec.compiled:
        return model
    # One piece of code per batch size: code for any size would depend on which sizes came first, and a resumed run
    # could not repeat the unbroken one bit for bit.
    compiled = torch.compile(model, dynamic=False)
    assert isinstance(compiled, nn.Module)
    return compiled


@contextmanager
def repeatable(spec: spec_pb2.ComputeSpec) -> Iterator[None]:
    """Inside, only operations that repeat bit for bit on the same device, where the spec says so; others raise."""
    if not spec.deterministic:
        yield
        return
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        os.environ.get(_CUBLAS),
    )
    _set_repeatable(True, deterministic=True, benchmark=False, workspace=":4096:8")
    try:
        yield
    finally:
        # The process may live on: a trainer that rehearses waits for its job afterwards.
        enabled, deterministic, benchmark, workspace = before
        _set_repeatable(enabled, deterministic=deterministic, benchmark=benchmark, workspace=workspace)


def refusal_of(error: Exception, spec: spec_pb2.ComputeSpec) -> TrainingFailed | None:
    """What to tell the user when a first step failed for what the spec asks of it; None when it failed otherwise."""
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if spec.compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return TrainingFailed.by_spec(
            f"the model cannot be compiled here: {cause}; leave compute.compiled out, or see to it that the worker's "
            f"machine has a C++ compiler",
            field="compute.compiled",
        )
    if spec.deterministic and isinstance(error, RuntimeError) and "deterministic" in str(error):
        return TrainingFailed.by_spec(
            f"the model uses an operation that does not repeat bit for bit: {cause}; leave compute.deterministic out, "
            f"or change the model",
            field="compute.deterministic",
        )
    return None


def _set_repeatable(enabled: bool, *, deterministic: bool, benchmark: bool, workspace: str | None) -> None:
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = benchmark
    if workspace is None:
        os.environ.pop(_CUBLAS, None)
    else:
        os.environ[_CUBLAS] = workspace
