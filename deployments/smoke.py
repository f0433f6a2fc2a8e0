"""`make smoke`: one short training through server and worker, to see that everything works.

It runs the deployment mnist/smoke, which computes every stage again, and waits for its end.
"""

from __future__ import annotations

import time
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.exceptions import ObjectNotFound

from deployments.commands import POOL
from tasks.errors import PipelineError, ServerError
from tasks.server.configured import health_problem
from tasks.server.home import Stack

DEPLOYMENT = "mnist/smoke"
PAUSE_SECONDS = 1.0


def smoke(stack: Stack) -> int:
    """Run the deployment; returns 1 unless the run completes. Raises PipelineError."""
    # What answers there without holding the lock is somebody else's, and not told our password.
    problem = health_problem(stack.api_url) if stack.serves else "no server of this stack"
    if problem:
        raise ServerError(
            "The server must answer.",
            received=problem,
            where=stack.api_url,
            advice="Start it with `make server`, then a worker with `make worker`.",
        )
    try:
        with get_client(sync_client=True) as client:
            return _run(client, stack)
    except httpx.HTTPError as error:
        raise ServerError(
            "The server must answer until the run has ended.",
            received=str(error).partition("\n")[0] or type(error).__name__,
            where=stack.api_url,
            advice="Run `make doctor`. A run that has begun goes on.",
        ) from error


def _run(client: SyncPrefectClient, stack: Stack) -> int:
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound as error:
        rule, advice = f"{DEPLOYMENT} must be registered.", "Run `make deploy`."
        raise PipelineError(rule, where=stack.api_url, advice=advice) from error
    _require_worker(client)
    run = client.create_flow_run_from_deployment(deployment.id)
    print(f"run        {run.name}")
    print(f"           {stack.pages}/runs/flow-run/{run.id}")
    state = _last_state(client, run)
    print(state.message or "Everything works.")
    return int(not state.is_completed())


def _last_state(client: SyncPrefectClient, run: FlowRun) -> State[Any]:
    """The state that a run ends in; says through which it goes."""
    said = None
    while True:
        state = client.read_flow_run(run.id).state
        assert state is not None
        if state.name != said:
            said = state.name
            print(f"state      {said}")
        if state.is_scheduled():
            _require_worker(client)
        elif state.is_final():
            return state
        time.sleep(PAUSE_SECONDS)


def _require_worker(client: SyncPrefectClient) -> None:
    workers = client.read_workers_for_work_pool(POOL)
    if all(worker.status is not WorkerStatus.ONLINE for worker in workers):
        raise PipelineError(
            "A worker must be there.",
            received="none that answers",
            where=f"the work pool {POOL}",
            advice="Start one with `make worker`.",
        )
