"""Locks: equal calls compute once, and what a run uses stays as long as the run goes on.

    <cache dir>/locks/<cache key>   while somebody looks a result up or computes it
    <cache dir>/locks/<32 hex>.run  while a run goes on; its time is the run's start

The locks are the kernel's, and end with their owner. A file whose owner was killed stays behind; it
is removed by whoever gets its lock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from tasks.cache.blobs import Store, errors_named
from tasks.cache.places import make_way, regular_files

LOCK = re.compile(r"[0-9a-f]{64}|[0-9a-f]{32}\.run")
RUN = re.compile(r"[0-9a-f]{32}\.run")
TICK_SECONDS = 0.01  # by which a file's time may be before the moment when it was written


@contextmanager
def held(path: Path, on_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock. `on_waiting` is called when somebody else holds it. Raises StoreError."""
    lock = FileLock(path, thread_local=False)
    with errors_named(path):
        make_way(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_waiting()
            lock.acquire()
    try:
        yield
    finally:
        _give_back(path, lock)


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock if nobody else does; yields whether that is so."""
    lock = FileLock(path, thread_local=False)
    try:
        make_way(path)
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        _give_back(path, lock)


@contextmanager
def run_under_way(store: Store) -> Iterator[None]:
    """Keep what is used from now on from being pruned or cleared. Raises StoreError."""
    with held(store.locks / f"{uuid4().hex}.run", on_waiting=lambda: None):
        yield


def used_since(store: Store) -> float:
    """When the first of the runs that are under way started, in seconds since 1970.

    Infinite if there is none. Removes the locks of runs that were killed.
    """
    starts = [math.inf]
    for path in regular_files(store.locks, RUN):
        with suppress(FileNotFoundError):  # it ends just now
            started = path.stat().st_mtime - TICK_SECONDS
            with held_if_free(path) as is_over:
                if not is_over:
                    starts.append(started)
    return min(starts)


def _give_back(path: Path, lock: FileLock) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)  # whoever waits for it opens a new file
    lock.release()
