"""IDX files: what is read, and how each broken kind is refused."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from builders import idx_bytes

from tasks.errors import DatasetError
from tasks.sources.files import file_at
from tasks.sources.idx import open_idx

# Two images of 2 rows and 3 columns.
IMAGES = bytes.fromhex("00000803 00000002 00000002 00000003  000102 030405 060708 0909ff")
IMAGES_ARRAY = np.array([[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 9, 255]]], np.uint8)
LABELS = bytes.fromhex("00000801 00000004  07020100")
LABELS_ARRAY = np.array([7, 2, 1, 0], np.uint8)
HEADER_BYTES = 16  # of a file of images

# 2**32 - 1 images of 2**32 - 1 rows and columns, 16 bytes of them present.
IMPOSSIBLE = struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3) + bytes(16)


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read(path: Path, dimensions: int = 3) -> np.ndarray:
    return np.concatenate(list(open_idx(file_at(path), dimensions).rows()))


@pytest.mark.parametrize("content", [IMAGES, gzipped(IMAGES)], ids=["plain", "gzip"])
def test_images_are_read(tmp_path: Path, content: bytes) -> None:
    images = read(written(tmp_path / "images", content))

    np.testing.assert_array_equal(IMAGES_ARRAY, images, strict=True)


@pytest.mark.parametrize("content", [LABELS, gzipped(LABELS)], ids=["plain", "gzip"])
def test_labels_are_read(tmp_path: Path, content: bytes) -> None:
    labels = read(written(tmp_path / "labels", content), dimensions=1)

    np.testing.assert_array_equal(LABELS_ARRAY, labels, strict=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [("images", gzipped(IMAGES)), ("images.gz", IMAGES)],
    ids=["gzip without .gz", "plain with .gz"],
)
def test_gzip_is_recognised_by_its_bytes_not_its_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    np.testing.assert_array_equal(IMAGES_ARRAY, read(written(tmp_path / name, content)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (2, 32, 32)])
def test_images_of_another_size_are_read(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    images = (np.arange(np.prod(shape)) % 256).astype(np.uint8).reshape(shape)

    np.testing.assert_array_equal(images, read(written(tmp_path / "images", idx_bytes(images))))


@pytest.mark.parametrize("chunk_bytes", [1, 6, 12, 13, 30])
def test_pieces_join_to_the_whole_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    """Whether a piece is less than an image, one image, several, or does not divide evenly."""
    images = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3)
    monkeypatch.setattr("tasks.sources.stream.CHUNK_BYTES", chunk_bytes)

    np.testing.assert_array_equal(images, read(written(tmp_path / "images", idx_bytes(images))))


def test_opening_declares_what_the_rows_will_be(tmp_path: Path) -> None:
    stream = open_idx(file_at(written(tmp_path / "images", IMAGES)), dimensions=3)

    assert ("images", np.uint8, (2, 2, 3)) == (stream.where, stream.dtype, stream.shape)


STARTS = "An IDX file of 3-dimensional bytes starts with 00 00 08 03 and 12 bytes of sizes."
SIZE = "A file must hold as many bytes as its header declares, and no more."
INFLATES = "A file must be readable and, if it is compressed, inflate without error."
OF_LABELS = "00 00 08 01 and 8 bytes"
ENDS_EARLY = "Compressed file ended before the end-of-stream marker was reached"


@pytest.mark.parametrize(
    ("content", "rule", "received"),
    [
        pytest.param(b"", STARTS, "an empty file", id="empty"),
        pytest.param(gzipped(b""), STARTS, "an empty file", id="gzip of nothing"),
        pytest.param(b"\x89PNG", STARTS, "another start", id="wrong magic"),
        pytest.param(b"\0\0\x0d\x03" + bytes(12), STARTS, "00 00 0d 03 and 12 bytes", id="floats"),
        pytest.param(LABELS, STARTS, OF_LABELS, id="labels given as images"),
        pytest.param(gzipped(LABELS), STARTS, OF_LABELS, id="gzip of labels as images"),
        pytest.param(b"\0\0\x08", STARTS, "another start", id="magic cut short"),
        pytest.param(IMAGES[:9], STARTS, "00 00 08 03 and 5 bytes", id="header"),
        pytest.param(gzipped(IMAGES[:9]), STARTS, "00 00 08 03 and 5 bytes", id="gz header"),
        pytest.param(
            struct.pack(">4B3I", 0, 0, 8, 3, 2, 0, 3),
            "Every dimension must be at least 1.",
            "(2, 0, 3)",
            id="zero dimension",
        ),
        pytest.param(IMAGES[:-1], SIZE, "27 bytes, not 28", id="cut short"),
        pytest.param(IMAGES + b"\0", SIZE, "29 bytes, not 28", id="trailing byte"),
        pytest.param(gzipped(IMAGES[:-1]), SIZE, "fewer than the 28 bytes declared", id="gz less"),
        pytest.param(
            gzipped(IMAGES + b"\0"), SIZE, "more than the 28 bytes declared", id="gz more"
        ),
        pytest.param(gzipped(IMAGES)[:-12], INFLATES, ENDS_EARLY, id="gz cut"),
        pytest.param(gzipped(IMAGES)[:5], INFLATES, ENDS_EARLY, id="gz header cut"),
        pytest.param(
            gzipped(IMAGES) + b"more", INFLATES, "Not a gzipped file (…)", id="gz then garbage"
        ),
    ],
)
def test_broken_file_is_refused_with_what_was_found_and_where(
    tmp_path: Path, content: bytes, rule: str, received: str
) -> None:
    path = written(tmp_path / "train-images-idx3-ubyte", content)

    with pytest.raises(DatasetError) as caught:
        read(path)

    assert str(caught.value).startswith(
        f"{rule} Received: {received} (in train-images-idx3-ubyte). "
    )


def test_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"must be readable.*No such file.*\(in images\)"):
        open_idx(file_at(tmp_path / "images"), dimensions=3)


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize(
    ("position", "received"),
    [(10, "Error -3 while decompressing"), (-8, "CRC check failed")],
    ids=["deflated bytes", "checksum"],
)
def test_corrupt_gzip_is_refused_by_name(tmp_path: Path, position: int, received: str) -> None:
    path = written(tmp_path / "images.gz", flipped(gzipped(IMAGES), position))

    with pytest.raises(DatasetError, match=rf"inflate without.*{received}.*\(in images\.gz\)"):
        read(path)


def test_images_given_as_labels_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "labels", IMAGES)

    with pytest.raises(
        DatasetError, match=r"starts with 00 00 08 01 and 4 .*Received: 00 00 08 03"
    ):
        open_idx(file_at(path), dimensions=1)


@pytest.mark.parametrize("content", [IMPOSSIBLE, gzipped(IMPOSSIBLE)], ids=["plain", "gzip"])
def test_impossible_size_is_refused_before_anything_is_allocated(
    tmp_path: Path, content: bytes
) -> None:
    path = written(tmp_path / "images", content)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=f"as its header.*{HEADER_BYTES + (2**32 - 1) ** 3}"):
            open_idx(file_at(path), dimensions=3)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 1 << 20


def test_the_largest_honest_gzip_ratio_is_accepted(tmp_path: Path) -> None:
    """Blank images shrink further than any others and still are a valid dataset."""
    blank = np.zeros((100, 100, 100), np.uint8)

    np.testing.assert_array_equal(blank, read(written(tmp_path / "i", gzipped(idx_bytes(blank)))))
