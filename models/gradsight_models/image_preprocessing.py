"""From images to standardised channels: what `cnn` reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from gradsight_models.columns import Chunk, Chunks, Column, ColumnKind, Encoded
from gradsight_models.moments import Moments
from gradsight_models.ngram_preprocessing import require_one_column

SMALLEST_SIDE = 8
_NUMBERS_AT_A_TIME = 4_000_000
_BYTE = 255.0


@dataclass(frozen=True, kw_only=True)
class ImagePreprocessing:
    """Each channel to `(value / divisor - mean) / deviation`, by the pixels of the training images.

    `divisor` is 255 for bytes, so that figures are shares of full brightness; other numbers keep their scale. A channel
    that is constant in training has deviation 0 and is 0 everywhere.
    """

    shape: tuple[int, int, int]
    """Channels, height and width."""
    divisor: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    kind: str = field(default="images", init=False)

    @classmethod
    def fit(cls, columns: Sequence[Column], chunks: Chunks) -> Self:
        """One pass over the training images, [channels, height, width] or [height, width], of any kind of number."""
        column = require_one_column(columns, ColumnKind.TENSOR)
        shape = _image_shape(column)
        divisor = _BYTE if column.dtype == "uint8" else 1.0
        moments = Moments(shape[0])
        at_a_time = max(1, _NUMBERS_AT_A_TIME // int(np.prod(shape)))
        for (images,) in chunks():
            for start in range(0, len(images), at_a_time):
                part = images[start : start + at_a_time].reshape(-1, *shape)
                moments.add(part.transpose(0, 2, 3, 1).reshape(-1, shape[0]) / divisor)
        moments.require_finite((column.name,) * shape[0])
        return cls(
            shape=shape,
            divisor=divisor,
            mean=tuple(moments.mean.tolist()),
            deviation=tuple(moments.deviation.tolist()),
        )

    def encode(self, columns: Chunk) -> Encoded:
        """Images to float32 [rows, channels, height, width]. Raises ValueError for a pixel that is no finite number."""
        (images,) = columns
        if images.size != len(images) * int(np.prod(self.shape)):
            raise ValueError(f"column 1: got images of shape {images.shape[1:]}, allowed: {self.shape}")
        pixels = images.reshape(-1, *self.shape).astype(np.float32)
        _require_finite(pixels)
        mean, deviation = (np.asarray(figures).reshape(-1, 1, 1) for figures in (self.mean, self.deviation))
        pixels -= (mean * self.divisor).astype(np.float32)
        pixels *= np.where(deviation > 0, 1 / np.where(deviation > 0, deviation * self.divisor, 1), 0).astype(
            np.float32
        )
        return Encoded(inputs=(torch.from_numpy(pixels),))

    def to_json(self) -> dict[str, Any]:
        """`shape`, `divisor`, and `mean` and `deviation` by channel."""
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "divisor": self.divisor,
            "mean": list(self.mean),
            "deviation": list(self.deviation),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        channels, height, width = document["shape"]
        return cls(
            shape=(channels, height, width),
            divisor=document["divisor"],
            mean=tuple(document["mean"]),
            deviation=tuple(document["deviation"]),
        )


def _image_shape(column: Column) -> tuple[int, int, int]:
    """Channels, height and width; one channel where the column has none."""
    shape = column.shape if len(column.shape) == 3 else (1, *column.shape)
    if len(shape) != 3 or min(shape[1:]) < SMALLEST_SIDE or np.dtype(column.dtype).kind not in "biuf":
        raise ValueError(
            f"column {column.name!r}: got {column.dtype} of shape {list(column.shape)} a row, allowed: images, "
            f"[channels, height, width] or [height, width], each side at least {SMALLEST_SIDE}"
        )
    return (shape[0], shape[1], shape[2])


def _require_finite(pixels: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(pixels).all():
        row, channel, y, x = np.argwhere(~np.isfinite(pixels))[0]
        raise ValueError(
            f"row {row + 1}: got {pixels[row, channel, y, x]} in channel {channel}, line {y}, column {x}, "
            f"allowed: finite numbers"
        )
