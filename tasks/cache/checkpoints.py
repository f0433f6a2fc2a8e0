"""How far a training has come, so that a run that dies goes on instead of starting over.

    <cache dir>/checkpoints/<cache key>/000007     after the seventh epoch

One file holds all that training changes: a line of JSON (the key, the history), then every
array as in an `.npy` file, then the SHA-256 of all of it. It gets its name once the disk has
it; two are kept, so that a damaged one leaves the one before.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BufferedReader
from pathlib import Path

import numpy as np

from tasks.cache.blobs import COPY_BYTES, PARTIAL, NewFile, Store, errors_named, read_header
from tasks.cache.entries import KEY
from tasks.cache.places import is_folder, make_folder, make_way, moment, open_file, regular_files
from tasks.errors import reason_of
from tasks.records import Count, EpochMetrics, History, Record, Sha256

KEPT = 2
NAME = re.compile("[0-9]{6}")
UNFINISHED = re.compile(rf".*{re.escape(PARTIAL)}")  # a killed run leaves one
OURS = re.compile(f"{NAME.pattern}|{UNFINISHED.pattern}")
NUMBERS = "biufc"  # kinds of NumPy's dtypes
DIGEST_BYTES = 64
ANOTHER_MODEL = "it is of another model"


class Progress(Record):
    """Which training this is, and its metrics so far: one for each epoch that is done."""

    key: Sha256
    history: History
    arrays: Count


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch. The arrays are those of `training.state_of`, in its order."""

    history: tuple[EpochMetrics, ...]
    arrays: Sequence[np.ndarray]


class Checkpoints:
    """The checkpoints of one training, named by its cache key."""

    def __init__(self, store: Store, key: str) -> None:
        self.key = key
        self.folder = store.checkpoints / key

    def newest(
        self, shapes: Sequence[tuple[int, ...]], warn: Callable[[str], None]
    ) -> Checkpoint | None:
        """The newest one that is whole and has arrays of these shapes; the others are removed."""
        for path in reversed(regular_files(self.folder, NAME)):
            try:
                return self._read(path, shapes)
            except (OSError, ValueError) as error:
                found = reason_of(error)
            warn(f"discarded the checkpoint {path}: {found}")
            path.unlink(missing_ok=True)
        return None

    def write(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, and one before it. Raises StoreError."""
        with errors_named(self.folder):
            make_folder(self.folder)
        progress = Progress(key=self.key, history=checkpoint.history, arrays=len(checkpoint.arrays))
        with NewFile(self.folder) as file:
            file.write(progress.model_dump_json().encode() + b"\n")
            for array in checkpoint.arrays:
                np.lib.format.write_array(file, np.asarray(array, order="C"), allow_pickle=False)
            file.write(file.sha256.encode())
            path = self.folder / _name(checkpoint.history)
            with errors_named(path):
                make_way(path)
            file.publish(path, sync=True)
        for old in regular_files(self.folder, NAME)[:-KEPT]:
            old.unlink(missing_ok=True)

    def written(self) -> datetime:
        """When the training came as far as this; long ago if there is nothing to go on from."""
        return moment(max((status.st_mtime for status in self._files()), default=0.0))

    def size_bytes(self) -> int:
        """What they take; 0 if there is nothing to go on from."""
        return sum(status.st_size for status in self._files())

    def _files(self) -> Iterator[os.stat_result]:
        for path in regular_files(self.folder, NAME):
            with suppress(FileNotFoundError):  # the training goes on meanwhile
                yield path.stat()

    def clear(self) -> None:
        """Remove them: the training is complete, or begins again."""
        for path in regular_files(self.folder, OURS):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # never made, or something of others is in it
            self.folder.rmdir()

    def clear_unfinished(self) -> None:
        """Remove the file that a run was writing when it was killed."""
        for path in regular_files(self.folder, UNFINISHED):
            path.unlink(missing_ok=True)

    def _read(self, path: Path, shapes: Sequence[tuple[int, ...]]) -> Checkpoint:
        """Raises ValueError unless the file is whole and what its name says, and OSError."""
        with open_file(path) as file:
            _require_intact(file)
            progress = Progress.model_validate_json(file.readline())
            if (progress.key, _name(progress.history)) != (self.key, path.name):
                raise ValueError("it is of another training or epoch")
            if progress.arrays != len(shapes):
                raise ValueError(ANOTHER_MODEL)
            return Checkpoint(progress.history, [_read_array(file, shape) for shape in shapes])


def all_checkpoints(store: Store) -> Iterator[Checkpoints]:
    """Those of every training that was begun and not completed."""
    with suppress(OSError):
        for folder in sorted(store.checkpoints.iterdir()):
            if KEY.fullmatch(folder.name) and is_folder(folder):
                yield Checkpoints(store, folder.name)


@contextmanager
def written_beside(
    training: Checkpoints, warn: Callable[[str], None]
) -> Iterator[Callable[[Checkpoint], None]]:
    """Yields what writes a checkpoint while the training goes on.

    A new one waits until the one before is on the disk. What cannot be written is told, and
    does not stop the training.
    """
    pending: list[Future[None]] = []

    def finish() -> None:
        if pending and (error := pending.pop().exception()):
            warn(f"no checkpoint of the epoch before: {error}")

    def write(checkpoint: Checkpoint) -> None:
        finish()
        pending.append(thread.submit(training.write, checkpoint))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint") as thread:
        try:
            yield write
        finally:
            finish()


def _name(history: Sequence[EpochMetrics]) -> str:
    return f"{len(history):06d}"


def _read_array(file: BufferedReader, shape: tuple[int, ...]) -> np.ndarray:
    """The array that comes next. Raises ValueError unless it holds numbers of this shape."""
    found, dtype = read_header(file)
    if found != shape or dtype.kind not in NUMBERS:
        raise ValueError(ANOTHER_MODEL)
    return np.fromfile(file, dtype, math.prod(shape)).reshape(shape)


def _require_intact(file: BufferedReader) -> None:
    """Raise ValueError unless the file ends in the digest of what is before; then rewind."""
    digest, tail = hashlib.sha256(), b""
    while chunk := file.read(COPY_BYTES):
        tail += chunk
        digest.update(tail[:-DIGEST_BYTES])
        tail = tail[-DIGEST_BYTES:]
    if tail != digest.hexdigest().encode():
        raise ValueError("it is torn or altered: content and digest differ")
    file.seek(0)
