"""Training states as files: one safetensors file each, written atomically, verified when read.

The digest covers every tensor and every fact, because a flipped byte in a safetensors file loads without a
complaint and trains on.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gradsight._starts import FREE_IN_EXTENSION, spec_difference
from gradsight.v1 import spec_pb2
from gradsight_worker.training.state import StateMismatch, TrainingState

_FORMAT = "gradsight-checkpoint-1"


class CheckpointRefused(Exception):
    """The file is damaged, or it belongs to another run; the message says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path.name} {reason}")
        self.path = path


def save_checkpoint(path: Path, state: TrainingState, spec: spec_pb2.JobSpec) -> None:
    """Write the state; the file appears under its name complete or not at all. Raises OSError."""
    tensors = {name: tensor.detach().to("cpu") for name, tensor in state.tensors().items()}
    # The spec itself, not a digest of it: a state that is refused is refused with the difference.
    written = base64.b64encode(spec.SerializeToString(deterministic=True)).decode()
    facts = json.dumps(state.facts() | {"spec": written, "torch": torch.__version__})
    metadata = {"format": _FORMAT, "facts": facts, "digest": _digest(tensors, facts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    try:
        try:
            save_file(tensors, unfinished, metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write a checkpoint: {error}") from error
        _flush(unfinished)
        unfinished.rename(path)
        _flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def load_checkpoint(
    path: Path, state: TrainingState, spec: spec_pb2.JobSpec, *, extending: bool = False
) -> None:
    """Make the file's content the state.

    Args:
        path: The file.
        state: Is overwritten, with everything in it.
        spec: This run's. The file's must be equal.
        extending: True: the file is the end of an earlier job, and this one goes on from there; the specs may then
            differ in what bears on no number, and in the budget.

    Raises:
        CheckpointRefused: It is damaged or foreign; the state is as it was.
    """
    tensors, facts = _read(path)
    earlier = spec_pb2.JobSpec.FromString(base64.b64decode(facts["spec"]))
    free = FREE_IN_EXTENSION if extending else frozenset[str]()
    if difference := spec_difference(spec, earlier, free=free):
        raise CheckpointRefused(path, f"belongs to a job with another spec: {difference}")
    try:
        state.restore(tensors, facts)
    except StateMismatch as error:
        raise CheckpointRefused(path, f"belongs to another model: {error}") from error
    if extending:
        state.go_on()


def load_newest(
    paths: Sequence[Path], state: TrainingState, spec: spec_pb2.JobSpec
) -> tuple[Path | None, list[CheckpointRefused]]:
    """Load the first of the paths, newest first, that is sound; which it was, and why others were not."""
    refusals: list[CheckpointRefused] = []
    for path in paths:
        try:
            load_checkpoint(path, state, spec)
        except CheckpointRefused as refusal:
            refusals.append(refusal)
        else:
            return path, refusals
    return None, refusals


def _read(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise CheckpointRefused(path, f"cannot be read, it is damaged or no checkpoint: {error}") from error
    except OSError as error:
        raise CheckpointRefused(path, f"cannot be read: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise CheckpointRefused(path, "is not a checkpoint of this version")
    facts = metadata.get("facts", "")
    if metadata.get("digest") != _digest(tensors, facts):
        raise CheckpointRefused(path, "is damaged: its content does not match its digest")
    return tensors, json.loads(facts)


def _digest(tensors: Mapping[str, Tensor], facts: str) -> str:
    total = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().view(-1).numpy().view("uint8").data)
    return total.hexdigest()


def _flush(path: Path) -> None:
    """Wait until file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
