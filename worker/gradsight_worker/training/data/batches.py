"""Which training rows a step sees: a pure function of seed and step, so that a resume needs no sampler state."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class TrainingBatches:
    """Encoded training rows on the device, shuffled anew for every epoch.

    The last step of an epoch takes the rows that are left; a single one joins the step before, because a batch of one
    row has no statistics.
    """

    def __init__(self, inputs: Sequence[Tensor], targets: Tensor, *, batch_size: int, seed: int) -> None:
        self._columns = (*inputs, targets)
        self._rows = len(targets)
        self._batch_size = batch_size
        self._seed = seed
        alone = batch_size > 1 and self._rows > 1 and self._rows % batch_size == 1
        self.steps_per_epoch = max(1, -(-self._rows // batch_size) - alone)
        self._epoch = -1
        self._order: tuple[Tensor, ...] = ()

    def fetch(self, step: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and targets of step 1, 2, ...; rows along the first dimension."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        rows = self._order[place]
        *inputs, targets = [column.index_select(0, rows) for column in self._columns]
        return tuple(inputs), targets

    def samples_until(self, step: int) -> int:
        """Rows consumed by steps 1 to `step`."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self._rows + steps * self._batch_size

    def epoch_of(self, step: int) -> float:
        """Passes over the rows done after `step` steps."""
        return step / self.steps_per_epoch

    def _shuffle(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, f"epoch {epoch}"))
        order = torch.randperm(self._rows, generator=generator).to(self._columns[-1].device)
        cuts = range(self._batch_size, self._batch_size * self.steps_per_epoch, self._batch_size)
        self._order = order.tensor_split(list(cuts))
        self._epoch = epoch


def derive_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, independent of those for others: 0 to 2^63 - 1."""
    digest = hashlib.blake2b(purpose.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") >> 1
