"""What `make smoke` says before there is anything to run."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import free_port

from deployments.smoke import smoke
from tasks.errors import ServerError
from tasks.server.home import PORT, open_stack


def test_server_that_is_away_is_asked_for(tmp_path: Path) -> None:
    stack = open_stack(tmp_path, {PORT: str(free_port())})
    with pytest.raises(ServerError, match=r"`make server`, then a worker with `make worker`"):
        smoke(stack)
