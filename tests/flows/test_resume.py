"""Trainings of real processes that are killed or told to end, and go on in the next run."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from builders import tiny_arrays
from programs import (
    NOISE,
    PROGRAM,
    Environment,
    comes_true,
    environment_in,
    folders_in,
    own_servers,
    rest_of_stderr,
    run,
    run_program,
    started,
)

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.cache.housekeeping import damages
from tasks.records import EpochMetrics, ModelRef

pytestmark = pytest.mark.process

EPOCHS, KILLS = 200, 3  # an epoch takes some hundredths of a second
EPOCH_LINE = re.compile(r"train +epoch +\d+/\d+  loss")
GOES_ON = re.compile(rf"goes on after epoch (\d+)/{EPOCHS} of an earlier run")
KEPT = "What the finished stages and epochs computed is kept: run again to go on from there."
ENDINGS = [(signal.SIGTERM, 143, "Terminated"), (signal.SIGHUP, 129, "Hung up")]

# The program, ended by SIGKILL at the second file that gets its name below a folder ($1): with half
# of the file written, the whole file, or its name given and nothing done after that ($2).
DIES_WHILE_WRITING = """
import os, runpy, signal, sys

folder, moment, left = sys.argv[1], sys.argv[2], 2

def watch(event, details):
    global left
    if event != "os.rename" or not left or not os.fspath(details[1]).startswith(folder):
        return
    left -= 1
    if left:
        return
    temporary, path = details[:2]
    if moment == "half":
        os.truncate(temporary, os.path.getsize(temporary) // 2)
    if moment == "named":
        os.rename(temporary, path)
    os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

Trained = tuple[str, tuple[EpochMetrics, ...]]


def options_in(folder: Path) -> list[str]:
    """A run of several seconds: 4000 images in batches of 10."""
    arrays = tiny_arrays(train=4000, test=60, classes=3, size=(8, 6))
    np.savez(folder / "stripes.npz", **arrays)
    training = ["--epochs", str(EPOCHS), "--batch-size", "10"]
    return ["--dataset", str(folder / "stripes.npz"), *training, *folders_in(folder)]


def trained(folder: Path) -> Trained:
    """Weights and history of the latest training in a folder's cache."""
    entries = Entries(Store(root=folder / "cache"))
    notes = (entries.store.latest / "train").iterdir()
    latest = max(notes, key=lambda note: note.stat().st_mtime_ns)
    model = entries.read(latest.name).result
    assert isinstance(model, ModelRef)
    return model.weights_sha256, model.history


def read_epochs(program: subprocess.Popen[str], epochs: int) -> str:
    """What the program says until it has trained so many more epochs."""
    assert program.stderr is not None
    said = ""
    for line in program.stderr:
        said += line
        epochs -= bool(EPOCH_LINE.search(line))
        if not epochs:
            break
    assert program.poll() is None, said
    return said


def resumed_after(said: str) -> list[int]:
    return [int(epoch) for epoch in GOES_ON.findall(said)]


def states_of_runs(environment: Environment) -> list[str]:
    """How the runs in the database ended, the latest first."""
    database = Path(environment["PREFECT_HOME"]) / "prefect.db"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as prefect:
        rows = prefect.execute("SELECT state_name FROM flow_run ORDER BY created DESC")
        return [state for (state,) in rows]


@pytest.fixture(scope="module")
def uninterrupted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that trains in one go, its Prefect home included."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_program(options_in(folder), environment_in(folder / "prefect"))
    return folder


@pytest.fixture
def environment(uninterrupted_folder: Path, tmp_path: Path) -> Environment:
    """The environment of this test's processes, with a database that has one run in it."""
    return environment_in(shutil.copytree(uninterrupted_folder / "prefect", tmp_path / "prefect"))


def test_training_that_is_killed_again_and_again_ends_with_the_bits_of_one_go(
    environment: Environment, uninterrupted_folder: Path, tmp_path: Path
) -> None:
    """Killed after two epochs or more: once the second is told, the first is on the disk."""
    moments = random.Random(7)
    options, resumed = options_in(tmp_path), []
    for _ in range(KILLS):
        with started(options, environment) as program:
            resumed.append(resumed_after(read_epochs(program, moments.randint(2, 12))))
            time.sleep(moments.uniform(0, 0.1))
    resumed.append(resumed_after(run_program(options, environment).stderr))

    first, *later = resumed
    assert [] == first
    assert [1] * KILLS == [len(told) for told in later]
    assert later == sorted(later)
    assert trained(uninterrupted_folder) == trained(tmp_path)
    assert [] == list((tmp_path / "cache" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("written", "resumes"), [("blobs", False), ("results", False), ("checkpoints", True)]
)
def test_run_that_is_killed_while_it_writes_ends_with_the_bits_of_one_go(
    environment: Environment,
    uninterrupted_folder: Path,
    tmp_path: Path,
    written: str,
    resumes: bool,
) -> None:
    options, folder = options_in(tmp_path), str(tmp_path / "cache" / written)
    for moment in ("half", "whole", "named"):
        program = [sys.executable, "-c", DIES_WHILE_WRITING, folder, moment, PROGRAM]
        run([*program, *options], environment, status=-signal.SIGKILL)

    said = run_program(options, environment).stderr

    assert resumes == bool(resumed_after(said))
    assert trained(uninterrupted_folder) == trained(tmp_path)
    assert [] == list(damages(Entries(Store(root=tmp_path / "cache"))))
    assert [] == list((tmp_path / "cache" / "checkpoints").iterdir())


@pytest.mark.parametrize(("number", "status", "name"), ENDINGS)
def test_training_that_is_told_to_end_says_so_once_and_goes_on_later(
    environment: Environment,
    uninterrupted_folder: Path,
    tmp_path: Path,
    number: signal.Signals,
    status: int,
    name: str,
) -> None:
    options = options_in(tmp_path)
    with started(options, environment) as program:
        read_epochs(program, 5)
        program.send_signal(number)
        stderr = rest_of_stderr(program)
    assert status == program.returncode, stderr
    assert stderr.endswith(f"\nfailed {name}. {KEPT}\n")
    assert stderr.count(name) == 1
    assert [] == [noise for noise in NOISE if noise in stderr], stderr
    assert comes_true(lambda: own_servers(environment) == [])
    assert ["Crashed", "Completed"] == states_of_runs(environment)

    rerun = run_program(options, environment)

    (epoch,) = resumed_after(rerun.stderr)
    assert f"; resumed after epoch {epoch} of {EPOCHS}" in rerun.stderr
    assert trained(uninterrupted_folder) == trained(tmp_path)


# A library that is interrupted in writing or reading a model hands on an error of its own.
INTERRUPTED_WHILE_LOADING = """
import os, signal, sys
from contextlib import suppress

sys.path.insert(0, "")
from tasks.terminal.session import Session

Session()
from pydantic import BaseModel, model_serializer

class Interrupted(BaseModel):
    @model_serializer
    def write(self):
        os.kill(os.getpid(), signal.SIGTERM)

with suppress(Exception):
    Interrupted().model_dump()
print("goes on")
"""


def test_program_that_is_told_to_end_ends_whatever_it_was_loading(environment: Environment) -> None:
    ended = run([sys.executable, "-c", INTERRUPTED_WHILE_LOADING], environment, status=143)
    assert ended.stdout == ""
    assert ended.stderr == f"\nfailed Terminated. {KEPT}\n"
    assert comes_true(lambda: own_servers(environment) == [])


@pytest.mark.parametrize("seconds", [0, 2, 4])
def test_program_that_is_told_to_end_in_its_first_seconds_says_so_once(
    environment: Environment, tmp_path: Path, seconds: int
) -> None:
    """So many seconds after its server was started: while it imports, waits, loads, trains."""
    with started([*options_in(tmp_path), "--seed", "1"], environment) as program:
        assert comes_true(lambda: len(own_servers(environment)) == 1)
        time.sleep(seconds)
        program.terminate()
        stderr = rest_of_stderr(program)
    assert program.returncode == 143, stderr
    assert stderr.endswith(f"failed Terminated. {KEPT}\n")
    assert [] == [noise for noise in NOISE if noise in stderr], stderr
    assert comes_true(lambda: own_servers(environment) == [])
