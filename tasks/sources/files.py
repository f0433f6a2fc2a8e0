"""Files to be opened, whether they lie in a folder or in a zip archive, plain or gzip."""

from __future__ import annotations

import gzip
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from tasks.errors import DatasetError, reason_of
from tasks.sources.verified import Opener, open_unverified

READABLE = "A file must be readable and, if it is compressed, inflate without error."
AGAIN = "Download or copy the file again."
WHOLE = "A zip archive must be whole, its files plain or deflated."
COPY_AGAIN = "Download or copy it again."
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
GZIP_MAGIC = b"\x1f\x8b"
# What gzip, zlib and zipfile raise for files that are damaged, encrypted or gone, and NumPy's
# parser of headers for those that it cannot read, or that are nested too deeply.
UNREADABLE = (
    *(OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError),
    *(LookupError, OverflowError, TypeError, SyntaxError, tokenize.TokenError, MemoryError),
)


@contextmanager
def intact(rule: str, where: str | Path, advice: str) -> Iterator[None]:
    """Raise DatasetError with this rule for a file that cannot be read inside the block."""
    try:
        yield
    except UNREADABLE as error:
        received = reason_of(error)
        raise DatasetError(rule, received=received, where=where, advice=advice) from None


def some(names: Sequence[str], most: int) -> str:
    """For a message: the first of these names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@dataclass(frozen=True)
class File:
    """A file of a dataset: its name without folders, how messages call it, how it is opened."""

    name: str
    where: str
    path: Path  # its own, or that of the archive
    stored: Callable[[], AbstractContextManager[BufferedIOBase]]
    size_bytes: int | None  # None: not known
    stored_bytes: int  # fewer, if it is compressed
    rule: str = READABLE
    advice: str = AGAIN
    gzipped: bool = False

    @contextmanager
    def opened(self) -> Iterator[BufferedIOBase]:
        """Open it for a block, in which it raises DatasetError if it cannot be read."""
        with intact(self.rule, self.where, self.advice), self.stored() as stored:
            yield gzip.GzipFile(fileobj=stored) if self.gzipped else stored

    def inflated(self) -> File:
        """What gzip holds, which is known by its first bytes, not by its name; or this file."""
        with self.opened() as opened:
            if opened.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
                return self
        return replace(self, gzipped=True, size_bytes=None)


def file_at(path: Path, opener: Opener = open_unverified) -> File:
    """A file in a folder. Raises DatasetError when there is none."""
    with intact(READABLE, path.name, COPY_AGAIN):
        size_bytes = path.stat().st_size
    return File(path.name, path.name, path, partial(opener, path), size_bytes, size_bytes)


def files_in_zip(
    path: Path, opener: Opener = open_unverified, rule: str = WHOLE, advice: str = COPY_AGAIN
) -> list[File]:
    """The files of an archive, by its directory; none is opened. Raises DatasetError."""
    with intact(rule, path.name, advice), opener(path) as file, zipfile.ZipFile(file) as archive:
        return [
            File(
                name=info.filename.rpartition("/")[2],
                where=f"{info.filename} of {path.name}",
                path=path,
                stored=partial(_member, opener, path, info),
                size_bytes=info.file_size,
                stored_bytes=info.compress_size,
            )
            for info in archive.infolist()
            if not info.is_dir()
        ]


@contextmanager
def _member(opener: Opener, path: Path, info: zipfile.ZipInfo) -> Iterator[Any]:
    if info.compress_type not in METHODS:  # a few bytes of others can ask for much memory
        raise ValueError(f"compression method {info.compress_type}")
    with opener(path) as file, zipfile.ZipFile(file) as archive, archive.open(info) as member:
        yield member
