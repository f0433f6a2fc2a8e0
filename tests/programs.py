"""The program and Prefect as people start them: processes with a Prefect home of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from builders import tiny_arrays
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

ROOT = Path(__file__).parents[1]
PROGRAM = "flows/mnist_flow.py"
PATIENCE_SECONDS = 30.0
SERVER_START_SECONDS = 120.0
HANG_SECONDS = 300.0
SERVER_MODULE = "tasks.server.process"
# What a person need not see on standard error.
NOISE = ["ERROR", "WARNING", "Warning", "Traceback", "locked", "absl", "oneDNN", "elemetry"]
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
    """This environment with a home of its own for all of Prefect, free of settings of others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MNIST_"))}
    homes = {"PREFECT_HOME": str(home), "PIPELINE_STACK_DIR": str(home)}
    return {**kept, **homes, "COLUMNS": "1000"}  # so that no line is wrapped


def login_here() -> Environment:
    """How another process reaches the server that this one talks to."""
    password = str(PREFECT_API_AUTH_STRING.value())
    return {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_API_AUTH_STRING": password}


def folders_in(folder: Path) -> list[str]:
    """The options that keep a run's files in one folder."""
    return ["--cache-dir", str(folder / "cache"), "--model-dir", str(folder / "models")]


def write_dataset(path: Path, *, blank: bool = False) -> Path:
    """An .npz of 60 training and 33 test images, all without ink if `blank`."""
    arrays = tiny_arrays(train=60, test=33, classes=3, size=(8, 6))
    if blank:
        arrays |= {name: np.zeros_like(arrays[name]) for name in ("x_train", "x_test")}
    np.savez(path, **arrays)
    return path


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def run(
    command: list[str], environment: Environment, *, status: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository's root, to the exit status that is expected.

    None takes any.
    """
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
    assert status in (None, done.returncode), f"{done.stdout}\n{done.stderr}"
    return done


def run_program(
    options: list[str], environment: Environment, *, status: int = 0
) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, PROGRAM, *options], environment, status=status)


def completed_run(folder: Path, options: list[str], environment: Environment) -> CompletedRun:
    done = run_program(options, environment)
    return CompletedRun(folder, options, environment, done.stdout, done.stderr)


@contextmanager
def started(options: list[str], environment: Environment) -> Iterator[subprocess.Popen[str]]:
    """The program, in a process group of its own as in a terminal; killed at the end."""
    with subprocess.Popen(
        [sys.executable, PROGRAM, *options],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def read_until(program: subprocess.Popen[str], text: str) -> None:
    """Read standard error up to the first line with this text, while the program goes on."""
    assert program.stderr is not None
    before = []
    for line in program.stderr:
        before.append(line)
        if text in line:
            break
    assert program.poll() is None, "".join(before)


@contextmanager
def program_in_training(
    options: list[str], environment: Environment
) -> Iterator[subprocess.Popen[str]]:
    """The program from its first epoch on."""
    with started(options, environment) as program:
        read_until(program, "epoch")
        yield program


def rest_of_stderr(program: subprocess.Popen[str]) -> str:
    """What the program still writes to standard error, until it ends."""
    assert program.stderr is not None
    rest = program.stderr.read()
    program.wait(HANG_SECONDS)
    return rest


def own_servers(environment: Environment) -> list[int]:
    """The servers that runs with this Prefect home brought up and that are alive."""
    alive = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone by now, or someone else's
            home = process.environ().get("PREFECT_HOME")
            if SERVER_MODULE in process.cmdline() and home == environment["PREFECT_HOME"]:
                alive.append(process.pid)
    return alive


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
    port = str(free_port())
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
