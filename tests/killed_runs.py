"""Runs that are killed again and again, by a program of its own: `… FOLDER SEED KILLS`.

SIGKILL leaves the disk as it is at that moment. Between two steps of a run in the file system
nothing on it changes, so a run is killed at a step that is drawn from all that an undisturbed run
takes: before it is done, or, where a file gets its name, with a part of the file written. It is
started again and again, until it completes; then the next one begins.

Each run is a copy (fork) of this process, which has imported everything and started nothing: a
process of its own would spend seconds on imports, and is not started so soon after a kill.
Prints a line of JSON for each run that completed: how many kills it took, and what came of it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg
import pandas  # noqa: F401 - as the rest of these: imported once, here
import pandera.xarray
import sklearn.metrics

import tasks.learning.network
import tasks.learning.training
import tasks.validation.checks
from flows.mnist_flow import mnist_flow
from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.records import ModelRef
from tasks.reporting import pictures
from tasks.server.own import without_heartbeats
from tasks.settings import RunSettings

STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.chmod", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def run(settings: RunSettings, fatal: int, left_fraction: float) -> None:
    """Run the flow, up to its step number `fatal`, in this process."""
    folder, steps = str(settings.cache_root.parent), count()

    def watch(event: str, details: tuple[Any, ...]) -> None:
        is_step = event in STEPS or (event == "open" and (details[2] or 0) & WRITING)
        if is_step and str(details[0]).startswith(folder) and next(steps) == fatal:
            if event == "os.rename" and Path(details[0]).is_file():
                os.truncate(details[0], int(left_fraction * os.path.getsize(details[0])))
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with without_heartbeats():
        summary = mnist_flow(settings)
    outcome = summary.model_dump(include={"weights_sha256", "accuracy", "loss"}) | {
        "steps": next(steps)
    }
    (settings.cache_root.parent / "outcome.json").write_text(json.dumps(outcome))


def survived(settings: RunSettings, fatal: int, left_fraction: float) -> bool:
    """Whether a run in a process of its own completed; otherwise it was killed."""
    if (child := os.fork()) == 0:
        try:
            run(settings, fatal, left_fraction)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL), "it was killed or completed"
    return status == 0
