"""What the worker does with its runs when it is stopped, and while the server is away."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect._internal import observers
from prefect.client.schemas.objects import FlowRun
from prefect.utilities import services
from prefect.workers import base
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from deployments import outage
from deployments.worker import HandingBack, free_port

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


class EndOfTestError(Exception):
    """Ends a loop that has no end."""


async def ended(loop: Coroutine[Any, Any, None]) -> None:
    """A loop, up to the end of the test."""
    with pytest.raises(EndOfTestError):
        await asyncio.wait_for(loop, 30)


def status_error(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://server/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status))


def failing(errors: list[Exception], loop: Any, **options: Any) -> Coroutine[Any, Any, None]:
    """A loop over work that fails with one error after the other."""
    left = iter(errors)

    async def work() -> None:
        raise next(left)

    return loop(workload=work, interval=0.001, jitter_range=0.3, **options)  # type: ignore[no-any-return]


OUTAGE = [httpx.ConnectError("refused"), status_error(503)]


def test_loop_outlasts_an_outage_of_any_length_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asyncio.run(ended(failing([*OUTAGE * 50, EndOfTestError()], outage.patient_loop)))
    assert capsys.readouterr() == ("", "")


def test_cancelled_loop_has_ended_like_any_other() -> None:
    """Prefect's observers ask the task of theirs for its error, in a callback."""

    async def cancelled() -> asyncio.Task[None]:
        loop = asyncio.create_task(outage.patient_loop(partial(asyncio.sleep, 0), 60))
        await asyncio.sleep(0.01)
        loop.cancel()
        await loop
        return loop

    assert asyncio.run(cancelled()).exception() is None


def test_loop_ends_with_an_error_of_its_own() -> None:
    with pytest.raises(httpx.HTTPStatusError):
        asyncio.run(failing([status_error(404)], outage.patient_loop))


def test_prefects_own_loop_would_print_tracebacks_and_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The reason for ours: when this fails, ours can go."""
    with pytest.raises(RuntimeError, match="exceeded error threshold"):
        asyncio.run(failing(OUTAGE * 50, services.critical_service_loop, backoff=4))
    assert "Traceback" in capsys.readouterr().out


def test_ours_takes_its_place_where_workers_look_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (base, observers):
        monkeypatch.setattr(module, "critical_service_loop", services.critical_service_loop)
    outage.be_patient()
    for module in (base, observers):
        assert vars(module)["critical_service_loop"] is outage.patient_loop


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ("++++", []),
        ("+-+-+", []),  # one miss is chance
        ("+----+++", ["does not answer (refused)", "answers again"]),
        ("--++--+", ["does not answer", "answers again", "does not answer", "answers again"]),
    ],
)
def test_outage_is_one_line_when_it_begins_and_one_when_it_ends(
    answers: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, lines = iter(answers), Lines()

    def problem(_: str) -> str:
        for answer in left:
            return "refused" * (answer == "-")
        raise EndOfTestError

    monkeypatch.setattr(outage, "health_problem", problem)
    monkeypatch.setattr(outage, "WATCH_SECONDS", 0)
    logger = logging.getLogger("prefect.worker")
    logger.addHandler(lines)
    try:
        asyncio.run(ended(outage.watch_server("http://server/api")))
    finally:
        logger.removeHandler(lines)
    assert len(lines.said) == len(said)
    for line, part in zip(lines.said, said, strict=True):
        assert part in line


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def test_second_worker_on_a_machine_finds_a_free_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        taken = first.getsockname()[1]
        assert free_port("127.0.0.1", taken) != taken
    assert free_port("127.0.0.1", taken) == taken
