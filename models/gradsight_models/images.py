"""Image files to arrays: one way for training and for prediction, so that both see the same pixels."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

_FORMATS = ("PNG", "JPEG")
_MOST_PIXELS = 64_000_000
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode_image(data: bytes, *, channels: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A PNG or JPEG file as uint8 [channels, height, width], scaled to fit whatever its own size.

    `channels`: 1 grey, 3 red, green and blue, 4 with transparency. Raises ValueError for another format, a damaged
    file, or more than 64 million pixels: they are counted before anything is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    if channels not in _MODES:
        raise ValueError(f"image: got {channels} channels, allowed for image files: 1, 3, 4")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(
                    f"image: got {image.width} × {image.height} pixels, allowed {_MOST_PIXELS} in all"
                )
            scaled = image.convert(_MODES[channels])
            if scaled.size != (width, height):
                scaled = scaled.resize((width, height), Image.Resampling.BILINEAR)
            pixels: npt.NDArray[Any] = np.asarray(scaled, dtype=np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"image: got a file that cannot be decoded ({error}), allowed: PNG, JPEG") from None
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))
