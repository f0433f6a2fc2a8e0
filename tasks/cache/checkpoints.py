"""How far a training has come, so that a run that dies goes on instead of starting over.

    <cache dir>/checkpoints/<cache key>/000007     after the seventh epoch

One file holds all that training changes: a line of JSON (the key, the history), then every
array as in an `.npy` file, then the SHA-256 of all of it. It gets its name once the disk has
it; two are kept, so that a damaged one leaves the one before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tasks.cache.blobs import COPY_BYTES, PARTIAL, NewFile, Store, errors_named, regular_files
from tasks.cache.entries import KEY
from tasks.records import EpochMetrics, Record, Sha256

KEPT = 2
NAME = re.compile("[0-9]{6}")
OURS = re.compile(rf"[0-9]{{6}}|.*{re.escape(PARTIAL)}")  # a killed run leaves an unfinished one
DIGEST_BYTES = 64


class Progress(Record):
    """Which training this is, and its metrics so far: one for each epoch that is done."""

    key: Sha256
    history: tuple[EpochMetrics, ...]
    arrays: int


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch. The arrays are those of `training.state_of`, in its order."""

    history: tuple[EpochMetrics, ...]
    arrays: Sequence[np.ndarray]


class Checkpoints:
    """The checkpoints of one training, named by its cache key."""

    def __init__(self, store: Store, key: str) -> None:
        self._key = key
        self.folder = store.checkpoints / key

    def newest(
        self, shapes: Sequence[tuple[int, ...]], warn: Callable[[str], None]
    ) -> Checkpoint | None:
        """The newest one that is whole and has arrays of these shapes; the others are removed."""
        for path in reversed(regular_files(self.folder, NAME)):
            try:
                checkpoint = self._read(path)
                if [array.shape for array in checkpoint.arrays] == list(shapes):
                    return checkpoint
                found = "it is of another model"
            except (OSError, ValueError) as error:
                found = str(error).partition("\n")[0]
            warn(f"discarded the checkpoint {path}: {found}")
            path.unlink(missing_ok=True)
        return None

    def write(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint, and one before it. Raises StoreError."""
        with errors_named(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
        progress = Progress(
            key=self._key, history=checkpoint.history, arrays=len(checkpoint.arrays)
        )
        with NewFile(self.folder) as file:
            file.write(progress.model_dump_json().encode() + b"\n")
            for array in checkpoint.arrays:
                np.lib.format.write_array(file, array, allow_pickle=False)
            file.write(file.sha256.encode())
            file.publish(self.folder / _name(checkpoint.history), sync=True)
        for old in regular_files(self.folder, NAME)[:-KEPT]:
            old.unlink(missing_ok=True)

    def written(self) -> datetime:
        """When the training came as far as this; the beginning of time if it is gone."""
        try:
            return datetime.fromtimestamp(self.folder.stat().st_mtime, UTC)
        except OSError:
            return datetime.min.replace(tzinfo=UTC)

    def clear(self) -> None:
        """Remove them: the training is complete, or begins again."""
        for path in regular_files(self.folder, OURS):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # never made, or something of others is in it
            self.folder.rmdir()

    def _read(self, path: Path) -> Checkpoint:
        """Raises ValueError unless the file is whole and what its name says, and OSError."""
        with path.open("rb") as file:
            _require_intact(file)
            progress = Progress.model_validate_json(file.readline())
            arrays = [
                np.lib.format.read_array(file, allow_pickle=False) for _ in range(progress.arrays)
            ]
        if (progress.key, _name(progress.history)) != (self._key, path.name):
            raise ValueError("it is of another training or epoch")
        return Checkpoint(progress.history, arrays)


def all_checkpoints(store: Store) -> Iterator[Checkpoints]:
    """Those of every training that was begun and not completed."""
    with suppress(OSError):
        for folder in sorted(store.checkpoints.iterdir()):
            if KEY.fullmatch(folder.name):
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


def _require_intact(file: BinaryIO) -> None:
    """Raise ValueError unless the file ends in the digest of what is before; then rewind."""
    digest, tail = hashlib.sha256(), b""
    while chunk := file.read(COPY_BYTES):
        tail += chunk
        digest.update(tail[:-DIGEST_BYTES])
        tail = tail[-DIGEST_BYTES:]
    if tail != digest.hexdigest().encode():
        raise ValueError("it is torn or altered: content and digest differ")
    file.seek(0)
