"""What the worker does with its runs when it is stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from deployments.worker import HandingBack

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


async def start_a_process(
    _worker: ProcessWorker, _run: FlowRun, _job: ProcessJobConfiguration, told: Any
) -> ProcessWorkerResult:
    """In place of Prefect's `run`: a process in a group of its own, waited for."""
    process = await asyncio.create_subprocess_exec(*SLEEP, start_new_session=True)
    told.started(process.pid)
    return ProcessWorkerResult(status_code=await process.wait(), identifier=str(process.pid))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> HandingBack:
    monkeypatch.setattr(ProcessWorker, "run", start_a_process)
    return HandingBack(work_pool_name="mnist")


def start_run(worker: HandingBack) -> asyncio.Task[ProcessWorkerResult]:
    run = FlowRun(flow_id=uuid4())
    return asyncio.create_task(worker.run(run, ProcessJobConfiguration()))


def test_run_is_ended_with_a_signal_that_it_can_answer(worker: HandingBack) -> None:
    async def stop_in_a_run() -> ProcessWorkerResult:
        run = start_run(worker)
        while not any(worker._runs.values()):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        await worker.hand_back()
        assert run.done()
        return await run

    assert asyncio.run(stop_in_a_run()).status_code == -signal.SIGTERM


def test_run_that_starts_while_the_worker_stops_is_ended_too(worker: HandingBack) -> None:
    async def stop_before_its_process_is_there() -> ProcessWorkerResult:
        run = start_run(worker)
        await asyncio.sleep(0)
        await worker.hand_back()
        return await run

    assert asyncio.run(stop_before_its_process_is_there()).status_code == -signal.SIGTERM


def test_stopping_worker_takes_no_run(worker: HandingBack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def takes_one(_: ProcessWorker) -> list[FlowRun]:
        return [FlowRun(flow_id=uuid4())]

    monkeypatch.setattr(ProcessWorker, "get_and_submit_flow_runs", takes_one)

    async def taken() -> tuple[int, int]:
        before = len(await worker.get_and_submit_flow_runs())
        await worker.hand_back()
        return before, len(await worker.get_and_submit_flow_runs())

    assert asyncio.run(taken()) == (1, 0)
