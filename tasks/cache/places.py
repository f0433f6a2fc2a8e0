"""What stands at a place of the cache, whoever put it there.

Only a regular file of this user's own is read, without waiting and without following a link.
Anything else in its place counts as damage, and makes way when something is written there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from uuid import uuid4

PARTIAL = ".partial"
DAMAGED = f".damaged{PARTIAL}"  # was set aside, and says so to the run that computes it again
MOST_BYTES = 1 << 28  # of a file that is read as a whole
LAST_SECONDS = 253_370_764_800  # 9999-01-01: the last day that is one in every time zone
PATIENCE_SECONDS = 30  # for what others do in a moment, unless they were stopped
PAUSE_SECONDS = 0.002


def open_file(path: Path) -> BufferedReader:
    """Open a regular file of this user's to read. Raises OSError for anything else."""
    return open(str(path), "rb", opener=_opened)


def read_file(path: Path) -> bytes:
    """All that such a file holds. Raises OSError, also when that is more than a run writes."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read()


def file_status(path: Path) -> os.stat_result:
    """The status of such a file, which is not opened. Raises OSError for anything else."""
    return _own_file(path.lstat(), str(path))


def make_way(path: Path) -> None:
    """Take away what is no regular file; a folder is moved aside, and swept up later."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            path.rename(path.with_name(f"{uuid4().hex}{PARTIAL}"))
        elif not stat.S_ISREG(mode):
            path.unlink()


def make_folder(path: Path) -> None:
    """Make a folder for this user alone in the place of whatever else is there."""
    if not is_folder(path):
        remove(path)
        path.mkdir(mode=0o700, exist_ok=True)


def is_folder(path: Path) -> bool:
    """Whether a folder is there, rather than a link to one."""
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> bool:
    """Remove a file, a link or a folder with all that is in it; whether it was there."""
    try:
        if is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:  # another process has removed it
        return False
    return True


def regular_files(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """The files of a folder that are named as ours are; nothing else is ever touched."""
    try:
        with os.scandir(folder) as found:
            names = [
                entry.name
                for entry in found
                if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            ]
    except OSError:  # it may be gone, or no folder
        return []
    return [folder / name for name in sorted(names)]


def moment(seconds: float) -> datetime:
    """A time of modification, in seconds since 1970, as a day that every time zone has."""
    return datetime.fromtimestamp(min(max(seconds, 0), LAST_SECONDS), UTC)


@contextmanager
def locked_folder(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold a folder's own lock, with others or `alone`, for as long as a few files take.

    Without it what follows is still right, but may be done in vain: that is so on a file system
    that has no such lock, in a folder that is not there, and while somebody else was stopped.
    """
    with ExitStack() as held:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            held.callback(os.close, handle)
            _lock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def _lock(handle: int, kind: int) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _opened(path: str, flags: int) -> int:
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        _own_file(os.fstat(handle), path)
    except OSError:
        os.close(handle)
        raise
    return handle


def _own_file(status: os.stat_result, path: str) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no regular file", path)
    if status.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "a file of another user", path)
    return status
