"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.orchestration.server import OwnServer, without_heartbeats
from tasks.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store of this test's own."""
    store = Store(root=tmp_path / "cache")
    store.prepare()
    return store


@pytest.fixture
def outside_a_run() -> Iterator[None]:
    """Stages can be called through `.fn()` without a flow run around them."""
    with disable_run_logger():
        yield


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect server with a database of its own for the whole session."""
    database = tmp_path_factory.mktemp("prefect") / "prefect.db"
    with pytest.MonkeyPatch.context() as environment:
        url = f"sqlite+aiosqlite:///{database}"
        environment.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", url)
        server = OwnServer()
    try:
        server.wait_until_ready()
        with without_heartbeats(), temporary_settings({PREFECT_API_URL: server.url}):
            yield
    finally:
        server.stop()
