"""Files to be opened, whether they lie in a folder or in a zip archive."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from tasks.sources.stream import intact
from tasks.sources.verified import Opener, open_unverified

WHOLE = "A zip archive must be whole, its files plain or deflated."
COPY_AGAIN = "Download or copy it again."
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class File(NamedTuple):
    """A file of a dataset: its name without folders, how messages call it, how it is opened."""

    name: str
    where: str
    path: Path  # its own, or that of the archive
    opened: Callable[[], AbstractContextManager[IO[bytes]]]
    size_bytes: int
    stored_bytes: int  # fewer, if the archive has compressed it


def file_at(path: Path, opener: Opener = open_unverified) -> File:
    """A file in a folder. Raises DatasetError when there is none."""
    rule = "A file must be readable and, if it is compressed, inflate without error."
    with intact(rule, path.name, COPY_AGAIN):
        size_bytes = path.stat().st_size
    return File(path.name, path.name, path, partial(opener, path), size_bytes, size_bytes)


def files_in_zip(
    path: Path,
    opener: Opener = open_unverified,
    rule: str = WHOLE,
    advice: str = COPY_AGAIN,
) -> list[File]:
    """The files of an archive, by its directory; none is opened. Raises DatasetError."""
    with intact(rule, path.name, advice), opener(path) as file, zipfile.ZipFile(file) as archive:
        return [
            File(
                name=info.filename.rpartition("/")[2],
                where=f"{info.filename} of {path.name}",
                path=path,
                opened=partial(_opened, opener, path, info),
                size_bytes=info.file_size,
                stored_bytes=info.compress_size,
            )
            for info in archive.infolist()
            if not info.is_dir()
        ]


@contextmanager
def _opened(opener: Opener, path: Path, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    if info.compress_type not in METHODS:  # a few bytes of others can ask for much memory
        raise ValueError(f"compression method {info.compress_type}")
    with opener(path) as file, zipfile.ZipFile(file) as archive, archive.open(info) as member:
        yield member
