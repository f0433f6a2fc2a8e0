"""The program and Prefect as people start them: processes with a Prefect home of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from builders import tiny_arrays
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

ROOT = Path(__file__).parents[1]
PROGRAM = "flows/mnist_flow.py"
PATIENCE_SECONDS = 30.0
SERVER_START_SECONDS = 120.0
HANG_SECONDS = 300.0
NO_TELEMETRY = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "0"}

Environment = dict[str, str]


@dataclass(frozen=True)
class CompletedRun:
    """A run that several tests look at: where, how, and what it said."""

    folder: Path
    options: list[str]
    environment: Environment
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """The object that --json printed: nothing else may stand there."""
        return dict(json.loads(self.stdout))


def environment_in(home: Path) -> Environment:
    """This environment with a Prefect home of its own, free of Prefect's settings and ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MNIST_"))}
    return {**kept, "PREFECT_HOME": str(home), "COLUMNS": "1000"}  # so that no line is wrapped


def folders_in(folder: Path) -> list[str]:
    """The options that keep a run's files in one folder."""
    return ["--cache-dir", str(folder / "cache"), "--model-dir", str(folder / "models")]


def write_dataset(path: Path, *, scaled: bool = False) -> Path:
    """An .npz of 60 training and 33 test images, with pixels 0 … 255, or 0 and 1 if scaled."""
    arrays = tiny_arrays(train=60, test=33, classes=3, size=(8, 6))
    if scaled:
        arrays |= {name: arrays[name] // 255 for name in ("x_train", "x_test")}
    np.savez(path, **arrays)
    return path


def run(
    command: list[str], environment: Environment, *, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository's root, to the exit status that is expected."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert status == done.returncode, f"{done.stdout}\n{done.stderr}"
    return done


def run_program(
    options: list[str], environment: Environment, *, status: int = 0
) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, PROGRAM, *options], environment, status=status)


def completed_run(folder: Path, options: list[str], environment: Environment) -> CompletedRun:
    done = run_program(options, environment)
    return CompletedRun(folder, options, environment, done.stdout, done.stderr)


def run_prefect(*arguments: str, environment: Environment) -> str:
    """What Prefect's own command says on standard output."""
    return run([prefect_command(), *arguments], environment).stdout


def prefect_command() -> str:
    return str(Path(sys.executable).with_name("prefect"))


def comes_true(holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether something holds at some moment in the next seconds."""
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return held


@contextmanager
def client_of(url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def prepare_home(home: Path) -> None:
    """Give a Prefect home a database at its newest revision, empty."""
    environment = {**environment_in(home), **NO_TELEMETRY}
    run_prefect("server", "database", "upgrade", "-y", environment=environment)


@contextmanager
def prefect_server_in(home: Path) -> Iterator[str]:
    """A Prefect server as an operator starts it; yields the URL of its API."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}/api"
    # The UI asks the API at this address: without it, the one at port 4200.
    settings = {"PREFECT_API_URL": url, "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "0"}
    environment = {**environment_in(home), **NO_TELEMETRY, **settings}
    command = [prefect_command(), "server", "start", "--port", port]
    with (
        (home / "server.log").open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            with client_of(url) as client:
                answers = comes_true(
                    lambda: client.api_healthcheck() is None, seconds=SERVER_START_SECONDS
                )
            assert answers, (home / "server.log").read_text()
            yield url
        finally:
            server.terminate()
