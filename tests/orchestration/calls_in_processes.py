"""Stages called in a pool of processes, by a program of its own: `… CACHE_FOLDER`.

Prints the account of each run as JSON. In the tests' own process, beartype wraps the functions, and
Prefect cannot send its wrappers to other processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from own_stages import break_results_of_halve, double, halve
from prefect import flow
from prefect.runtime import flow_run
from prefect.task_runners import ProcessPoolTaskRunner

from tasks.cache.blobs import Store
from tasks.orchestration.account import Account
from tasks.orchestration.run import healing, stored_run
from tasks.settings import RunSettings


@flow(task_runner=ProcessPoolTaskRunner(max_workers=4), persist_result=False)
def halves(numbers: list[float], settings: RunSettings) -> Any:
    with stored_run(settings) as store:
        calls = [halve.submit(number, store) for number in numbers]
        found = [float(store.open_array(call.result().probabilities)[0]) for call in calls]
        states = [(call.state.name, call.state.message) for call in calls]
        return found, states, account(store)


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2), persist_result=False)
@healing
def halve_and_double(settings: RunSettings) -> Any:
    with stored_run(settings) as store:
        doubled = double.submit(halve.submit(8.0, store), store).result()
        return float(store.open_array(doubled.probabilities)[0]), account(store)


def account(store: Store) -> dict[str, tuple[str, str]]:
    stages = Account(store, flow_run.id).stages()
    return {name: (record.state, record.why) for name, record in stages.items()}


def main(cache: Path) -> None:
    def within(name: str) -> RunSettings:
        return RunSettings(cache_dir=cache / name)

    runs: dict[str, Callable[[], Any]] = {
        "four": lambda: halves([2.0, 4.0, 6.0, 8.0], within("four")),
        "four again": lambda: halves([2.0, 4.0, 6.0, 8.0], within("four")),
        "same": lambda: halves([8.0, 8.0, 8.0], within("same")),
        "before damage": lambda: halve_and_double(within("damage")),
        "after damage": lambda: halve_and_double(within("damage")),
    }
    for name, run in runs.items():
        if name == "after damage":
            break_results_of_halve(Store(root=cache / "damage"))
        sys.stdout.write(json.dumps({name: run()}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
