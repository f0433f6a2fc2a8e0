"""The process of the run's own Prefect server: `python -m tasks.server.process FD`.

FD is a listening socket. "ready" is written to standard output once requests are answered.
When standard input closes, whatever has been received is recorded, and the process ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys

gc.disable()  # collections while the server's modules load cost a tenth of its start

import httpx  # noqa: E402 - after the line above, which is about imports
import uvicorn  # noqa: E402
from filelock import BaseFileLock, FileLock  # noqa: E402
from prefect.server.utilities.messaging.memory import Topic  # noqa: E402
from prefect.settings import PREFECT_HOME, PREFECT_SERVER_API_AUTH_STRING  # noqa: E402

from tasks.server.app import make_app  # noqa: E402

gc.freeze()
gc.enable()

POLL_SECONDS = 0.02
DRAIN_POLLS = 250
QUIET_POLLS = 3


class LeasedServer(uvicorn.Server):
    """Says when it has started, and ends when its standard input closes."""

    starting: BaseFileLock  # held until then

    async def main_loop(self) -> None:
        """Serve from the moment that the server has started until it is to stop."""
        self.starting.release()
        # The first request costs 0.2 s: it is taken while the run is still importing.
        inside = httpx.ASGITransport(self.config.loaded_app)
        login = PREFECT_SERVER_API_AUTH_STRING.value().partition(":")[::2]
        async with httpx.AsyncClient(transport=inside, auth=login) as client:
            await client.get("http://own-server/api/admin/version")
        os.write(sys.stdout.fileno(), b"ready\n")
        lease = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lease), sys.stdin
        )
        ends = [asyncio.create_task(end) for end in (lease.read(), super().main_loop())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await _drain()


async def _drain() -> None:
    """Wait until the services have taken every event out of their queues.

    Prefect's in-memory broker has no public way to ask. What the services have taken out,
    they write when they are stopped; what still waits in these queues would be lost.
    """
    quiet_polls = 0
    for _ in range(DRAIN_POLLS):
        await asyncio.sleep(POLL_SECONDS)
        subscriptions = [s for topic in Topic._topics.values() for s in topic._subscriptions]  # noqa: SLF001
        waiting = any(not s._queue.empty() or not s._retry.empty() for s in subscriptions)  # noqa: SLF001
        quiet_polls = 0 if waiting else quiet_polls + 1
        if quiet_polls == QUIET_POLLS:
            return


def main(listener_fd: int) -> None:
    """Serve on an inherited socket until standard input closes."""
    home = PREFECT_HOME.value()
    config = uvicorn.Config(
        make_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=1
    )
    home.mkdir(parents=True, exist_ok=True)
    # Two servers that start at once must not both create the database.
    server = LeasedServer(config)
    with FileLock(home / "mnist-pipeline-start.lock") as server.starting:
        asyncio.run(server.serve(sockets=[socket.socket(fileno=listener_fd)]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
