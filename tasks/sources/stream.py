"""An array that is read from a file piece by piece, never as a whole."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import DatasetError

CHUNK_BYTES = 4 << 20
AGAIN = "Download or copy the file again."  # the advice for a damaged file
SAVED = "Check how the array was saved."
SIZE = "A file must hold as many bytes as its header declares, and no more."
# Deflate cannot shrink data further than this, so a larger claim in a header is a lie
# that can be refused before a single byte is inflated.
DEFLATE_MAX_RATIO = 1032
# What gzip, zlib and zipfile raise for files that are damaged, encrypted or gone.
UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError)

Read = Callable[[int], bytes]  # up to so many bytes; fewer only at the end


@dataclass(frozen=True)
class ArrayStream:
    """What a file declares about an array, every dimension at least 1, and its rows.

    `rows()` opens the file again and yields consecutive pieces along axis 0.
    """

    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[np.ndarray]]

    def __post_init__(self) -> None:
        if min(self.shape, default=1) < 1:
            rule = "Every dimension must be at least 1."
            raise DatasetError(rule, received=self.shape, where=self.where, advice=SAVED)


def raw_array(
    where: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    header_bytes: int,
    opened: Callable[[], AbstractContextManager[Read]],
    *,
    size_bytes: int | None = None,
    deflated_bytes: int | None = None,
) -> ArrayStream:
    """An array whose values lie in C order between a header and the end of what is opened.

    Raises DatasetError when its declared size is not `size_bytes`, or cannot come out of
    `deflated_bytes`. `rows()` does, too: it reads the declared length and looks for more.
    """
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    declared_bytes = header_bytes + math.prod(shape) * dtype.itemsize  # Python's: no overflow

    def rows() -> Iterator[np.ndarray]:
        most = max(1, CHUNK_BYTES // row_bytes)
        with opened() as read:
            read(header_bytes)
            for start in range(0, shape[0], most):
                count = min(most, shape[0] - start)
                values = read(count * row_bytes)
                if len(values) < count * row_bytes:
                    raise _wrong(f"fewer than the {declared_bytes} bytes declared")
                yield np.frombuffer(values, dtype).reshape(count, *shape[1:])
            if read(1):
                raise _wrong(f"more than the {declared_bytes} bytes declared")

    def _wrong(received: str) -> DatasetError:
        return DatasetError(SIZE, received=received, where=where, advice=AGAIN)

    stream = ArrayStream(where, dtype, shape, rows)
    if size_bytes not in (None, declared_bytes):
        raise _wrong(f"{size_bytes} bytes, not {declared_bytes}")
    if deflated_bytes is not None and declared_bytes > deflated_bytes * DEFLATE_MAX_RATIO:
        raise _wrong(f"{deflated_bytes} compressed bytes, too few for {declared_bytes}")
    return stream


@contextmanager
def intact(rule: str, where: str | Path, advice: str) -> Iterator[None]:
    """Raise DatasetError with this rule for a file that cannot be read inside the block."""
    try:
        yield
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DatasetError(rule, received=reason, where=where, advice=advice) from error
