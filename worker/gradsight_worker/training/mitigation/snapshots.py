"""States that a run can go back to: weights, optimizer, average, number formats; not data, schedule or randomness."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gradsight_worker.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A copy of `TrainingState.learnt()` on the host, so that a device's memory is left to training.

    Without buffers and average it would put BatchNorm's statistics of a model that ran away in front of sound weights.
    Where a run has kept its best weights is no part: going back does not make them worse.
    """

    step: int
    """Optimizer steps done when it was taken."""
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, state: "TrainingState") -> Self:
        """Copy what the state is now; waits for the device."""
        copies = {name: _on_host(tensor) for name, tensor in state.learnt().items()}
        return cls(step=state.step, tensors=copies)

    def put_into(self, state: "TrainingState") -> None:
        """Make the state what it was; its step goes on counting."""
        for name, tensor in state.learnt().items():
            tensor.copy_(self.tensors[name])


def _on_host(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu").copy_(tensor)


class GoodSnapshots:
    """The beginning of a run and the newest few snapshots at which all was well."""

    MOST = 3

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        """Oldest first; the first one is the beginning and stays."""

    def add(self, snapshot: Snapshot) -> None:
        """Take in a newer one; the oldest after the beginning makes room."""
        self.snapshots.append(snapshot)
        if len(self.snapshots) > 1 + self.MOST:
            del self.snapshots[1]

    @property
    def newest_step(self) -> int:
        """Step of the newest one, -1 without any."""
        return self.snapshots[-1].step if self.snapshots else -1

    def before(self, step: int) -> Snapshot:
        """The newest one that is older than `step`, or else the beginning."""
        older = [snapshot for snapshot in self.snapshots if snapshot.step < step]
        return older[-1] if older else self.snapshots[0]

    def drop_after(self, step: int) -> None:
        """Forget those taken after a step: the run went back behind them."""
        self.snapshots = [snapshot for snapshot in self.snapshots if snapshot.step <= step]

    def at(self, step: int) -> Snapshot:
        """The one of exactly this step. Raises KeyError when there is none."""
        for snapshot in self.snapshots:
            if snapshot.step == step:
                return snapshot
        raise KeyError(f"there is no snapshot of step {step}")
