"""Steps that do not fit into memory are computed in smaller parts, one after the other: the same up to rounding."""

import gc
import resource
import sys
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from gradsight.v1 import event_pb2
from gradsight_models import normalizes_over_batches
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.objectives import Objective
from gradsight_worker.training.state import TrainingState

Part = tuple[tuple[Tensor, ...], Tensor, Tensor]
"""Inputs, targets, and the part's share in the mean over the whole batch, 0 to 1."""

_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "bad allocation", "std::bad_alloc")
_CUDA_MESSAGES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA out of memory")


class MicroBatches:
    """Cuts batches into parts, and makes the parts smaller when memory is short.

    Args:
        state: Holds the most rows in a part.
        model: Normalization over a batch needs two rows in every part; others do with one.
        objective: Says how much each part weighs.
    """

    def __init__(self, *, state: TrainingState, model: nn.Module, objective: Objective) -> None:
        self._state = state
        self._objective = objective
        self._smallest = 2 if normalizes_over_batches(model) else 1
        self._whole = torch.ones((), device=state.device)

    def split(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Iterable[Part]:
        """The batch in parts of nearly equal sizes, in order."""
        count = self._parts_of(len(targets))
        return ((inputs, targets, self._whole),) if count == 1 else self._parts(inputs, targets, count)

    def reduce(self, rows: int, shortage: str) -> event_pb2.MicroBatchReduced:
        """Halve the parts of a batch of so many rows, because the allocator said `shortage`.

        Raises:
            TrainingFailed: They cannot be smaller.
        """
        device = self._state.device
        largest = -(-rows // self._parts_of(rows))
        peak = peak_bytes(device)
        if largest // 2 < self._smallest:
            raise TrainingFailed.by_memory(
                f"Out of memory on {device} with {largest} of {rows} rows at once; the most that was held is "
                f"{peak / 2**20:.0f} MiB. Lower the model's sizes, or ask for a device with more memory. ({shortage})"
            )
        self._state.micro_batch_size = largest // 2
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return event_pb2.MicroBatchReduced(
            step=self._state.step + 1,
            micro_batch_size=self._state.micro_batch_size,
            accumulation_steps=self._parts_of(rows),
            peak_bytes=peak,
        )

    def _parts_of(self, rows: int) -> int:
        return max(1, min(-(-rows // self._state.micro_batch_size), rows // self._smallest))

    def _parts(self, inputs: tuple[Tensor, ...], targets: Tensor, count: int) -> Iterator[Part]:
        whole = self._objective.count(targets)
        # A batch in which nothing counts has a loss of 0, whatever its parts weigh.
        whole = whole.clamp(min=1) if isinstance(whole, Tensor) else whole
        cut = [column.tensor_split(count) for column in (*inputs, targets)]
        for *part, expected in zip(*cut, strict=True):
            yield tuple(part), expected, self._whole * (self._objective.count(expected) / whole)


def shortage_of_memory(compute: Callable[[], None]) -> str | None:
    """Do it; what the allocator said when memory was short, None when it was done.

    Only text comes out: the exception holds the frames of the failed step, and they hold its tensors.
    """
    try:
        compute()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator had no more; torch's own on the processor raises a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(m in text for m in (*_CPU_MESSAGES, *_CUDA_MESSAGES))


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process has held on the device so far; on the processor, in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
