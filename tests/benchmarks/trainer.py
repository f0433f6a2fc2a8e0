"""Measures the trainer by itself, in a process of its own; `bench.py` starts it.

    trainer.py times ROUNDS        seconds of building and training each recipe, of plain `fit`,
                                   and of bare matrix products
    trainer.py progress            what the requests of the live progress take, of the training
    trainer.py memory TIMES        trains one epoch on MNIST, that many times over

Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import SEEDS, Row, stored_mnist, train
from prefect import flow, task

from tasks.cache.blobs import Store
from tasks.orchestration import progress as live
from tasks.records import DatasetRef
from tasks.server.configured import wait_for_configured_server
from tasks.settings import RunSettings

PROGRESS_ROUNDS = 3
PLAIN_FIT, MLP, FAST, *LONGER = (replace(row, seeds=1) for row in SEEDS)


def bare_products(ready: DatasetRef, store: Store) -> float:
    """Seconds of the matrix products of the reference experiment, in NumPy, and nothing else."""
    plan = RunSettings().plan
    images = store.open_array(ready.x_train)
    random = np.random.default_rng(0)
    hidden, output = (random.random(s, np.float32) for s in ((784, 64), (64, 10)))
    started = time.perf_counter()
    for _ in range(plan.epochs):
        for start in range(0, len(images), plan.batch_size):
            batch = images[start : start + plan.batch_size]
            activations = batch @ hidden
            probabilities = activations @ output
            activations.T @ probabilities  # the gradient of the output's weights,
            back = probabilities @ output.T  # of the hidden activations,
            batch.T @ back  # and of the hidden weights
    return time.perf_counter() - started


def trained_seconds(row: Row, ready: DatasetRef, store: Store) -> float:
    """Seconds of building and training, compiling included."""
    started = time.perf_counter()
    train(row, 0, ready, store)
    return time.perf_counter() - started


def times(rounds: int, ready: DatasetRef, store: Store) -> dict[str, float]:
    """Median seconds of each, taken in turn; of the longer ones, once."""
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for row in (PLAIN_FIT, MLP, FAST):
            seconds.setdefault(row.name, []).append(trained_seconds(row, ready, store))
        seconds.setdefault("products", []).append(bare_products(ready, store))
    seconds |= {row.name: [trained_seconds(row, ready, store)] for row in LONGER}
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def progress(ready: DatasetRef, store: Store) -> dict[str, float]:
    """What the requests beside a training in a Prefect task take of its time: the median.

    Waiting for the server's answer counts, though it does not hold up the training.
    """
    requests: list[float] = []

    def timed(request: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            answer = request(*arguments)
            requests.append(time.perf_counter() - started)
            return answer

        return call

    live.create_progress_artifact = timed(live.create_progress_artifact)
    live.update_progress_artifact = timed(live.update_progress_artifact)

    @task
    def watched() -> float:
        with live.live_progress("bench") as show:
            show(0.5)
            return trained_seconds(MLP, ready, store)

    @flow
    def training() -> float:
        requests.clear()
        seconds = watched()
        return sum(requests) / seconds

    wait_for_configured_server(on_waiting=lambda _: None, timeout_seconds=60.0)
    return {"requests_share": statistics.median(training() for _ in range(PROGRESS_ROUNDS))}


def memory(times_over: int, ready: DatasetRef, store: Store) -> dict[str, float]:
    """One epoch on that many copies of the training images."""
    repeated = {}
    for name in ("x_train", "y_train"):
        array = store.open_array(getattr(ready, name))
        shape = (times_over * len(array), *array.shape[1:])
        repeated[name] = store.put_rows(array.dtype, shape, [array] * times_over)
    row = Row("mlp", {"model": "mlp", "epochs": 1}, 1)
    return {"seconds": trained_seconds(row, ready.model_copy(update=repeated), store)}


def main() -> None:
    """Measure what the first argument names."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        store = Store(root=Path(folder))
        store.prepare()
        ready = stored_mnist(store, held_out=False)
        match sys.argv[1:]:
            case ["times", rounds]:
                measured = times(int(rounds), ready, store)
            case ["progress"]:
                measured = progress(ready, store)
            case ["memory", times_over]:
                measured = memory(int(times_over), ready, store)
            case unknown:
                sys.exit(f"Unknown: {unknown}. {__doc__}")
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
