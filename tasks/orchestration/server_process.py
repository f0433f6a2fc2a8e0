"""The process of the run's own Prefect server: `python -m tasks.orchestration.server_process FD`.

FD is a listening socket. "ready" is written to standard output once requests are answered.
When standard input closes, whatever has been received is recorded, and the process ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading

gc.disable()  # collections while the server's modules load cost a tenth of its start

import uvicorn  # noqa: E402 - after the line above, which is about imports
from prefect.server.api.server import create_app  # noqa: E402
from prefect.server.utilities.messaging.memory import Topic  # noqa: E402

gc.freeze()
gc.enable()

DRAIN_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.02
QUIET_POLLS = 3


def main(listener_fd: int) -> None:
    """Serve on an inherited socket until standard input closes."""
    config = uvicorn.Config(
        create_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=1
    )
    asyncio.run(_serve(uvicorn.Server(config), socket.socket(fileno=listener_fd)))


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    loop, lease_ended = asyncio.get_running_loop(), asyncio.Event()

    def watch_lease() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        loop.call_soon_threadsafe(lease_ended.set)

    threading.Thread(target=watch_lease, daemon=True).start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(POLL_SECONDS)
    if server.started:
        os.write(sys.stdout.fileno(), b"ready\n")
    lease = asyncio.create_task(lease_ended.wait())
    await asyncio.wait([lease, serving], return_when=asyncio.FIRST_COMPLETED)
    await _drain()
    server.should_exit = True
    await serving


async def _drain() -> None:
    """Wait until the services have taken every event out of their queues."""
    deadline = asyncio.get_running_loop().time() + DRAIN_TIMEOUT_SECONDS
    quiet = 0
    while quiet < QUIET_POLLS and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        quiet = 0 if _events_waiting() else quiet + 1


def _events_waiting() -> bool:
    # Prefect's in-memory broker has no public way to ask. What the services have taken out,
    # they write when they are stopped; what still waits in these queues would be lost.
    return any(
        not subscription._queue.empty() or not subscription._retry.empty()
        for topic in Topic._topics.values()
        for subscription in topic._subscriptions
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
