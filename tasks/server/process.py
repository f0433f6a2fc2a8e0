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
import threading
from typing import Any

gc.disable()  # collections while the server's modules load cost a tenth of its start

import httpx  # noqa: E402 - after the line above, which is about imports
import uvicorn  # noqa: E402
from filelock import BaseFileLock, FileLock  # noqa: E402
from prefect.server.api.server import create_app  # noqa: E402
from prefect.server.utilities.messaging.memory import Topic  # noqa: E402
from prefect.settings import PREFECT_HOME  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402

gc.freeze()
gc.enable()

DRAIN_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.02
QUIET_POLLS = 3
LOCKED_ATTEMPTS = 40
LOCKED_PAUSE_SECONDS = 0.05
SERVICE_UNAVAILABLE = 503


def main(listener_fd: int) -> None:
    """Serve on an inherited socket until standard input closes."""
    app = create_app()
    app.add_middleware(RetryWhileLocked)
    config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    # Two servers that start at once must not both create the database.
    with FileLock(home / "mnist-pipeline-start.lock") as starting:
        asyncio.run(_serve(uvicorn.Server(config), socket.socket(fileno=listener_fd), starting))


async def _serve(server: uvicorn.Server, listener: socket.socket, starting: BaseFileLock) -> None:
    loop, lease_ended = asyncio.get_running_loop(), asyncio.Event()

    def watch_lease() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        loop.call_soon_threadsafe(lease_ended.set)

    threading.Thread(target=watch_lease, daemon=True).start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
        await asyncio.sleep(POLL_SECONDS)
    starting.release()
    if server.started:
        await _warm_up(server.config.app)
        os.write(sys.stdout.fileno(), b"ready\n")
    lease = asyncio.create_task(lease_ended.wait())
    await asyncio.wait([lease, serving], return_when=asyncio.FIRST_COMPLETED)
    await _drain()
    server.should_exit = True
    await serving


async def _warm_up(app: Any) -> None:
    """Take the first request, which costs 0.2 s, while the run is still importing."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        await client.get("http://own-server/api/admin/version")


class RetryWhileLocked:
    """Answers a request only once SQLite has let it through.

    A transaction that reads and then writes fails at once if another has written in
    between ("database is locked"). Prefect's server passes that on as 503, and its client
    tries again after two seconds, in the middle of a run that takes ten. Nothing of such a
    request has taken effect, so it is repeated here, after a moment.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on until the answer is not 503."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parts = [await receive()]
        while parts[-1].get("more_body"):
            parts.append(await receive())
        for _ in range(LOCKED_ATTEMPTS):
            answer = await self._ask(scope, parts, receive)
            if answer[0].get("status") != SERVICE_UNAVAILABLE:
                break
            await asyncio.sleep(LOCKED_PAUSE_SECONDS)
        for message in answer:
            await send(message)

    async def _ask(self, scope: Scope, parts: list[Message], receive: Receive) -> list[Message]:
        answer: list[Message] = []
        waiting = iter(parts)

        async def replay() -> Message:
            return next(waiting, None) or await receive()

        async def keep(message: Message) -> None:
            answer.append(message)

        try:
            await self.app(dict(scope), replay, keep)
        except Exception:
            # Starlette answers and then raises the error for the server's log.
            if not answer:
                raise
        return answer


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
    subscriptions = [s for topic in Topic._topics.values() for s in topic._subscriptions]  # noqa: SLF001
    return any(not s._queue.empty() or not s._retry.empty() for s in subscriptions)  # noqa: SLF001


if __name__ == "__main__":
    main(int(sys.argv[1]))
