"""Locks: one holder at a time, in every process, and none that outlives its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.cache.blobs import Store
from tasks.cache.sharing import held

KEY = 64 * "a"
# Holds a lock until its standard input closes, or until it is killed.
HOLDER = """
import sys
from pathlib import Path
from tasks.cache.blobs import Store
from tasks.cache.sharing import held
with held(Store(root=Path(sys.argv[1])).locks / sys.argv[2], lambda: None):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_process(store: Store) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root), KEY],
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


def test_free_lock_is_taken_without_a_word_and_leaves_no_file(store: Store) -> None:
    with held(store.locks / KEY, on_waiting=pytest.fail):
        assert [KEY] == [path.name for path in store.locks.iterdir()]

    assert list(store.locks.iterdir()) == []


def test_locks_of_other_keys_are_free(store: Store) -> None:
    with (
        held(store.locks / KEY, on_waiting=pytest.fail),
        held(store.locks / (64 * "b"), pytest.fail),
    ):
        pass


def test_lock_is_given_back_when_the_block_fails(store: Store) -> None:
    with pytest.raises(ValueError, match="as it should"), held(store.locks / KEY, pytest.fail):
        raise ValueError("as it should")
    with held(store.locks / KEY, on_waiting=pytest.fail):
        pass


def test_other_thread_waits_its_turn(store: Store) -> None:
    order: list[str] = []

    def second() -> None:
        with held(store.locks / KEY, on_waiting=lambda: order.append("waits")):
            order.append("second")

    with ThreadPoolExecutor() as pool:
        with held(store.locks / KEY, on_waiting=pytest.fail):
            waiting = pool.submit(second)
            while not order:
                assert not waiting.done()
            order.append("first")
        waiting.result()

    assert order == ["waits", "first", "second"]


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda process: process.kill(), id="killed"),
        pytest.param(lambda process: process.stdin.close(), id="done"),
    ],
)
def test_whoever_waits_for_another_process_goes_on_when_it_ends(
    store: Store,
    other_process: subprocess.Popen[str],
    end: Callable[[subprocess.Popen[str]], None],
) -> None:
    waits: list[str] = []

    def on_waiting() -> None:
        waits.append("once")
        end(other_process)

    with held(store.locks / KEY, on_waiting):
        assert waits == ["once"]
