"""Archives of images: folders become classes, and no member leads anywhere else."""

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradsight.v1 import spec_pb2, state_pb2
from gradsight_models.columns import Column, ColumnKind, Reading
from gradsight_worker.training.data import image_archive
from gradsight_worker.training.data.reading import read_rows
from gradsight_worker.training.data.rows import Roles, Rows
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

IMAGES = Roles(reading=Reading.IMAGES, target="label", id="path", image_size=8)


def picture(
    kind: str = "PNG", size: tuple[int, int] = (8, 8), color: Any = (250, 0, 0), mode: str = "RGB"
) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, kind)
    return file.getvalue()


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def read(tmp_path: Path, content: bytes, roles: Roles = IMAGES) -> Rows:
    path = tmp_path / "blob"
    path.write_bytes(content)
    file = DataFile(path=path, format=spec_pb2.DATA_FORMAT_UNSPECIFIED, filename="r.tar")
    return read_rows(file, roles, field="data.train", scratch=tmp_path / "scratch", memory_bytes=1 << 20)


def test_folders_are_classes_and_images_are_scaled_and_coloured(tmp_path: Path) -> None:
    long = "x" * 120
    content = tar(
        special("./cats", tarfile.DIRTYPE),
        ("./cats/a.png", picture()),
        ("dogs/b.jpeg", picture("JPEG", (32, 16), (0, 250, 0))),
        ("dogs/.DS_Store", b"junk"),
        (f"deep/{long}/birds/c", picture("PNG", (4, 4), 7, "L")),
    )
    rows = read(tmp_path, content)
    assert rows.columns == (Column(name="image", kind=ColumnKind.TENSOR, dtype="uint8", shape=(3, 8, 8)),)
    assert rows.targets is not None
    assert rows.targets.tolist() == ["cats", "dogs", "birds"]
    assert rows.ids.tolist() == ["cats/a.png", "dogs/b.jpeg", f"deep/{long}/birds/c"]
    (images,) = next(rows.chunks())
    assert images.mean(axis=(2, 3)).round(-1).tolist() == [[250, 0, 0], [0, 250, 0], [10, 10, 10]]


def test_without_a_size_all_images_must_have_the_first_ones(tmp_path: Path) -> None:
    roles = Roles(reading=Reading.IMAGES, target="label")
    assert read(tmp_path, tar(("a/1", picture(size=(9, 7))))).columns[0].shape == (3, 8, 8)
    assert read(tmp_path, tar(("a/1", picture(size=(9, 7)))), roles).columns[0].shape == (3, 7, 9)
    with pytest.raises(TrainingFailed, match='row 2, member "a/2": 8 × 8 pixels, expected 9 × 7'):
        read(tmp_path, tar(("a/1", picture(size=(9, 7))), ("a/2", picture())), roles)


def test_the_same_images_are_the_same_pixels_every_time(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    content = tar(("a/1", file.getvalue()))
    first, second = (next(read(tmp_path, content).chunks())[0] for _ in range(2))
    assert np.array_equal(first, second)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is of this size."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = part(b"IDAT", zlib.compress(b"\0" * 10_000))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + body + part(b"IEND", b"")


ATTACKS = [
    (tar(("../x.png", picture())), "leads out of the archive"),
    (tar(("a/../../x.png", picture())), "leads out of the archive"),
    (tar(("/etc/x.png", picture())), "leads out of the archive"),
    (tar(special("a/x.png", tarfile.SYMTYPE)), "a symbolic link"),
    (tar(special("a/x.png", tarfile.LNKTYPE)), "a link"),
    (tar(special("a/x.png", tarfile.CHRTYPE)), "a device"),
    (tar(special("a/x.png", tarfile.FIFOTYPE)), "a pipe"),
    (tar(("a/x.png", picture()), ("./a/x.png", picture())), '"a/x.png" occurs twice'),
    (tar(("a/inner.tar", tar(("a/x.png", picture())))), "an archive itself"),
    (tar(("a/inner.png", tar(("a/x.png", picture())))), 'member "a/inner.png": neither PNG nor JPEG'),
    (tar(("a/\x1b[2J.png", picture())), "control characters"),
    (tar(("a/x.png", b"GIF89a")), "neither PNG nor JPEG"),
    (tar(("a/x.png", bomb(100_000, 100_000))), "far too many pixels, allowed 64000000"),
    (tar(("a/x.png", bomb(10_000, 10_000))), "10000 × 10000 pixels, allowed 64000000"),
    (tar(("a/x.png", bomb(1000, 1000))), 'row 1, member "a/x.png": a PNG image that cannot be decoded'),
    (tar(("a/x.png", picture()[:-30])), 'member "a/x.png": a PNG image that cannot be decoded'),
    (
        tar(("a/x.jpg", picture("JPEG", (64, 64))[:300])),
        'member "a/x.jpg": a JPEG image that cannot be decoded',
    ),
    (tar(("a/x.png", picture(color=9, mode="I;16"))), "more than 8 bits a channel"),
    (tar(("x.png", picture())), "in no folder"),
    (tar(), "no archive"),
    (tar(special("a", tarfile.DIRTYPE)), "no images"),
    (tar(("a/x.png", picture()))[:560], "the file ends before"),
    (b"not a tar at all" * 100, "no archive"),
    (b"", "no archive"),
]


@pytest.mark.parametrize(("content", "message"), ATTACKS)
def test_an_archive_that_is_no_folder_of_images_is_refused_with_its_member(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(TrainingFailed) as caught:
        read(tmp_path, content)
    assert message in caught.value.error.message
    assert caught.value.error.fault == state_pb2.FAULT_DATA


def test_members_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_archive, "MOST_MEMBERS", 2)
    with pytest.raises(TrainingFailed, match="more than 2 members"):
        read(tmp_path, tar(*((f"a/{n}.png", picture()) for n in range(3))))


def test_a_member_whose_extension_header_is_huge_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a/x.png")
    info.pax_headers = {"comment": "x" * (1 << 20)}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(TrainingFailed, match="extension header"):
        read(tmp_path, file.getvalue())
