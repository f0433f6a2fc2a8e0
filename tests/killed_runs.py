"""Runs that are killed again and again, by a program of its own: `… FOLDER SEED KILLS`.

SIGKILL leaves the disk as it is, and nothing on it changes between two steps that a run takes in
the file system. So a run is killed at one of these, drawn from as many as an undisturbed run takes:
before the step is done, and where a file would get its name, with a part of it written. It is
started again until it completes; then the next one begins, in a new folder.

Each run is a copy (fork) of this process, which has imported everything and computed nothing. For
the same reason, time, nothing is drawn, and the network is trained without XLA: what is at stake
lies in files.

Prints a line of JSON for the undisturbed run and for each that completed.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import anyio._backends._asyncio  # noqa: F401 - so that no run imports it
import fastapi  # noqa: F401 - as above
import pandera.xarray  # noqa: F401 - as above
import sklearn.metrics  # noqa: F401 - as above
from prefect import flow
from programs import write_dataset

import tasks.learning.network
import tasks.validation.checks  # noqa: F401 - as above
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.learning import training
from tasks.load import load
from tasks.orchestration.run import healing, stored_run
from tasks.preprocess import preprocess
from tasks.publish import publish
from tasks.records import Pictures, RunSummary
from tasks.reporting.rendering import ENVIRONMENT
from tasks.server.own import without_heartbeats
from tasks.settings import RunSettings
from tasks.train import train
from tasks.validate import validate

STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NEVER = -1


@flow(persist_result=False)
@healing
def without_pictures(settings: RunSettings) -> RunSummary:
    """The flow, with all stages but those that draw."""
    plan, none = settings.plan, Pictures(drawn={})
    with stored_run(settings) as store:
        raw = load(fetch(settings.dataset, settings.name, store), store, settings.reading)
        preprocessing = preprocess.submit(raw, store)
        checked = validate(raw, settings.rules("stripes"), store)
        ready = preprocessing.result()
        model = train(ready, plan, store)
        metrics = evaluate(model, plan.model, plan.threads, plan.seed, ready, store)
        return publish(settings, plan, raw, checked, model, metrics, None, none, none, store)


def settings_in(folder: Path) -> RunSettings:
    """A run of four epochs, with its files in a folder beside the dataset."""
    return RunSettings(
        dataset=str(folder.parent / "stripes.npz"),
        epochs=4,
        batch_size=60,
        cache_dir=folder / "cache",
        model_dir=folder / "models",
    )


def run(folder: Path, fatal: int, written_fraction: float) -> None:
    """Run the flow in this process, and kill it at its step of the number `fatal`."""
    steps = count()

    def watch(event: str, details: tuple[Any, ...]) -> None:
        writes = event == "open" and (details[2] or 0) & WRITING
        if not (writes or event in STEPS) or not str(details[0]).startswith(f"{folder}/"):
            return
        if next(steps) == fatal:
            if event == "os.rename" and os.path.isfile(details[0]):  # noqa: PTH113 - a hook's
                os.truncate(details[0], int(written_fraction * os.path.getsize(details[0])))  # noqa: PTH202
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with without_heartbeats():
        summary = without_pictures(settings_in(folder))
    figures = summary.model_dump(include={"weights_sha256", "accuracy", "loss"})
    (folder.parent / "figures.json").write_text(json.dumps(figures | {"steps": next(steps)}))


def survives(folder: Path, fatal: int, written_fraction: float = 1) -> bool:
    """Whether a run completes, rather than being killed."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            run(folder, fatal, written_fraction)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the copy ends here
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status not in (0, signal.SIGKILL):
        raise SystemExit(f"a run failed in {folder}")
    return status == 0


def main(root: Path, seed: int, kills: int) -> None:
    drawn = random.Random(seed)
    for template in ENVIRONMENT.list_templates(["j2"]):
        ENVIRONMENT.get_template(template)
    gc.freeze()  # or each copy would copy all of it
    training._has_convolutions = lambda _: True  # type: ignore[attr-defined]
    write_dataset(root / "stripes.npz")

    def tell(folder: Path, killed: int) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads((root / "figures.json").read_text())
        sys.stdout.write(json.dumps({"folder": folder.name, "killed": killed, **figures}) + "\n")
        return figures

    undisturbed = root / "undisturbed"
    undisturbed.mkdir()
    survives(undisturbed, NEVER)
    steps, left = tell(undisturbed, 0)["steps"], kills
    for number in count():
        folder, killed = root / str(number), 0
        folder.mkdir()
        while not survives(folder, drawn.randrange(steps), drawn.random()):
            killed += 1
        tell(folder, killed)
        left -= killed
        if left <= 0:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
