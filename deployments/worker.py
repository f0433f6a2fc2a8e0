"""`python -m deployments.worker`: a process worker that hands its runs back when it is stopped.

Prefect's own kills the runs it has started when it gets a SIGTERM, without a word to the server:
they stay Running until their silence is noticed. This one takes no new run, ends those that it
has (they report themselves Crashed, and keep their checkpoints), waits for them, and stops. An
automation then starts each again, on whichever worker is there.

Several can work on one machine: each says on a port of its own whether it still asks for work.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from prefect.client.schemas.objects import FlowRun
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_WORKER_WEBSERVER_HOST,
    PREFECT_WORKER_WEBSERVER_PORT,
    temporary_settings,
)
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from deployments.commands import POOL
from deployments.outage import be_patient, watch_server
from tasks.terminal.streams import on_any_streams

PORTS_TRIED = 100
GRACE_SECONDS = 45.0  # less than the 60 that the compose file and a pod give


class HandingBack(ProcessWorker):
    """Prefect's process worker, which knows the processes of its runs."""

    @classmethod
    def __dispatch_key__(cls) -> str:
        """Not to take Prefect's place in its list of workers by type."""
        return "process-handing-back"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._stopping = False
        # What looks after a run, and the run's process once there is one.
        self._runs: dict[asyncio.Task[Any], int | None] = {}

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Take what is to be run now; nothing once the worker stops."""
        return [] if self._stopping else await super().get_and_submit_flow_runs()

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Run a flow in a process of its own, which leads a group of its own."""
        task = asyncio.current_task()
        assert task is not None

        def started(process: int) -> None:
            self._runs[task] = process
            if self._stopping:
                _terminate(process)
            (task_status or TASK_STATUS_IGNORED).started(process)

        self._runs[task] = None
        try:
            return await super().run(flow_run, configuration, SimpleNamespace(started=started))
        finally:
            del self._runs[task]

    async def hand_back(self) -> None:
        """End all runs and wait for what they, and those who look after them, still report."""
        self._stopping = True
        for process in filter(None, self._runs.values()):
            _terminate(process)
        if self._runs:
            await asyncio.wait(self._runs, timeout=GRACE_SECONDS)


def _terminate(process: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGTERM)


def free_port(host: str, first: int) -> int:
    """The first port from some one on that nothing listens on, or any other."""
    for port in (*range(first, min(first + PORTS_TRIED, 65536)), 0):
        with suppress(OSError), socket.create_server((host, port)) as found:
            return int(found.getsockname()[1])
    return first


async def work() -> None:
    """Work until a signal comes."""
    worker = HandingBack(work_pool_name=POOL, name=f"{socket.gethostname()}-{os.getpid()}")
    working = asyncio.create_task(worker.start(with_healthcheck=True))
    watching = asyncio.create_task(watch_server(PREFECT_API_URL.value() or ""))
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    if stopped.is_set():
        print("The worker takes no more runs and hands back those that it has.", flush=True)
        await worker.hand_back()
    watching.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


@on_any_streams
def main() -> None:
    """Work, with a port that says so."""
    be_patient()
    host, wanted = PREFECT_WORKER_WEBSERVER_HOST.value(), PREFECT_WORKER_WEBSERVER_PORT.value()
    port = free_port(host, wanted)
    taken = f" ({wanted} is taken)" if port != wanted else ""
    print(f"health    http://{host}:{port}/health{taken}", flush=True)
    with temporary_settings({PREFECT_WORKER_WEBSERVER_PORT: port}):
        asyncio.run(work())


if __name__ == "__main__":
    main()
