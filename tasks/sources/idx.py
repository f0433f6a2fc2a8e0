"""The IDX format of the MNIST files, plain or gzip.

    00 00 08 03   two zero bytes, 0x08 = unsigned byte, 3 dimensions
    00 00 ea 60   60000 images      (big-endian 32-bit sizes)
    00 00 00 1c   28 rows
    00 00 00 1c   28 columns
    …             60000 x 28 x 28 bytes, nothing after them

Source: http://yann.lecun.com/exdb/mnist/ ("FILE FORMATS FOR THE MNIST DATABASE").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tasks.errors import (
    DatasetError,
)
from tasks.sources.stream import (
    AGAIN,
    DEFLATE_MAX_RATIO,
    ArrayStream,
    Readable,
    read_rows,
    trailing,
    truncated,
)

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08


def open_idx(path: Path, dimensions: int) -> ArrayStream:
    """Check an IDX file's header against its size, before anything is allocated.

    Args:
        path: the file; gzip is recognised by its first bytes, not by its name.
        dimensions: 3 for images, 1 for labels.

    Raises:
        DatasetError: not an IDX file of unsigned bytes with that many dimensions.
        DatasetError: a dimension is zero.
        DatasetError, DatasetError: size and header disagree. What gzip hides
            about the size shows while `rows()` inflates exactly the declared length.
        DatasetError: the gzip stream does not inflate.
    """
    header_bytes = 4 + 4 * dimensions
    with _opened(path) as file:
        header = file.read(header_bytes)
        zipped = isinstance(file, gzip.GzipFile)
    shape = _shape_from_header(header, dimensions, path)
    declared_bytes = header_bytes + math.prod(shape)  # Python integers: cannot overflow
    _check_size(path, zipped, declared_bytes)

    def rows() -> Iterator[np.ndarray]:
        with _opened(path) as file:
            file.read(header_bytes)
            yield from read_rows(file.read, np.dtype(np.uint8), shape, path.name)
            if file.read(1):
                raise trailing(f"more than the {declared_bytes} bytes declared", path.name)

    return ArrayStream(path.name, np.dtype(np.uint8), shape, rows)


@contextmanager
def _opened(path: Path) -> Iterator[Readable]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        try:
            yield gzip.GzipFile(fileobj=raw) if zipped else raw
        except EOFError as error:
            raise truncated("a gzip stream that ends early", path.name) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DatasetError(
                "A gzip file must inflate without error.",
                received=error,
                where=path.name,
                advice=AGAIN,
            ) from error


def _shape_from_header(header: bytes, dimensions: int, path: Path) -> tuple[int, ...]:
    expected = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if header[:4] != expected:
        raise DatasetError(
            f"An IDX file of {dimensions}-dimensional bytes starts with {expected.hex(' ')}.",
            received=header[:4].hex(" ") or "an empty file",
            where=path.name,
            advice="Check that the file is what its name says.",
        )
    if len(header) < 4 + 4 * dimensions:
        raise truncated(f"{len(header)} bytes, less than the header", path.name)
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise DatasetError(
            "Every dimension must be at least 1.", received=shape, where=path.name, advice=AGAIN
        )
    return shape


def _check_size(path: Path, zipped: bool, declared_bytes: int) -> None:
    size_bytes = path.stat().st_size
    if zipped:
        if declared_bytes > size_bytes * DEFLATE_MAX_RATIO:
            raise truncated(
                f"{size_bytes} bytes of gzip, which cannot hold the {declared_bytes} declared",
                path.name,
            )
    elif size_bytes < declared_bytes:
        raise truncated(f"{size_bytes} bytes, not {declared_bytes}", path.name)
    elif size_bytes > declared_bytes:
        raise trailing(f"{size_bytes} bytes, not {declared_bytes}", path.name)
