"""The content-addressed store: files named by the SHA-256 of their bytes.

    <cache dir>/blobs/9f86d081884c7d65….npy      sha256sum of the file gives its name
    <cache dir>/blobs/60303ae22b998861….keras
    <cache dir>/blobs/3e23e8160039594a….png

A file appears under its name only once it is complete: it is written to a temporary name
in the same folder and renamed. Before a file is used its digest is compared with its name,
once in each process as long as the file is not touched. What is no regular file of this user's
counts as damaged (places.py).
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, NoReturn

import numpy as np
from pydantic import Field

from tasks import PARSING
from tasks.cache import places
from tasks.errors import PayloadError, StoreError, reason_of
from tasks.records import ArrayRef, BlobRef, Record, Suffix

COPY_BYTES = 1 << 20
PARTIAL = places.PARTIAL
HEADER_VERSION = (1, 0)  # of the .npy files that are written here
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# Files whose bytes this process has digested: (path, inode, size, modification time).
_intact: set[tuple[Path, int, int, int]] = set()


@contextmanager
def errors_named(path: Path, option: str = "--cache-dir") -> Iterator[None]:
    """Turn the operating system's errors while `path` is written into the store's own.

    `option` is the setting that chooses another place.
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


def try_folder(folder: Path, option: str) -> None:
    """Make a file for a moment in a folder, or where the folder will be made. Raises StoreError."""
    with errors_named(folder, option):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        with NewFile(there, option) as file:
            file.write(b"room")


class NewFile:
    """A file under a temporary name that gets its real name when it is complete.

    `size_bytes` and `sha256` are of what was written so far. Used in a `with` block, it leaves
    nothing behind unless it was published.
    """

    def __init__(self, folder: Path, option: str = "--cache-dir") -> None:
        self._option, self._digest, self.size_bytes = option, hashlib.sha256(), 0
        with errors_named(folder, option):
            handle, name = tempfile.mkstemp(dir=folder, suffix=PARTIAL)
        self._file = os.fdopen(handle, "wb")
        self.temporary = Path(name)

    def __enter__(self) -> NewFile:  # noqa: PYI034 - beartype knows no Self in a method
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be flushed is thrown away anyway
            self._file.close()
        self.temporary.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """The digest, as 64 hexadecimal digits."""
        return self._digest.hexdigest()

    def write(self, buffer: bytes | memoryview) -> None:
        """Append bytes. Raises StoreError."""
        digesting = Thread(target=self._digest.update, args=(buffer,))
        digesting.start()  # beside the writing: neither holds the interpreter's lock
        try:
            with errors_named(self.temporary, self._option):
                self._file.write(buffer)
        finally:
            digesting.join()
        self.size_bytes += len(buffer)

    def publish(self, path: Path, *, sync: bool = False, mode: int = 0o600) -> None:
        """Give the file its name, replacing what stood there in one step. Raises StoreError.

        With `sync` it survives a loss of power, too, at the price of waiting for the disk.
        """
        with errors_named(path, self._option):
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
            self.temporary.chmod(mode)
            self.temporary.replace(path)
            if sync:
                _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(
    path: Path, content: bytes, option: str = "--cache-dir", mode: int = 0o600
) -> None:
    """Write a small file so that readers see the old content or the new, never a part."""
    with NewFile(path.parent, option) as file:
        file.write(content)
        file.publish(path, mode=mode)


class Folder:
    """A folder of a store, named as its attribute."""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, store: Store, _: type) -> Path:
        return store.root / self._name


