"""Image files to arrays: one way for training and for prediction, so that both see the same pixels."""

import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

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
            return pixels_of(image, channels=channels, size=(height, width))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"image: got a file that cannot be decoded ({error}), allowed: PNG, JPEG") from None


def pixels_of(image: "Image", *, channels: int, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """An opened Pillow image as uint8 [channels, height, width], scaled to `size`, height and width, if there is one.

    Raises ValueError for more than 8 bits a channel, and what Pillow raises for a damaged file.
    """
    from PIL.Image import Resampling

    if image.mode.startswith(("I", "F")):
        raise ValueError("image: got more than 8 bits a channel, allowed 8")
    mode = _MODES[channels]
    wanted = image.size if size is None else (size[1], size[0])
    if wanted != image.size and mode in ("L", "RGB"):
        # A JPEG decodes at a fraction of its size when no more is wanted.
        image.draft(mode, wanted)
    scaled = image.convert(mode)
    if scaled.size != wanted:
        scaled = scaled.resize(wanted, Resampling.BILINEAR)
    pixels = np.asarray(scaled, dtype=np.uint8).reshape(wanted[1], wanted[0], channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
