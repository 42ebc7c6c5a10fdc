"""Which training rows a step sees: a pure function of seed and step, so that a resume needs no sampler state."""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from gradsight_worker.training.data.encoding import Batch, EncodedRows

_MOST_CUTS = 65_536


class TrainingBatches:
    """Encoded training rows, shuffled anew for every epoch.

    The last step of an epoch takes the rows that are left; a single one joins the step before, because a batch of one
    row has no statistics. Rows that are not on the device are fetched a step ahead, in a thread.
    """

    def __init__(self, encoded: EncodedRows, *, batch_size: int, seed: int) -> None:
        self._encoded = encoded
        self._rows = len(encoded)
        self._batch_size = batch_size
        self._seed = seed
        alone = batch_size > 1 and self._rows > 1 and self._rows % batch_size == 1
        self.steps_per_epoch = max(1, -(-self._rows // batch_size) - alone)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self._cut: Sequence[Tensor] = ()
        """The order by steps, where they are not too many to keep."""
        self._ahead = _Ahead(encoded) if encoded.is_streamed else None
        self.waited_seconds = 0.0
        """That steps have waited for rows from files."""

    def fetch(self, step: int) -> Batch:
        """Inputs and targets of step 1, 2, ...; rows along the first dimension."""
        if self._ahead is None:
            return self._encoded.fetch(self._rows_of(step))
        began = time.perf_counter()
        batch = self._ahead.take(step, self._rows_of(step))
        self.waited_seconds += time.perf_counter() - began
        self._ahead.begin(step + 1, self._rows_of(step + 1))
        return batch

    def samples_until(self, step: int) -> int:
        """Rows consumed by steps 1 to `step`."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self._rows + steps * self._batch_size

    def epoch_of(self, step: int) -> float:
        """Passes over the rows done after `step` steps."""
        return step / self.steps_per_epoch

    def _rows_of(self, step: int) -> Tensor:
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        if self._cut:
            return self._cut[place]
        start = place * self._batch_size
        is_last = place == self.steps_per_epoch - 1
        return self._order[start : self._rows if is_last else start + self._batch_size]

    def _shuffle(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(derive_seed(self._seed, f"epoch {epoch}"))
        self._order = torch.randperm(self._rows, generator=generator).to(self._encoded.index_device)
        self._epoch = epoch
        if self.steps_per_epoch <= _MOST_CUTS:
            cuts = range(self._batch_size, self._batch_size * self.steps_per_epoch, self._batch_size)
            self._cut = self._order.tensor_split(list(cuts))


class _Ahead:
    """The next step's rows, read while this step computes."""

    def __init__(self, encoded: EncodedRows) -> None:
        self._encoded = encoded
        self._threads: ThreadPoolExecutor | None = None
        self._step = 0
        self._batch: Future[Batch] | None = None

    def begin(self, step: int, rows: Tensor) -> None:
        # A thread is started with the first step only: a trainer that waits for its plan has none.
        self._threads = self._threads or ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._step, self._batch = step, self._threads.submit(self._encoded.read, rows)

    def take(self, step: int, rows: Tensor) -> Batch:
        if self._batch is None or self._step != step:
            return self._encoded.fetch(rows)
        return self._encoded.to_device(self._batch.result())


def derive_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, independent of those for others: 0 to 2^63 - 1."""
    digest = hashlib.blake2b(purpose.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") >> 1
