"""Images: channels standardised, files decoded."""

import io
import json

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from gradsight_models import Column, ColumnKind, ImagePreprocessing, decode_image, preprocessing_from_json


def images_of(dtype: str, *shape: int) -> Column:
    return Column(name="image", kind=ColumnKind.TENSOR, dtype=dtype, shape=shape)


def fitted(images: npt.NDArray[np.generic]) -> ImagePreprocessing:
    column = images_of(str(images.dtype), *images.shape[1:])
    return ImagePreprocessing.fit([column], lambda: iter([[images[:3]], [images[3:]]]))


def noise(dtype: str, *shape: int) -> npt.NDArray[np.generic]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def test_bytes_are_standardised_by_channel() -> None:
    images = noise("uint8", 20, 3, 8, 9)
    preprocessing = fitted(images)
    (values,) = preprocessing.encode([images]).inputs
    assert values.shape == (20, 3, 8, 9)
    assert values.dtype == torch.float32
    assert values.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    assert values.std(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert all(0 < mean < 1 for mean in preprocessing.mean)


def test_bytes_and_the_same_shares_of_brightness_encode_alike() -> None:
    images = noise("uint8", 5, 1, 8, 8)
    shares = images.astype(np.float32) / 255
    (left,), (right,) = fitted(images).encode([images]).inputs, fitted(shares).encode([shares]).inputs
    assert torch.allclose(left, right, atol=1e-5)


def test_an_image_without_channels_has_one() -> None:
    images = noise("float64", 4, 8, 8)
    assert fitted(images).encode([images]).inputs[0].shape == (4, 1, 8, 8)


def test_a_constant_channel_is_zero_everywhere() -> None:
    images = noise("uint8", 6, 2, 8, 8)
    images[:, 0] = 7
    (values,) = fitted(images).encode([noise("uint8", 2, 2, 8, 8)]).inputs
    assert not values[:, 0].any()
    assert torch.isfinite(values).all()


def test_a_pixel_that_is_no_number_names_its_row() -> None:
    images = noise("float32", 4, 1, 8, 8)
    preprocessing = fitted(images)
    images[2, 0, 1, 5] = np.nan
    with pytest.raises(ValueError, match="row 3: got nan in channel 0, line 1, column 5"):
        preprocessing.encode([images])


@pytest.mark.parametrize(
    "column", [images_of("uint8", 3, 7, 8), images_of("uint8", 64), images_of("object", 1, 8, 8)]
)
def test_a_column_that_is_no_image_is_refused(column: Column) -> None:
    with pytest.raises(ValueError, match=r"column 'image': got .*, allowed: images"):
        ImagePreprocessing.fit([column], lambda: iter(()))


def test_images_survive_json() -> None:
    fit = fitted(noise("uint8", 5, 3, 8, 8))
    assert preprocessing_from_json(json.loads(json.dumps(fit.to_json()))) == fit


def file_of(pixels: npt.NDArray[np.uint8], form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form)
    return buffer.getvalue()


def test_an_image_file_becomes_channels_first_and_keeps_its_pixels() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    array = decode_image(file_of(pixels), channels=3, height=8, width=10)
    assert np.array_equal(array, pixels.transpose(2, 0, 1))


def test_an_image_file_is_scaled_and_made_grey() -> None:
    pixels = np.full((30, 20, 3), 200, dtype=np.uint8)
    array = decode_image(file_of(pixels, "JPEG"), channels=1, height=16, width=16)
    assert array.shape == (1, 16, 16)
    assert abs(int(array.mean()) - 200) <= 1


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n broken", file_of(np.zeros((8, 8), np.uint8))[:-30]]
)
def test_a_file_that_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="image: got a file that cannot be decoded"):
        decode_image(data, channels=1, height=8, width=8)


def test_a_huge_image_is_refused_before_it_is_decoded() -> None:
    huge = file_of(np.zeros((1, 1), np.uint8))
    width = (100_000).to_bytes(4, "big")
    header = huge[:16] + width + width + huge[24:]
    with pytest.raises(ValueError, match="image: got"):
        decode_image(header, channels=1, height=8, width=8)
