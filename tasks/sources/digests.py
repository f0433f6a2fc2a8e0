"""The SHA-256 of files that were digested before, of datasets of many.

    <cache dir>/digests/5f1c…    of each file of one place: digest, status, name; sealed

70,000 pictures take seconds to read and hash, and a tenth of that to look at. A file is not read
again while its size, its times, its place on the disk and its number there are those of then. What
could still have been written in the moment in which it was digested is.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tasks.cache.blobs import sha256_of_file, write_atomically
from tasks.cache.places import read_file
from tasks.errors import StoreError
from tasks.sources.files import intact

READABLE = "A dataset's files must be readable."
MANY = 100  # files; fewer are read
SHA256_LETTERS = 64
MOMENT_NS = 2_000_000_000  # longer than any file system's clock takes for a step


class Digested(NamedTuple):
    """A file that was digested, and what it was like before that."""

    path: Path
    sha256: str
    size_bytes: int
    touched_ns: int  # when it was last changed in any way
    mark: str  # size, times, number and place on the disk, name: as long as they are the same


class Digests:
    """What is known of the files of one place; `folder` holds it from run to run."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.note = folder / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
        self._name = slice(len(str(place)), None)  # of a path: what comes after the place

    def of(self, paths: list[Path]) -> list[Digested]:
        """The digest of each file. Raises DatasetError."""
        known = self._known() if len(paths) >= MANY else {}
        found = [self._of(path, known) for path in paths]
        if len(paths) >= MANY and any(each.mark not in known for each in found):
            self._remember(found)
        return found

    def _of(self, path: Path, known: Mapping[str, str]) -> Digested:
        try:
            status = path.stat()
            mark = f"{_marks(status)} {str(path)[self._name]}"
            sha256 = known.get(mark) or sha256_of_file(path)
            touched_ns = max(status.st_mtime_ns, status.st_ctime_ns)
            return Digested(path, sha256, status.st_size, touched_ns, mark)
        except OSError:
            with intact(READABLE, path, "Check that the file exists and its permissions."):
                raise

    def _known(self) -> dict[str, str]:
        """Digests by mark."""
        with suppress(OSError, ValueError):
            digest, _, text = read_file(self.note).partition(b"\n")
            if hashlib.sha256(text).hexdigest().encode() == digest:
                files = os.fsdecode(text).split("\0")
                return {file[SHA256_LETTERS:]: file[:SHA256_LETTERS] for file in files}
        return {}

    def _remember(self, found: Iterable[Digested]) -> None:
        settled = time.time_ns() - MOMENT_NS
        known = [each.sha256 + each.mark for each in found if each.touched_ns < settled]
        text = os.fsencode("\0".join(known))
        with suppress(OSError, StoreError):  # then they are read again
            self.note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            seal = hashlib.sha256(text).hexdigest().encode()
            write_atomically(self.note, seal + b"\n" + text)


def _marks(status: os.stat_result) -> str:
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_size} {times} {status.st_ino} {status.st_dev}"
