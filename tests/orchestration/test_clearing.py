"""`mnist-cache clear` and `prune`, again and again, while runs go on: none of them fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import numpy as np
import pytest
from builders import STAGES, Run, run_flow
from own_stages import double, halve
from prefect import flow

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.cache.housekeeping import clear, damages, prune
from tasks.orchestration.run import healing, stored_run
from tasks.settings import RunSettings

pytestmark = pytest.mark.usefixtures("prefect_server")

RUNS = 4


@contextmanager
def tight_loop(store: Store) -> Iterator[list[int]]:
    """Clear and prune without a pause; yields a list with an item for each turn."""
    ended, turns = Event(), list[int]()

    def remove() -> None:
        while not ended.is_set():
            turns.append(clear(store).results + prune(Entries(store), max_bytes=0).results)

    thread = Thread(target=remove)
    thread.start()
    try:
        yield turns
    finally:
        ended.set()
        thread.join()


def test_whole_run_is_neither_failed_nor_changed(after_a_run: RunSettings, first_run: Run) -> None:
    store = Store(root=after_a_run.cache_root)
    with tight_loop(store) as turns:
        run = run_flow(after_a_run)

    assert turns
    assert set(STAGES) == set(run.heard)
    assert {record.state for record in run.heard.values()} <= {"computed", "cached"}
    assert first_run.summary.weights_sha256 == run.summary.weights_sha256
    assert list(damages(Entries(store))) == []


def test_results_that_a_run_uses_stay_until_its_end(settings: RunSettings) -> None:
    called = []

    @flow(persist_result=False)
    @healing
    def own_flow(number: float) -> None:
        called.append(number)
        with stored_run(settings) as store:
            halved = halve(number, store)
            again = halve(number, store)
            doubled = double(again, store)
            for stored, value in ((halved, number / 2), (doubled, number)):
                expected = np.array([value], np.float32)
                np.testing.assert_array_equal(expected, store.open_array(stored.probabilities))

    store = Store(root=settings.cache_root)
    store.prepare()
    with tight_loop(store) as turns:
        for run in range(RUNS):
            own_flow(float(run % 2))

    assert len(turns) > RUNS
    assert len(called) == RUNS  # nothing had to be healed