class Store(Record):
    """Where intermediate arrays and models lie: a setting of this machine, no part of any key.

    Results that were computed before `fresh_since` are computed again.
    """

    blobs: ClassVar = Folder()  # the stored files
    results: ClassVar = Folder()  # the cached results
    latest: ClassVar = Folder()  # what each stage's latest runs were made of
    checkpoints: ClassVar = Folder()  # the trainings that are not complete, one folder each
    locks: ClassVar = Folder()  # by which two runs compute once
    accounts: ClassVar = Folder()  # of the runs that are under way

    root: Path = Field(exclude=True)
    fresh_since: datetime | None = Field(default=None, exclude=True)

    def prepare(self) -> list[str]:
        """Create the folders, private to this user.

        Returns a sentence for each folder that was open to others. Raises StoreError for one that
        belongs to somebody else, and when something cannot be created.
        """
        notes = []
        for folder in (self.root, *(self.root / name for name in MADE_HERE)):
            with errors_named(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                notes += _made_private(folder, shared=folder == self.root and self._is_shared())
        return notes

    def _is_shared(self) -> bool:
        return not {path.name for path in self.root.iterdir()} <= OURS

    def path(self, ref: BlobRef) -> Path:
        """The place of a stored file, whether or not it is there."""
        return self.blobs / f"{ref.sha256}{ref.suffix}"

    def holds(self, ref: BlobRef) -> bool:
        """Whether the file is there with its recorded size. Does not read it."""
        try:
            return places.file_status(self.path(ref)).st_size == ref.size_bytes
        except OSError:
            return False

    def open(self, ref: BlobRef) -> BufferedReader:
        """A stored file that is there and intact, to be read. Raises PayloadError otherwise."""
        try:
            file = places.open_file(self.path(ref))
        except FileNotFoundError:
            self._refuse(ref, "no such file")
        except OSError as error:
            self._refuse(ref, f"unreadable: {error.strerror}")
        if damage := _damage(file, self.path(ref), ref):
            file.close()
            self._refuse(ref, damage)
        return file

    def require(self, ref: BlobRef) -> Path:
        """The place of a stored file that is there and intact. Raises PayloadError otherwise."""
        self.open(ref).close()
        return self.path(ref)

    def read(self, ref: BlobRef) -> bytes:
        """The bytes of a stored file. Raises PayloadError."""
        with self.open(ref) as file:
            return file.read()

    @contextmanager
    def reading(self, ref: BlobRef) -> Iterator[Path]:
        """The place of a stored file, for what opens it by its name. Raises PayloadError.

        Also if the file is damaged or gone by the time that the block fails.
        """
        try:
            yield self.require(ref)
        except Exception:
            self.require(ref)
            raise

    def _refuse(self, ref: BlobRef, damage: str) -> NoReturn:
        raise PayloadError(
            ref,
            "A stored file must have its recorded size and SHA-256.",
            received=damage,
            where=self.path(ref),
            advice="Run again with --refresh to compute it again.",
        )

    def set_aside(self, ref: BlobRef) -> None:
        """Take a damaged file out of the way, so that it is computed again."""
        with suppress(OSError):  # another stage, or run, has done it
            if os.path.lexists(self.path(ref)):
                places.remove(self._aside(ref))
                self.path(ref).replace(self._aside(ref))
                os.utime(self._aside(ref), follow_symlinks=False)

    def is_altered(self, ref: BlobRef) -> bool:
        """Whether a file that is not as it should be was there, rather than nothing."""
        return os.path.lexists(self.path(ref)) or os.path.lexists(self._aside(ref))

    def _aside(self, ref: BlobRef) -> Path:
        return self.blobs / f"{ref.sha256}{places.DAMAGED}"

    def put_rows(
        self, dtype: np.dtype[Any] | type, shape: tuple[int, ...], pieces: Iterable[np.ndarray]
    ) -> ArrayRef:
        """Store an array of known dtype and shape that comes in pieces along axis 0.

        Leaves nothing behind when a piece does not fit (ValueError), or comes with an error.
        """
        dtype, rows = np.dtype(dtype), 0
        with NewFile(self.blobs) as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for piece in pieces:
                if piece.dtype != dtype or piece.shape[1:] != shape[1:]:
                    raise ValueError(
                        f"Rows must be {dtype} {shape[1:]}. "
                        f"Received: {piece.dtype} {piece.shape[1:]}."
                    )
                rows += len(piece)
                if piece.size:
                    file.write(np.ascontiguousarray(piece).data.cast("B"))
            if rows != shape[0]:
                raise ValueError(f"Expected {shape[0]} rows. Received: {rows}.")
            blob = self._publish(file, ".npy")
        return ArrayRef(**blob.model_dump(), dtype=dtype.name, shape=shape)

    def put_array(self, array: np.ndarray) -> ArrayRef:
        """Store an array that is in memory."""
        return self.put_rows(array.dtype, array.shape, [array])

    def open_array(self, ref: ArrayRef) -> np.ndarray:
        """The stored array, memory-mapped and read-only. Raises PayloadError."""
        with self.open(ref) as file:
            try:
                shape, dtype = read_header(file)
            except ValueError as error:
                self._refuse(ref, reason_of(error))
            if (shape, dtype.name) != (ref.shape, ref.dtype):
                self._refuse(ref, f"{dtype} {shape}, not {ref.dtype} {ref.shape}")
            return np.memmap(file, dtype, "r", file.tell(), shape)

    def put_bytes(self, content: bytes, suffix: Suffix) -> BlobRef:
        """Store what is in memory, for instance a picture."""
        with NewFile(self.blobs) as file:
            file.write(content)
            return self._publish(file, suffix)

    def put_file(self, source: Path, suffix: Suffix) -> BlobRef:
        """Store a copy of a file."""
        with source.open("rb") as read, NewFile(self.blobs) as file:
            shutil.copyfileobj(read, file, COPY_BYTES)
            return self._publish(file, suffix)

    def _publish(self, file: NewFile, suffix: Suffix) -> BlobRef:
        ref = BlobRef(sha256=file.sha256, size_bytes=file.size_bytes, suffix=suffix)
        path = self.path(ref)
        with errors_named(path), places.locked_folder(self.root):
            places.make_way(path)
            file.publish(path)
            with suppress(FileNotFoundError):  # somebody has removed it
                _intact.add(_identity(path, path.stat()))  # digested while it was written
            places.remove(self._aside(ref))
        return ref


# What lies in the root of a store; what `prepare` does not make, others do.
MADE_HERE = [name for name, value in vars(Store).items() if isinstance(value, Folder)]
OURS = {*MADE_HERE, "digests", "downloads", "warm"}


def read_header(file: BufferedReader) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the array that comes next in a file, as this project writes them.

    Raises ValueError for anything else, and for more values than the rest of the file has room for.
    """
    try:
        version = np.lib.format.read_magic(file)
        with PARSING:
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # of Python's parser and tokenizer, too
        raise ValueError("the header of an array is damaged") from error
    rest_bytes = os.fstat(file.fileno()).st_size - file.tell()
    if version != HEADER_VERSION or fortran_order or dtype.hasobject:
        raise ValueError(f"an array of another kind: {dtype}")
    if math.prod(shape) * dtype.itemsize > rest_bytes:
        raise ValueError(f"an array {dtype} {shape} does not fit in {rest_bytes} bytes")
    return shape, dtype


def _damage(file: BufferedReader, path: Path, ref: BlobRef) -> str:
    status = os.fstat(file.fileno())
    if status.st_size != ref.size_bytes:
        return f"{status.st_size} bytes, not {ref.size_bytes}"
    if (identity := _identity(path, status)) not in _intact:
        try:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"unreadable: {error.strerror or error}"
        if digest != ref.sha256:
            return f"SHA-256 {digest}"
        file.seek(0)
        _intact.add(identity)
    return ""


def _identity(path: Path, status: os.stat_result) -> tuple[Path, int, int, int]:
    return path, status.st_ino, status.st_size, status.st_mtime_ns


def _made_private(folder: Path, *, shared: bool) -> list[str]:
    """Close a folder to others; returns a sentence if it was open. Raises StoreError.

    One that is shared with other things is left as it is: the folders in it are closed.
    """
    status = folder.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise StoreError(
            "The folders for the cache must belong to the user who runs the pipeline.",
            received=f"user {status.st_uid}, not {os.geteuid()}",
            where=folder,
            advice="Choose another folder with --cache-dir.",
        )
    if not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return []
    if not shared:
        folder.chmod(mode & stat.S_IRWXU)
        return [f"{folder} was open to other users ({mode:04o}), and is closed to them now"]
    if mode & WRITABLE_BY_OTHERS and not mode & stat.S_ISVTX:
        raise StoreError(
            "Other users must not be able to write into the folder of the cache.",
            received=f"mode {mode:04o}",
            where=folder,
            advice="Other things lie in it: choose a folder of its own with --cache-dir.",
        )
    return []


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
