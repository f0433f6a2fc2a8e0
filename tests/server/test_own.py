"""The server that a run brings up for itself."""

from __future__ import annotations

import os
import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tasks.errors import ServerError
from tasks.server.home import open_stack
from tasks.server.own import OwnServer


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> OwnServer:
    """As if a server had been started, in an environment that may be changed."""
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.delenv("no_proxy", raising=False)
    server = object.__new__(OwnServer)
    server.url, server.login = "http://127.0.0.1:1/api", "run:secret"
    server.pages = "http://127.0.0.1:4200"
    return server


@pytest.mark.parametrize(("before", "after"), [("", "127.0.0.1"), ("a,b", "a,b,127.0.0.1")])
def test_prefect_finds_it_past_any_proxy(
    unstarted: OwnServer, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    monkeypatch.setenv("NO_PROXY", before)
    unstarted.name_in_environment()
    names = ("PREFECT_API_URL", "NO_PROXY", "no_proxy")
    assert [unstarted.url, after, "127.0.0.1"] == [os.environ[name] for name in names]


@pytest.mark.process
def test_it_answers_until_it_is_stopped(tmp_path: Path) -> None:
    server = OwnServer(open_stack(tmp_path, {}))
    server.wait_until_ready()
    assert httpx.get(f"{server.url}/health").json() is True
    version = f"{server.url}/admin/version"
    assert httpx.get(version).status_code == 401  # of another user on this machine, say
    assert httpx.get(version, auth=tuple(server.login.split(":"))).is_success
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def refusal(folder: Path) -> str:
    """Why a server cannot start in a folder."""
    server = OwnServer(open_stack(folder, {}))
    with pytest.raises(ServerError, match=r"must start\. Received: ") as refused:
        server.wait_until_ready()
    server.stop()
    return str(refused.value)


@pytest.mark.process
def test_database_that_cannot_be_opened_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").mkdir()
    said = refusal(tmp_path)
    assert "unable to open database file" in said
    assert "owner and permissions" in said


@pytest.mark.process
def test_database_of_a_newer_prefect_is_called_that(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    assert "of a newer Prefect" in refusal(tmp_path)


@pytest.mark.process
def test_disk_without_room_is_called_that(tmp_path: Path) -> None:
    open_stack(tmp_path, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert "Make room on the disk" in refusal(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
