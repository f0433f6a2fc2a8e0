"""One stack of real processes for every test of the session that needs one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from operating import Operated, operated


@pytest.fixture(scope="session")
def started_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    """PostgreSQL, the server on it, everything deployed, a worker."""
    with operated(tmp_path_factory.mktemp("operated")) as stack:
        yield stack


@pytest.fixture
def stack(started_once: Operated) -> Operated:
    """That stack with a new cache; what the test before has stopped is started again."""
    started_once.caches += 1
    started_once.bring_up()
    return started_once
