"""An array that is read from a file piece by piece, never as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tasks.errors import DatasetError

CHUNK_BYTES = 4 << 20
AGAIN = "Download or copy the file again."  # the advice for a damaged file
# Deflate cannot shrink data further than this, so a larger claim in a header is a lie
# that can be refused before a single byte is inflated.
DEFLATE_MAX_RATIO = 1032


def truncated(received: str, where: str) -> DatasetError:
    """The error of a file that ends before its header says so."""
    return DatasetError(
        "A file must hold as many bytes as its header declares.",
        received=received,
        where=where,
        advice=AGAIN,
    )


def trailing(received: str, where: str) -> DatasetError:
    """The error of a file that goes on after its header says so."""
    return DatasetError(
        "Nothing may follow the bytes that the header declares.",
        received=received,
        where=where,
        advice=AGAIN,
    )


@runtime_checkable
class Readable(Protocol):
    """The part of a binary file that is used here: plain, gzip or a member of a zip."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""

    def tell(self) -> int:
        """Bytes read so far."""


@dataclass(frozen=True)
class ArrayStream:
    """What a file declares about an array, checked against its size, and its rows.

    `rows()` opens the file anew and yields consecutive pieces along axis 0.
    """

    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[np.ndarray]]


def read_rows(
    read: Callable[[int], bytes], dtype: np.dtype[Any], shape: tuple[int, ...], where: str
) -> Iterator[np.ndarray]:
    """Yield pieces of at most CHUNK_BYTES; `read(n)` returns n bytes unless the file ends.

    Raises DatasetError when the file ends early.
    """
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    rows_a_chunk = max(1, CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, shape[0], rows_a_chunk):
        count = min(rows_a_chunk, shape[0] - start)
        buffer = read(count * row_bytes)
        if len(buffer) != count * row_bytes:
            found = start * row_bytes + len(buffer)
            raise truncated(f"{found} bytes of values, not {shape[0] * row_bytes}", where)
        yield np.frombuffer(buffer, dtype).reshape(count, *shape[1:])
