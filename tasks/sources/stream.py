"""What a dataset is opened to: arrays that are read piece by piece, never as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np

from tasks.errors import DatasetError
from tasks.sources.files import AGAIN, File, intact
from tasks.sources.verified import Opened

CHUNK_BYTES = 4 << 20
FIRST_BYTES = 1 << 16  # of the first piece: whoever only looks at some images reads few
# Deflate cannot shrink data further than this, so a larger claim in a header is a lie
# that can be refused before a single byte is inflated.
DEFLATE_MAX_RATIO = 1032

Convert = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Stream:
    """An array that is not read yet. What its rows are is as in the files: see tasks/load.py.

    Images are (image, row, column) or (image, row, column, channel), labels (image, …).
    """

    where: str  # the file, for messages
    dtype: np.dtype[Any]  # of labels, it may be a string (kind U)
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[np.ndarray]]  # pieces along axis 0; raises DatasetError

    def converted(
        self,
        convert: Convert,
        dtype: np.dtype[Any] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Stream:
        """A stream whose pieces are made from those of this one, of another dtype or shape."""
        rows = partial(_converted, self, convert)
        return replace(self, dtype=dtype or self.dtype, shape=shape or self.shape, rows=rows)

    def first_column(self) -> Stream:
        """Of an array (image, column) the first of each row."""
        return self.converted(lambda piece: piece[:, 0], shape=self.shape[:1])


def _converted(source: Stream, convert: Convert) -> Iterator[np.ndarray]:
    return map(convert, source.rows())


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


class Picture(NamedTuple):
    """A picture that is not decoded yet: where it is, for messages, and how its bytes open."""

    where: str
    opened: Callable[[], Opened]


Pieces = Callable[[int], Iterator[Sequence[Picture]]]  # of at most so many pictures


class PictureSplit(NamedTuple):
    """The pictures of a split, and a label for each."""

    where: str
    pieces: Pieces
    labels: np.ndarray


def in_memory(where: str, values: np.ndarray) -> Stream:
    """An array that is there already."""
    return Stream(where, values.dtype, values.shape, partial(_slices, values))


def _slices(array: np.ndarray) -> Iterator[np.ndarray]:
    most = max(1, CHUNK_BYTES // (array.nbytes // len(array)))
    for start in range(0, len(array), most):
        yield np.ascontiguousarray(array[start : start + most])


@dataclass(frozen=True)
class StoredArray:
    """An array in C order, every dimension at least 1, after the header of a file.

    Raises DatasetError when its declared size is not that of the file, if it is known, or cannot
    come out of the bytes that are stored. `rows()` does, too.
    """

    file: File
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    header_bytes: int

    def __post_init__(self) -> None:
        if min(self.shape, default=1) < 1:
            rule, advice = "Every dimension must be at least 1.", "Check how the array was saved."
            raise DatasetError(rule, received=self.shape, where=self.file.where, advice=advice)
        declared, stored = self.declared_bytes, self.file.stored_bytes
        if self.file.size_bytes not in (None, declared):
            raise self._wrong_size(f"{self.file.size_bytes} bytes, not {declared}")
        if declared > stored * DEFLATE_MAX_RATIO:
            raise self._wrong_size(f"{stored} compressed bytes, too few for {declared}")

    @property
    def declared_bytes(self) -> int:
        """What the header says that there is, itself included."""
        return self.header_bytes + math.prod(self.shape) * self.dtype.itemsize  # cannot overflow

    def stream(self, *, fortran_order: bool = False) -> Stream:
        """Its rows; `fortran_order` if the first axis is stored last."""
        rows = self._rows_of_fortran if fortran_order else self._rows
        return Stream(self.file.where, self.dtype, self.shape, rows)

    def _rows(self) -> Iterator[np.ndarray]:
        """Open the file again and read consecutive pieces along axis 0, and no more than these."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        left, piece_bytes = self.shape[0], FIRST_BYTES
        with self.file.opened() as opened:
            opened.read(self.header_bytes)
            while left:
                count = min(left, max(1, min(piece_bytes, CHUNK_BYTES) // row_bytes))
                values = opened.read(count * row_bytes)
                if len(values) < count * row_bytes:
                    raise self._wrong_size(f"fewer than the {self.declared_bytes} bytes declared")
                yield np.frombuffer(values, self.dtype).reshape(count, *self.shape[1:])
                left, piece_bytes = left - count, CHUNK_BYTES
            if opened.read(1):
                raise self._wrong_size(f"more than the {self.declared_bytes} bytes declared")

    def _rows_of_fortran(self) -> Iterator[np.ndarray]:
        """Its images are not in one piece each: a temporary file has them, and takes no memory."""
        flat = replace(self, shape=(math.prod(self.shape),))
        rule, advice = "The temporary folder must have room for the array.", "Set TMPDIR."
        with intact(rule, self.file.where, advice), TemporaryFile() as file:
            for piece in flat._rows():  # noqa: SLF001 - its own
                file.write(piece.data)
            yield from _slices(np.memmap(file, self.dtype, "r", 0, self.shape, "F"))

    def _wrong_size(self, received: str) -> DatasetError:
        rule = "A file must hold as many bytes as its header declares, and no more."
        return DatasetError(rule, received=received, where=self.file.where, advice=AGAIN)
