"""Some of the encoded rows, as if there were no others."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradsight_worker.training.data.encoding import Batch, EncodedRows


class SampledRows(EncodedRows):
    """The encoded rows of some rows, read through the whole."""

    def __init__(self, encoded: EncodedRows, rows: npt.NDArray[np.int64]) -> None:
        """A view.

        Args:
            encoded: All of them.
            rows: Places of the rows, ascending, each once.
        """
        places, owners = rows, None
        if encoded.owners is not None:
            places = np.flatnonzero(np.isin(encoded.owners, rows))
            owners = np.searchsorted(rows, encoded.owners[places])
        super().__init__(encoded.inputs_spec, owners)
        self.is_streamed = encoded.is_streamed
        self.index_device = encoded.index_device
        self._encoded = encoded
        self._places = torch.from_numpy(places).to(encoded.index_device)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def targets(self) -> Tensor:
        """As `EncodedRows.targets`."""
        return self._encoded.targets[self._places]

    def fetch(self, indices: Tensor) -> Batch:
        """As `EncodedRows.fetch`."""
        return self._encoded.fetch(self._places[indices])

    def blocks(self, size: int) -> Iterator[Batch]:
        """As `EncodedRows.blocks`."""
        for places in torch.split(self._places, size):
            yield self._encoded.fetch(places)


def evenly_spaced(rows: int, most: int) -> npt.NDArray[np.int64]:
    """Places of at most `most` of so many rows, ascending, each once."""
    count = min(rows, most)
    return np.arange(count, dtype=np.int64) * rows // max(1, count)
