"""Smoke, backup and restore on real servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from operating import POSTGRES_BINARIES, Operated
from programs import free_port, run
from sqlalchemy.engine import make_url

from deployments.database import login
from tasks.server.home import AUTH, DATABASE

pytestmark = pytest.mark.stack

DEPLOYMENTS = (sys.executable, "-m", "deployments")


def deployments_on(stack: Operated) -> set[str]:
    with stack.client() as client:
        return {deployment.name for deployment in client.read_deployments()}


def test_smoke_completes_and_says_so(stack: Operated) -> None:
    said = run([*DEPLOYMENTS, "smoke"], stack.environment).stdout
    assert said.endswith("state      Completed\nEverything works.\n")
    (ran, *_) = [one for one in stack.runs_of("smoke") if str(one.id) in said]
    assert ran.parameters["settings"]["refresh"]


def test_smoke_without_a_worker_says_what_to_start(stack: Operated) -> None:
    stack.stop("worker")
    done = run([*DEPLOYMENTS, "smoke"], stack.environment, status=1)
    assert "Start one with `make worker`." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def second_database(stack: Operated) -> str:
    """Another database of the same PostgreSQL, empty."""
    name, url = f"second{free_port()}", make_url(stack.database)
    told = {**stack.environment, **login(stack.database)}
    subprocess.run(
        [POSTGRES_BINARIES[-1] / "psql", "--command", f"CREATE DATABASE {name}"],
        env=told,
        check=True,
    )
    return url.set(database=name).render_as_string(hide_password=False)


def test_postgresql_comes_back_in_another_database_under_another_home(
    stack: Operated, second_database: str, tmp_path: Path
) -> None:
    archive = str(tmp_path / "mnist.tar.gz")
    said = run([*DEPLOYMENTS, "backup", archive], stack.environment).stdout
    other = Operated(tmp_path, second_database)
    refused = {**other.environment, DATABASE: stack.database}
    assert "must be empty" in run([*DEPLOYMENTS, "restore", archive], refused, status=1).stderr
    assert not (tmp_path / "stack").exists()
    said += run([*DEPLOYMENTS, "restore", archive], other.environment).stdout
    assert stack.stack.server[AUTH] == other.stack.server[AUTH]
    assert other.stack.server[AUTH].partition(":")[2] not in said
    assert str(make_url(second_database).password) not in said
    try:
        other.start_server()
        assert deployments_on(other) == deployments_on(stack)
    finally:
        other.end()


def test_sqlite_comes_back_under_another_home_and_its_server_starts(tmp_path: Path) -> None:
    archive = str(tmp_path / "mnist.tar.gz")
    first, second = (Operated(tmp_path / name, "") for name in ("first", "second"))
    for stack in (first, second):
        stack.folder.mkdir()
        del stack.environment[DATABASE]
    try:
        first.start_server()
        first.deploy()
        deployed = deployments_on(first)
        run([*DEPLOYMENTS, "backup", archive], first.environment)  # while it runs
        refused = run([*DEPLOYMENTS, "purge", "--yes"], first.environment, status=1)
        assert "Nothing may use the database" in refused.stderr
        run([*DEPLOYMENTS, "restore", archive], second.environment)
        second.start_server()
        assert deployments_on(second) == deployed == {"daily", "smoke", "recover"}
    finally:
        first.end()
        second.end()
    run([*DEPLOYMENTS, "purge", "--yes"], second.environment)
    assert not (second.folder / "stack").exists()
