"""Locks: one holder at a time, in every process, and none that outlives its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import Heard

from tasks.orchestration.ledger import listening
from tasks.orchestration.locks import WAITING, KernelLocks

pytestmark = pytest.mark.usefixtures("outside_a_run")

KEY = 64 * "a"
NOW, PATIENCE_SECONDS = 0.0, 60.0
# Holds a lock until its standard input closes, or until it is killed.
HOLDER = """
import sys
from pathlib import Path
from prefect.logging import disable_run_logger
from tasks.orchestration.locks import KernelLocks
locks = KernelLocks(Path(sys.argv[1]))
with disable_run_logger():
    assert locks.acquire_lock(sys.argv[2], "the other process")
print("held", flush=True)
sys.stdin.read()
locks.release_lock(sys.argv[2], "the other process")
"""


@pytest.fixture
def locks(tmp_path: Path) -> KernelLocks:
    return KernelLocks(tmp_path)


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), KEY],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_free_lock_is_acquired(locks: KernelLocks) -> None:
    assert locks.acquire_lock(KEY, "me")
    assert locks.is_lock_holder(KEY, "me")


def test_holder_has_it_again_at_once(locks: KernelLocks) -> None:
    locks.acquire_lock(KEY, "me")

    assert locks.acquire_lock(KEY, "me", acquire_timeout=NOW)


def test_other_holder_in_the_same_process_is_refused(locks: KernelLocks) -> None:
    locks.acquire_lock(KEY, "me")

    assert not locks.acquire_lock(KEY, "another", acquire_timeout=NOW)
    assert not locks.is_lock_holder(KEY, "another")


def test_other_manager_of_the_same_folder_is_refused(locks: KernelLocks, tmp_path: Path) -> None:
    locks.acquire_lock(KEY, "me")

    assert not KernelLocks(tmp_path).acquire_lock(KEY, "me", acquire_timeout=NOW)


def test_locks_of_other_keys_are_free(locks: KernelLocks) -> None:
    locks.acquire_lock(KEY, "me")

    assert locks.acquire_lock(64 * "b", "another", acquire_timeout=NOW)


def test_key_is_the_same_as_a_path(locks: KernelLocks) -> None:
    """Prefect asks with keys, and with the paths that it makes of them."""
    locks.acquire_lock(f"/cache/results/{KEY}", "me")

    assert not locks.acquire_lock(KEY, "another", acquire_timeout=NOW)


def test_released_lock_is_free_and_leaves_no_file(locks: KernelLocks, tmp_path: Path) -> None:
    locks.acquire_lock(KEY, "me")
    locks.release_lock(KEY, "me")

    assert not locks.is_lock_holder(KEY, "me")
    assert list(tmp_path.iterdir()) == []
    assert locks.acquire_lock(KEY, "another", acquire_timeout=NOW)


def test_only_its_holder_releases_a_lock(locks: KernelLocks) -> None:
    locks.acquire_lock(KEY, "me")
    locks.release_lock(KEY, "another")

    assert locks.is_lock_holder(KEY, "me")
    assert not locks.acquire_lock(KEY, "another", acquire_timeout=NOW)


def test_held_lock_is_locked_and_a_free_one_is_not(locks: KernelLocks) -> None:
    locks.acquire_lock(KEY, "me")

    assert (locks.is_locked(KEY), locks.is_locked(64 * "b")) == (True, False)


def test_waiting_for_a_free_lock_ends_at_once_and_takes_nothing(locks: KernelLocks) -> None:
    assert locks.wait_for_lock(KEY, timeout=NOW)
    assert locks.acquire_lock(KEY, "me", acquire_timeout=NOW)


def test_waiting_for_a_held_lock_ends_when_its_time_is_up(locks: KernelLocks) -> None:
    locks.acquire_lock(KEY, "me")

    assert not locks.wait_for_lock(KEY, timeout=NOW)


def test_asynchronous_calls_do_the_same(locks: KernelLocks) -> None:
    async def use() -> list[bool]:
        return [
            await locks.await_for_lock(KEY, timeout=NOW),
            await locks.aacquire_lock(KEY, "me"),
            await locks.aacquire_lock(KEY, "me", acquire_timeout=NOW),
            await locks.aacquire_lock(KEY, "another", acquire_timeout=NOW),
            await locks.await_for_lock(KEY, timeout=NOW),
        ]

    assert asyncio.run(use()) == [True, True, True, False, False]
    assert locks.is_lock_holder(KEY, "me")


def test_lock_that_is_free_is_acquired_without_a_word(locks: KernelLocks) -> None:
    with listening(heard := Heard()):
        locks.acquire_lock(KEY, "me")

    assert heard.waits == []


def test_waiting_is_told_once(locks: KernelLocks) -> None:
    locks.acquire_lock(KEY, "me")
    with listening(heard := Heard()):
        locks.acquire_lock(KEY, "another", acquire_timeout=0.1)

    assert heard.waits == [WAITING]


@pytest.mark.usefixtures("other_process")
def test_lock_of_another_process_is_refused(locks: KernelLocks) -> None:
    assert not locks.acquire_lock(KEY, "me", acquire_timeout=NOW)
    assert not locks.wait_for_lock(KEY, timeout=NOW)
    assert locks.is_locked(KEY)


def test_whoever_waits_goes_on_when_the_other_process_is_killed(
    locks: KernelLocks, other_process: subprocess.Popen[str]
) -> None:
    class KillsTheHolder(Heard):
        def waiting(self, text: str) -> None:
            super().waiting(text)
            other_process.kill()

    with listening(heard := KillsTheHolder()):
        assert locks.acquire_lock(KEY, "me", acquire_timeout=PATIENCE_SECONDS)
    assert heard.waits == [WAITING]


def test_whoever_waits_goes_on_when_the_other_process_releases(
    locks: KernelLocks, other_process: subprocess.Popen[str], tmp_path: Path
) -> None:
    class SendsTheHolderHome(Heard):
        def waiting(self, _: str) -> None:
            assert other_process.stdin is not None
            other_process.stdin.close()

    with listening(SendsTheHolderHome()):
        assert locks.acquire_lock(KEY, "me", acquire_timeout=PATIENCE_SECONDS)
    assert not KernelLocks(tmp_path).acquire_lock(KEY, "a third", acquire_timeout=NOW)
