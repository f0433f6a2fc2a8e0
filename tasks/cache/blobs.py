"""The content-addressed store: files named by the SHA-256 of their bytes.

    <cache dir>/blobs/9f86d081884c7d65….npy      sha256sum of the file gives its name
    <cache dir>/blobs/60303ae22b998861….keras
    <cache dir>/blobs/3e23e8160039594a….png
    <cache dir>/results/<cache key>              written by tasks/cache/entries.py
    <cache dir>/checkpoints/<cache key>/000007   written by tasks/cache/checkpoints.py

A file appears under its name only once it is complete: it is written to a temporary name
in the same folder and renamed. Before a file is used its digest is compared with its name,
once in each process as long as the file is not touched.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from pydantic import Field

from tasks.errors import PayloadError, StoreError
from tasks.records import ArrayRef, BlobRef, Record

COPY_BYTES = 1 << 20
PARTIAL = ".partial"
ABANDONED_SECONDS = 24 * 3600


@contextmanager
def errors_named(path: Path, option: str = "--cache-dir") -> Iterator[None]:
    """Turn the operating system's errors while writing into the store's own.

    Args:
        path: what is written.
        option: the setting that chooses another place.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                "The disk must have room for what the run writes.",
                received=os.strerror(error.errno),
                where=path,
                advice=f"Free some space or choose another place with {option}; "
                "everything stored before is intact.",
            ) from error
        raise StoreError(
            "The folders for the cache and the models must be writable.",
            received=error.strerror or error,
            where=path,
            advice=f"Check its owner and permissions, or choose another folder with {option}.",
        ) from error


# Files whose bytes this process has digested: (path, inode, size, modification time).
_intact: set[tuple[Path, int, int, int]] = set()


class NewFile:
    """A file under a temporary name that gets its real name when it is complete."""

    def __init__(self, folder: Path, option: str) -> None:
        self._option = option
        with errors_named(folder, option):
            handle, name = tempfile.mkstemp(dir=folder, suffix=PARTIAL)
        self._file = os.fdopen(handle, "wb")
        self.temporary = Path(name)

    def write(self, buffer: bytes | memoryview) -> None:
        """Append bytes. Raises StoreError or StoreError."""
        with errors_named(self.temporary, self._option):
            self._file.write(buffer)

    def publish(self, path: Path, *, sync: bool = False) -> None:
        """Give the file its name, replacing what stood there in one step.

        With `sync` it survives a loss of power, too, at the price of waiting for the disk.
        """
        with errors_named(path, self._option):
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
            self.temporary.replace(path)
            if sync:
                _sync_folder(path.parent)

    def discard(self) -> None:
        """Close, and remove whatever was not published."""
        with suppress(OSError):  # what could not be flushed is thrown away anyway
            self._file.close()
        self.temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_file(folder: Path, option: str = "--cache-dir") -> Iterator[NewFile]:
    """Open a new file in `folder`; without a call of `publish` it leaves nothing behind."""
    file = NewFile(folder, option)
    try:
        yield file
    finally:
        file.discard()


def write_atomically(path: Path, content: bytes, option: str = "--cache-dir") -> None:
    """Write a small file so that readers see the old content or the new, never a part."""
    with new_file(path.parent, option) as file:
        file.write(content)
        file.publish(path)


