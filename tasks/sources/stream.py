"""What a dataset is opened to: arrays that are read piece by piece, never as a whole."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tasks.errors import DatasetError, reason_of

CHUNK_BYTES = 4 << 20
FIRST_BYTES = 1 << 16  # of the first piece: whoever only looks at some images reads few
# Deflate cannot shrink data further than this, so a larger claim in a header is a lie
# that can be refused before a single byte is inflated.
DEFLATE_MAX_RATIO = 1032
# What gzip, zlib and zipfile raise for files that are damaged, encrypted or gone, and NumPy's
# parser of headers for those that it cannot read, or that are nested too deeply.
UNREADABLE = (
    *(OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError),
    *(LookupError, OverflowError, TypeError, SyntaxError, tokenize.TokenError, MemoryError),
)
AGAIN = "Download or copy the file again."

Read = Callable[[int], bytes]  # up to so many bytes; fewer only at the end


@runtime_checkable
class Stream(Protocol):
    """An array that is not read yet. What its rows are is as in the files: see tasks/load.py."""

    @property
    def where(self) -> str:
        """The file, for messages."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values; labels may be strings (kind U)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Images (image, row, column) or (image, row, column, channel), labels (image, …)."""

    def rows(self) -> Iterator[np.ndarray]:
        """Read consecutive pieces along axis 0. Raises DatasetError."""


@dataclass(frozen=True)
class OpenedDataset:
    """A dataset that was recognised and is not read yet.

    `streams`: x_train and y_train, and as far as there are such, x_validation, y_validation,
    x_test, y_test. `notes`: what was recognised, and what is done to it, for the log of the run.
    `names`: of the classes, by label as stored; None if the labels are the names.
    """

    streams: Mapping[str, Stream]
    notes: tuple[str, ...] = ()
    names: Mapping[int, str] | None = None


@dataclass(frozen=True)
class ArrayStream:
    """An array in C order, every dimension at least 1, after the header of what is opened.

    Raises DatasetError when its declared size is not `size_bytes`, if that is known, or cannot
    come out of the `stored_bytes` in the file. `rows()` does, too.
    """

    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    header_bytes: int
    opened: Callable[[], AbstractContextManager[Read]]
    size_bytes: int | None
    stored_bytes: int

    def __post_init__(self) -> None:
        if min(self.shape, default=1) < 1:
            rule, advice = "Every dimension must be at least 1.", "Check how the array was saved."
            raise DatasetError(rule, received=self.shape, where=self.where, advice=advice)
        declared = self.declared_bytes
        if self.size_bytes not in (None, declared):
            raise self._wrong_size(f"{self.size_bytes} bytes, not {declared}")
        if declared > self.stored_bytes * DEFLATE_MAX_RATIO:
            raise self._wrong_size(f"{self.stored_bytes} compressed bytes, too few for {declared}")

    @property
    def declared_bytes(self) -> int:
        """What the header says that there is, itself included."""
        return self.header_bytes + math.prod(self.shape) * self.dtype.itemsize  # cannot overflow

    def rows(self) -> Iterator[np.ndarray]:
        """Open the file again and read consecutive pieces along axis 0, and no more than these."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        left, piece_bytes = self.shape[0], FIRST_BYTES
        with self.opened() as read:
            read(self.header_bytes)
            while left:
                count = min(left, max(1, min(piece_bytes, CHUNK_BYTES) // row_bytes))
                values = read(count * row_bytes)
                if len(values) < count * row_bytes:
                    raise self._wrong_size(f"fewer than the {self.declared_bytes} bytes declared")
                yield np.frombuffer(values, self.dtype).reshape(count, *self.shape[1:])
                left, piece_bytes = left - count, CHUNK_BYTES
            if read(1):
                raise self._wrong_size(f"more than the {self.declared_bytes} bytes declared")

    def _wrong_size(self, received: str) -> DatasetError:
        rule = "A file must hold as many bytes as its header declares, and no more."
        return DatasetError(rule, received=received, where=self.where, advice=AGAIN)


@dataclass(frozen=True)
class FortranStream:
    """An array whose first axis is stored last, that of numpy.asfortranarray.

    `stored` is the stream of its bytes, as if they were in C order. Its images are not in one
    piece each: `rows()` writes the array to a temporary file, which takes no memory, and reads
    from there.
    """

    stored: ArrayStream

    @property
    def where(self) -> str:
        """The file, for messages."""
        return self.stored.where

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """As the array has it."""
        return self.stored.shape

    def rows(self) -> Iterator[np.ndarray]:
        """Read consecutive pieces along axis 0. Raises DatasetError."""
        flat = replace(self.stored, shape=(math.prod(self.shape),))
        rule, advice = "The temporary folder must have room for the array.", "Set TMPDIR."
        with intact(rule, self.where, advice), TemporaryFile() as file:
            for piece in flat.rows():
                file.write(piece.data)
            array: np.ndarray = np.memmap(file, self.dtype, "r", 0, self.shape, "F")
            most = max(1, CHUNK_BYTES // (array.nbytes // len(array)))
            for start in range(0, len(array), most):
                yield np.ascontiguousarray(array[start : start + most])


@dataclass(frozen=True)
class Converted:
    """A stream whose pieces are made from those of another."""

    source: Stream
    convert: Callable[[np.ndarray], np.ndarray]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def where(self) -> str:
        """The file, for messages."""
        return self.source.where

    def rows(self) -> Iterator[np.ndarray]:
        """Read consecutive pieces along axis 0. Raises DatasetError."""
        return map(self.convert, self.source.rows())


@contextmanager
def intact(rule: str, where: str | Path, advice: str) -> Iterator[None]:
    """Raise DatasetError with this rule for a file that cannot be read inside the block."""
    try:
        yield
    except UNREADABLE as error:
        received = reason_of(error)
        raise DatasetError(rule, received=received, where=where, advice=advice) from None
