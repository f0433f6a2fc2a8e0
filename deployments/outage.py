"""What a worker and its runs do while the server is away: they wait, and the worker says so once.

    02:14:07.113 | WARNING | prefect.worker - The server does not answer (ConnectError: …). …
    02:16:40.871 | WARNING | prefect.worker - The server answers again.

Prefect's loops print the tracebacks of three failures at a time, and end after some minutes: the
worker, or, without it, the cancelling of its runs. Events are not lost: Prefect keeps them, says at
each try that it failed, and sends them later.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import Any

import httpx
from prefect.logging import get_logger
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.utilities.math import clamped_poisson_interval

from tasks.server.configured import health_problem

WATCH_SECONDS = 5.0
MISSES = 2  # one can be chance
HAVE_LOOPS = ("prefect._internal.observers", "prefect.workers.base")
SAY_THAT_A_WEBSOCKET_IS_CLOSED = {  # unless they have worse to say
    "prefect.FlowRunCancellingObserver": logging.ERROR,
    "prefect.FlowRunSuspendingObserver": logging.ERROR,
    "prefect.events.clients": logging.ERROR,
    "websockets.client": logging.CRITICAL,  # a traceback, if a ping finds it
}


class LastingConsole(PrefectConsoleHandler):
    """Prefect's handler, for a run that outlives its worker, and its server for a while.

    The run's output is a pipe to the worker. When the worker has died, rich ends the process
    that writes to it: a training would die of a line in its log. Here it only falls silent.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if anybody can read it. This is the first of our code in a run."""
        be_patient()
        with suppress(SystemExit):  # rich's answer to a broken pipe; it writes no more after that
            super().emit(record)


@cache
def be_patient() -> None:
    """Let the loops of this process, a worker or a run, outlast an outage of any length."""
    for name in HAVE_LOOPS:
        if name in sys.modules:
            vars(sys.modules[name])["critical_service_loop"] = patient_loop
    for name, level in SAY_THAT_A_WEBSOCKET_IS_CLOSED.items():
        logging.getLogger(name).setLevel(level)


async def patient_loop(
    workload: Callable[[], Awaitable[object]],
    interval: float,
    jitter_range: float = 0.3,
    **_: Any,
) -> None:
    """Do something every few seconds; in place of a loop of Prefect's, with its parameters."""
    # Prefect asks how the task has ended, and has no answer to a cancelled one but a traceback.
    with suppress(asyncio.CancelledError):
        while True:
            try:
                await workload()
            except httpx.TransportError:
                pass  # `watch_server` says it
            except httpx.HTTPStatusError as error:
                if not error.response.is_server_error:
                    raise
            await asyncio.sleep(clamped_poisson_interval(interval, jitter_range))


async def watch_server(url: str) -> None:
    """Say when the server goes and when it is back, a line each."""
    logger, misses = get_logger("worker"), 0
    while True:
        problem = await asyncio.to_thread(health_problem, url)
        if misses >= MISSES and not problem:
            logger.warning("The server answers again.")
        misses = misses + 1 if problem else 0
        if misses == MISSES:
            logger.warning("The server does not answer (%s). Worker and runs wait for it.", problem)
        await asyncio.sleep(WATCH_SECONDS)
