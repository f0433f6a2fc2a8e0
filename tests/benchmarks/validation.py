"""Measures validation by itself: every tier over 70,000 images, sound ones and the worst there are.

Prints one JSON object: seconds of one core for both, and the larger peak of memory above the
arrays, in megabytes. Imports are not counted.
"""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from tasks.cache.blobs import Store
from tasks.records import DatasetRef
from tasks.reporting.pictures import offender_sheet
from tasks.settings import RunSettings
from tasks.sources.catalogue import EMBEDDED_MNIST
from tasks.validation.checks import examine

ROUNDS = 3


def worst(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As many images, each constant, a duplicate, contradicting and in both splits."""
    broken = {}
    for name, array in arrays.items():
        broken[name] = array
        if name.startswith("x"):
            values = np.where(np.arange(len(array)) % 2, 255, 0).astype(np.uint8)
            broken[name] = np.broadcast_to(values[:, None, None], array.shape)
    return broken


def measured(arrays: dict[str, np.ndarray], store: Store) -> tuple[float, float]:
    """Seconds, the best of some rounds, and the peak in megabytes."""
    raw = DatasetRef(
        name="mnist",
        height=28,
        width=28,
        class_names=tuple("0123456789"),
        **{name: store.put_array(array) for name, array in arrays.items()},
    )
    mapped = {name: store.open_array(getattr(raw, name)) for name in arrays}
    rules = RunSettings().rules("mnist")

    def examined() -> None:
        offender_sheet(examine(raw, mapped, rules).checks, mapped, raw.class_names)

    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()  # of all threads
        examined()
        seconds.append(time.process_time() - started)
    tracemalloc.start()
    examined()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak_bytes / 1e6


def main() -> None:
    """Measure both."""
    with np.load(EMBEDDED_MNIST) as archive, tempfile.TemporaryDirectory() as folder:
        arrays = dict(archive)
        store = Store(root=Path(folder))
        store.prepare()
        clean, bad = measured(arrays, store), measured(worst(arrays), store)
    print(json.dumps({"clean": clean[0], "worst": bad[0], "megabytes": max(clean[1], bad[1])}))


if __name__ == "__main__":
    main()
