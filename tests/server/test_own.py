"""The server that a run brings up for itself."""

from __future__ import annotations

import os
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


@pytest.mark.process
def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").mkdir()
    server = OwnServer(open_stack(tmp_path, {}))
    with pytest.raises(ServerError, match=r"must start\. Received: .*unable to open database file"):
        server.wait_until_ready()
    server.stop()
