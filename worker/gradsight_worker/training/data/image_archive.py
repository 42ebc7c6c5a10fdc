"""An uncompressed tar of PNG and JPEG images in folders: columns `image`, `label` (the folder) and `path`.

Members are looked at by their own bytes, whatever they are called, and decoded one at a time into a mapped file.
Nothing is unpacked, and no name of a member ever becomes a path.
"""

import io
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from gradsight._tar_members import TarError, TarMember, read_members
from gradsight_models.images import pixels_of
from gradsight_worker.training.data.arrays import RawColumn
from gradsight_worker.training.data.mapped import MappedFile, scratch_file
from gradsight_worker.training.data.rows import Roles
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

MOST_MEMBERS = 500_000
MOST_PIXELS = 64_000_000
"""Of one image: 192 MB once it is decoded."""
MOST_IMAGE_BYTES = 64 << 20
_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}

Pixels = npt.NDArray[np.uint8]


def image_columns(file: DataFile, roles: Roles, *, scratch: Path) -> Mapping[str, RawColumn]:
    """The images of an archive, in its order. Raises TrainingFailed with the member at fault."""
    labels: list[str] = []
    paths: list[str] = []
    shape: tuple[int, ...] = ()
    pixels = scratch_file(scratch)
    with file.path.open("rb") as data:
        for row, member in enumerate(_images(data, file), start=1):
            image = _decoded(data, member, file, row, roles.image_size)
            shape = shape or image.shape
            if image.shape != shape:
                raise _refused(
                    file,
                    member,
                    row,
                    f"{image.shape[2]} × {image.shape[1]} pixels, expected {shape[2]} × {shape[1]} as the first image",
                )
            pixels.write(image.data)
            folders = member.name.split("/")
            if len(folders) < 2 and roles.target == "label":
                raise _refused(file, member, row, "in no folder, expected one named after its class")
            labels.append(folders[-2] if len(folders) > 1 else "")
            paths.append(member.name)
    if not paths:
        raise TrainingFailed.by_data(
            f"{file.filename} has no images; PNG and JPEG files in folders are expected"
        )
    pixels.flush()
    mapped = MappedFile(pixels)
    return {
        "image": RawColumn(values=mapped.bytes.reshape(-1, *shape), file=mapped),
        "label": RawColumn(values=np.array(labels, dtype=object)),
        "path": RawColumn(values=np.array(paths, dtype=object)),
    }


def _images(data: BinaryIO, file: DataFile) -> Iterator[TarMember]:
    """Members that are files, hidden ones aside."""
    seen: set[str] = set()
    try:
        for number, member in enumerate(read_members(data, file.path.stat().st_size), start=1):
            if number > MOST_MEMBERS:
                raise TarError(f"tar: more than {MOST_MEMBERS} members, the limit")
            name = member.name.removeprefix("./")
            if member.is_folder or name.rpartition("/")[2].startswith("."):
                continue
            if name in seen:
                raise TarError(f"tar: member {json.dumps(name[:200])} occurs twice, allowed once")
            seen.add(name)
            yield TarMember(name=name, is_folder=False, start=member.start, size=member.size)
    except TarError as error:
        raise TrainingFailed.by_data(f"{file.filename}: {error}") from error


def _decoded(data: BinaryIO, member: TarMember, file: DataFile, row: int, side: int | None) -> Pixels:
    """uint8 [3, height, width]."""
    if member.size > MOST_IMAGE_BYTES:
        raise _refused(file, member, row, f"{member.size} bytes, allowed {MOST_IMAGE_BYTES}")
    data.seek(member.start)
    content = data.read(member.size)
    kind = next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), None)
    if kind is None:
        raise _refused(file, member, row, "neither PNG nor JPEG by its first bytes")
    try:
        with warnings.catch_warnings():
            # Our own limit is the lower one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=(kind,))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise _refused(file, member, row, f"{width} × {height} pixels, allowed {MOST_PIXELS} in all")
        if image.mode.startswith(("I", "F")):
            raise _refused(file, member, row, "more than 8 bits a channel; save it with 8")
        return pixels_of(image, channels=3, size=None if side is None else (side, side))
    except Image.DecompressionBombError as error:
        raise _refused(file, member, row, f"far too many pixels, allowed {MOST_PIXELS}") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _refused(file, member, row, f"a {kind} image that cannot be decoded: {error}") from error


def _refused(file: DataFile, member: TarMember, row: int, what: str) -> TrainingFailed:
    name = json.dumps(member.name[:200], ensure_ascii=False)
    return TrainingFailed.by_data(f"{file.filename}, row {row}, member {name}: {what}", row=row)
