"""What `make smoke` says before there is anything to run."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from programs import free_port

from deployments.smoke import smoke
from tasks.errors import ServerError
from tasks.server.home import PORT, open_stack


@pytest.fixture
def stranger() -> Iterator[tuple[int, list[str]]]:
    """A server of somebody else's: its port, and what it was asked."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def test_server_that_is_away_is_asked_for(tmp_path: Path) -> None:
    stack = open_stack(tmp_path, {PORT: str(free_port())})
    with pytest.raises(ServerError, match=r"`make server`, then a worker with `make worker`"):
        smoke(stack)


def test_somebody_elses_server_at_the_address_is_not_told_the_password(
    tmp_path: Path, stranger: tuple[int, list[str]]
) -> None:
    port, asked = stranger
    with pytest.raises(ServerError, match="no server of this stack"):
        smoke(open_stack(tmp_path, {PORT: str(port)}))
    assert asked == []
