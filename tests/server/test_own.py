"""The server that a run brings up for itself."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tasks.errors import ServerError
from tasks.server.own import OwnServer


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> OwnServer:
    """As if a server had been started, in an environment that may be changed."""
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.delenv("no_proxy", raising=False)
    server = object.__new__(OwnServer)
    server.url = "http://127.0.0.1:1/api"
    return server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Prefect home for the server, and so a database of its own."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("before", "after"), [("", "127.0.0.1"), ("a,b", "a,b,127.0.0.1")])
def test_prefect_finds_it_past_any_proxy(
    unstarted: OwnServer, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    monkeypatch.setenv("NO_PROXY", before)
    unstarted.name_in_environment()
    names = ("PREFECT_API_URL", "NO_PROXY", "no_proxy")
    assert [unstarted.url, after, "127.0.0.1"] == [os.environ[name] for name in names]


@pytest.mark.process
def test_it_answers_until_it_is_stopped(home: Path) -> None:
    del home
    server = OwnServer()
    server.wait_until_ready()
    assert httpx.get(f"{server.url}/health").json() is True
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


@pytest.mark.process
def test_one_that_cannot_start_says_why(home: Path) -> None:
    (home / "prefect.db").mkdir()
    server = OwnServer()
    with pytest.raises(ServerError, match=r"must start\. Received: .*unable to open database file"):
        server.wait_until_ready()
    server.stop()
