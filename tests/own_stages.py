"""Stages for tests that call them in other processes, which have to find them by name."""

from __future__ import annotations

import numpy as np
from builders import flip_bit, store_metrics

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.orchestration.stage import stage
from tasks.records import Metrics, OwnModel


@stage()
def halve(number: float, store: Store) -> Metrics:
    with (store.root / "computed").open("a") as log:
        log.write(f"{number:g}\n")
    return store_metrics(np.array([number / 2], np.float32), store)


@stage()
def double(given: Metrics, store: Store) -> Metrics:
    return store_metrics(2 * store.open_array(given.probabilities), store)


@stage()
def identify(model: OwnModel, store: Store) -> Metrics:
    return store_metrics(np.frombuffer(bytes.fromhex(model.sha256), np.uint8), store)


@stage(cached=False)
def fail(store: Store) -> Metrics:
    del store
    raise ValueError("as it should")


def break_results_of_halve(store: Store) -> None:
    """Flip a bit in the file that `halve` stored, and forget what was made of it."""
    entries = Entries(store)
    for entry in [entries.read(key) for key in entries]:
        if entry.ingredients.stage == "halve":
            flip_bit(store.path(entry.result.stored_files()["probabilities"]))
        else:
            entries.path(entry.ingredients.key).unlink()
