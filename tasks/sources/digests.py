"""The SHA-256 of files that were digested before, of datasets of many.

    <cache dir>/digests/5f1c…    of each file of one place: status, digest

70,000 pictures take seconds to read and hash, and a tenth of that to look at. A file is not read
again while its size, its times, its place on the disk and its number there are those of then. What
could still have been written in the moment in which it was digested is.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tasks.cache.blobs import sha256_of_file, write_atomically
from tasks.cache.places import read_file
from tasks.errors import StoreError
from tasks.sources.stream import intact

READABLE = "A dataset's files must be readable."
MANY = 100  # files; fewer are read
MOMENT_NS = 2_000_000_000  # longer than any file system's clock takes for a step

Known = list[Any]  # [size, modified, changed, inode, device], digest


class Digested(NamedTuple):
    """A file that was digested, and its status before that."""

    path: Path
    sha256: str
    status: os.stat_result


class Digests:
    """What is known of the files of one place; `folder` holds it from run to run."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.note = folder / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
        self._place = place

    def of(self, paths: list[Path]) -> list[Digested]:
        """The digest of each file. Raises DatasetError."""
        if len(paths) < MANY:
            return [self._of(path, {}) for path in paths]
        known = self._known()
        found = [self._of(path, known) for path in paths]
        if any(known.get(self._name(each.path)) != _known_as(each) for each in found):
            self._remember(found)
        return found

    def _of(self, path: Path, known: dict[str, Known]) -> Digested:
        with intact(READABLE, path, "Check that the file exists and its permissions."):
            status = path.stat()
            before, sha256 = known.get(self._name(path), ([], ""))
            if before != _marks(status):
                sha256 = sha256_of_file(path)
        return Digested(path, sha256, status)

    def _name(self, path: Path) -> str:
        return str(path)[len(str(self._place)) :]  # Python's own way takes a second for 70,000

    def _known(self) -> dict[str, Known]:
        with suppress(OSError, ValueError, TypeError):
            digest, _, text = read_file(self.note).partition(b"\n")
            if hashlib.sha256(text).hexdigest().encode() == digest:
                return {name: [status, sha256] for name, status, sha256 in json.loads(text)}
        return {}

    def _remember(self, found: Iterable[Digested]) -> None:
        settled = time.time_ns() - MOMENT_NS
        known = [
            (self._name(each.path), *_known_as(each))
            for each in found
            if max(each.status.st_mtime_ns, each.status.st_ctime_ns) < settled
        ]
        text = json.dumps(known).encode()
        with suppress(OSError, StoreError):  # then they are read again
            self.note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            seal = hashlib.sha256(text).hexdigest().encode()
            write_atomically(self.note, seal + b"\n" + text)


def _known_as(digested: Digested) -> Known:
    return [_marks(digested.status), digested.sha256]


def _marks(status: os.stat_result) -> list[int]:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return [status.st_size, *times, status.st_ino, status.st_dev]