class ArrayWriter:
    """Writes one array row by row, digesting it on the way.

    Args:
        file: new and empty.
        dtype: of every chunk, exactly.
        shape: of the whole array; axis 0 is the one that chunks are cut along.
    """

    def __init__(self, file: NewFile, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._dtype, self._shape = dtype, shape
        self._rows = self._size_bytes = 0
        self._write(_npy_header(dtype, shape))

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows: the array's dtype, shape (n, *shape[1:]), any n."""
        if rows.dtype != self._dtype or rows.shape[1:] != self._shape[1:]:
            raise ValueError(
                f"Rows must be {self._dtype} {self._shape[1:]}. "
                f"Received: {rows.dtype} {rows.shape[1:]}."
            )
        self._rows += len(rows)
        if rows.size:
            self._write(np.ascontiguousarray(rows).data.cast("B"))

    def finish(self) -> ArrayRef:
        """Name what was written. Raises ValueError when rows are missing or too many."""
        if self._rows != self._shape[0]:
            raise ValueError(f"Expected {self._shape[0]} rows. Received: {self._rows}.")
        return ArrayRef(
            sha256=self._digest.hexdigest(),
            size_bytes=self._size_bytes,
            dtype=self._dtype.name,
            shape=self._shape,
        )

    def _write(self, buffer: bytes | memoryview) -> None:
        digesting = Thread(target=self._digest.update, args=(buffer,))
        digesting.start()  # beside the writing: neither holds the interpreter's lock
        try:
            self._file.write(buffer)
        finally:
            digesting.join()
        self._size_bytes += len(buffer)


class Store(Record):
    """Where intermediate arrays and models lie.

    The root is a setting of this machine and no part of any cache key.
    """

    root: Path = Field(exclude=True)

    @property
    def blobs(self) -> Path:
        """The folder of the stored files."""
        return self.root / "blobs"

    @property
    def results(self) -> Path:
        """The folder of the cached results."""
        return self.root / "results"

    @property
    def latest(self) -> Path:
        """The folder that remembers each stage's latest run."""
        return self.root / "latest"

    @property
    def checkpoints(self) -> Path:
        """The folder of the trainings that are not complete, one folder each."""
        return self.root / "checkpoints"

    @property
    def locks(self) -> Path:
        """The folder of the locks that make two runs compute once."""
        return self.root / "locks"

    def prepare(self) -> None:
        """Create the folders, private to this user, and sweep up after runs that were killed.

        Raises StoreError when that fails.
        """
        ours = (self.blobs, self.results, self.latest, self.checkpoints, self.locks)
        for folder in (self.root, *ours):
            with errors_named(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.blobs, self.results, self.latest):
            with errors_named(folder):
                _remove_abandoned(folder)

    def path(self, ref: BlobRef) -> Path:
        """The place of a stored file, whether or not it is there."""
        return self.blobs / f"{ref.sha256}{ref.suffix}"

    def holds(self, ref: BlobRef) -> bool:
        """Whether the file is there with its recorded size. Does not read it."""
        try:
            return self.path(ref).stat().st_size == ref.size_bytes
        except OSError:
            return False

    def require(self, ref: BlobRef) -> Path:
        """The place of a stored file that is there and intact. Raises PayloadError otherwise."""
        path = self.path(ref)
        found = self._damage(ref)
        if found:
            raise PayloadError(
                ref,
                "A stored file must have its recorded size and SHA-256.",
                received=found,
                where=path,
                advice="Run again with --refresh to compute it anew.",
            )
        return path

    def _damage(self, ref: BlobRef) -> str:
        path = self.path(ref)
        try:
            size_bytes = path.stat().st_size
        except OSError:
            return "no such file"
        if size_bytes != ref.size_bytes:
            return f"{size_bytes} bytes, not {ref.size_bytes}"
        if _identity(path) not in _intact:
            try:
                digest = sha256_of_file(path)
            except OSError as error:
                return f"unreadable: {error.strerror or error}"
            if digest != ref.sha256:
                return f"SHA-256 {digest}"
            _intact.add(_identity(path))
        return ""

    def discard(self, ref: BlobRef) -> None:
        """Remove a stored file, if it is there."""
        self.path(ref).unlink(missing_ok=True)

    @contextmanager
    def array_writer(
        self, dtype: np.dtype[Any] | type, shape: tuple[int, ...]
    ) -> Iterator[ArrayWriter]:
        """Write an array of known dtype and shape by chunks; it is stored on exit.

        Leaves nothing behind when the block raises.
        """
        with new_file(self.blobs) as file:
            writer = ArrayWriter(file, np.dtype(dtype), shape)
            yield writer
            self._publish(file, writer.finish())

    def put_array(self, array: np.ndarray) -> ArrayRef:
        """Store an array that is in memory."""
        with self.array_writer(array.dtype, array.shape) as writer:
            writer.append(array)
        return writer.finish()

    def open_array(self, ref: ArrayRef) -> np.ndarray:
        """The stored array, memory-mapped and read-only. Raises PayloadError."""
        array: np.ndarray = np.load(self.require(ref), mmap_mode="r", allow_pickle=False)
        return array

    def put_bytes(self, content: bytes, suffix: str) -> BlobRef:
        """Store what is in memory, for instance a picture."""
        ref = BlobRef.model_validate(
            {
                "sha256": hashlib.sha256(content).hexdigest(),
                "size_bytes": len(content),
                "suffix": suffix,
            }
        )
        with new_file(self.blobs) as file:
            file.write(content)
            self._publish(file, ref)
        return ref

    def put_file(self, source: Path, suffix: str) -> BlobRef:
        """Store a copy of a file."""
        digest, size_bytes = hashlib.sha256(), 0
        with source.open("rb") as read, new_file(self.blobs) as file:
            while chunk := read.read(COPY_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                file.write(chunk)
            ref = BlobRef.model_validate(
                {"sha256": digest.hexdigest(), "size_bytes": size_bytes, "suffix": suffix}
            )
            self._publish(file, ref)
        return ref

    def _publish(self, file: NewFile, ref: BlobRef) -> None:
        file.publish(self.path(ref))
        _intact.add(_identity(self.path(ref)))  # digested while it was written


def _identity(path: Path) -> tuple[Path, int, int, int]:
    status = path.stat()
    return path, status.st_ino, status.st_size, status.st_mtime_ns


def _remove_abandoned(folder: Path) -> None:
    """Remove partial files so old that no run can still be writing them."""
    for partial in folder.glob(f"*{PARTIAL}"):
        with suppress(FileNotFoundError):  # another run sweeps, too
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    # The header that np.save would write, so that np.load and every other reader of .npy works.
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        },
    )
    return header.getvalue()
