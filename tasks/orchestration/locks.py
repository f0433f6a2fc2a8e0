"""Locks that make two runs compute a result once, and that die with their owner.

    <cache dir>/locks/<cache key>

The kernel releases such a lock when its process ends, however it ends; a run that waits
goes on within a twentieth of a second.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from filelock import FileLock, Timeout
from prefect import get_run_logger
from prefect.locking.protocol import LockManager

from tasks.cache.blobs import errors_named
from tasks.orchestration.ledger import report_waiting

WAITING = "waiting for another run, which computes the same result"


class KernelLocks(LockManager):
    """Prefect's lock manager over `flock`.

    Args:
        folder: on one machine; where the file system has no `flock`, `filelock` falls back
            to lock files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, tuple[str, FileLock]] = {}

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Wait for the lock, and say so; `hold_timeout` has no use here."""
        del hold_timeout
        if self.is_lock_holder(key, holder):
            return True
        lock = self._lock(key)
        if not _acquired(lock, 0.0):
            get_run_logger().info(WAITING)
            report_waiting(WAITING)
            if not _acquired(lock, acquire_timeout):
                return False
        self._held[key] = (holder, lock)
        return True

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """As `acquire_lock`, in a thread."""
        return await asyncio.to_thread(
            self.acquire_lock, key, holder, acquire_timeout, hold_timeout
        )

    def release_lock(self, key: str, holder: str) -> None:
        """Give the lock back and remove its file."""
        if self.is_lock_holder(key, holder):
            _, lock = self._held.pop(key)
            _remove(lock)

    def is_locked(self, key: str) -> bool:
        """Whether anybody, in this process or another, holds the lock."""
        return key in self._held or not self.wait_for_lock(key, timeout=0.0)

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether this holder has the lock."""
        return key in self._held and self._held[key][0] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until the lock is free; False if it is not in time."""
        lock = self._lock(key)
        if not _acquired(lock, timeout):
            return False
        _remove(lock)
        return True

    async def await_for_lock(
        self,
        key: str,
        timeout: float | None = None,  # noqa: ASYNC109 - Prefect's name
    ) -> bool:
        """As `wait_for_lock`, in a thread."""
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)

    def _lock(self, key: str) -> FileLock:
        return FileLock(self._folder / Path(key).name, thread_local=False)


def _acquired(lock: FileLock, timeout_seconds: float | None) -> bool:
    with errors_named(Path(lock.lock_file)):
        try:
            lock.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds)
        except Timeout:
            return False
    return True


def _remove(lock: FileLock) -> None:
    """Release a lock that is held; whoever waits for it opens a new file."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
