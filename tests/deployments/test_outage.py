"""A run from the terminal and a server that is away: before it, and for good in the middle."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from operating import Operated
from programs import (
    folders_in,
    program_in_training,
    read_until,
    rest_of_stderr,
    run_program,
    started,
    write_dataset,
)

from deployments.commands import client_environment

pytestmark = pytest.mark.stack


def environment_of(stack: Operated) -> dict[str, str]:
    """Of a run that has to go to the stack's server, and gives up soon."""
    told = client_environment(stack.stack, stack.environment) | stack.stack.client
    del told["PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS"]  # a worker's
    return {k: v for k, v in told.items() if not k.startswith("MNIST_")} | {
        "PREFECT_CLIENT_MAX_RETRIES": "1"
    }


def options_in(folder: Path) -> list[str]:
    dataset = folder / "stripes.npz"
    write_dataset(dataset)
    return ["--dataset", str(dataset), "--epochs", "400", *folders_in(folder)]


def test_run_fails_clearly_after_the_time_that_was_set(stack: Operated, tmp_path: Path) -> None:
    stack.stop("server")
    done = run_program(
        [*options_in(tmp_path), "--server-wait", "1"], environment_of(stack), status=1
    )
    assert f"for 1 s (in {stack.stack.api_url})" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_waits_for_its_server_as_long_as_it_is_told_to(stack: Operated, tmp_path: Path) -> None:
    stack.stop("server")
    options = [*options_in(tmp_path), "--epochs", "1", "--server-wait", "240"]
    with started(options, environment_of(stack)) as program:
        read_until(program, "waiting for the Prefect server")
        stack.start_server()
        stderr = rest_of_stderr(program)
    assert program.returncode == 0, stderr


def test_run_that_loses_its_server_says_so_and_its_work_is_kept(
    stack: Operated, tmp_path: Path
) -> None:
    options, environment = options_in(tmp_path), environment_of(stack)
    with program_in_training(options, environment) as program:
        stack.stop("server", signal.SIGKILL)
        stderr = rest_of_stderr(program)
    assert program.returncode == 1, stderr
    (message,) = re.findall(r"^failed .*", stderr, re.MULTILINE)
    assert "The Prefect server must answer until the run has ended." in message
    assert "Traceback" not in stderr
    stack.start_server()
    again = run_program(options, environment)
    states = dict(re.findall(r"^  (\w+) +(computed|cached) ", again.stderr, re.MULTILINE))
    assert [states[stage] for stage in ("load", "validate", "preprocess")] == ["cached"] * 3
    assert states["train"] == "cached" or "goes on after epoch" in again.stderr
