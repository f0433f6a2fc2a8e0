"""Starts a dead run again: at most once, and never a run that was itself started that way.

An automation calls the flow with the run's id. The new run has the dead one's parameters, so its
stages have the same cache keys: it takes what the dead one had finished from the cache and goes
on from its last checkpoint. The two are linked by their tags,

    recovers:0198c0de-…         on the new run
    recovered-by:0198c0df-…     on the dead one

the first of which is also an idempotency key, which Prefect accepts only once.
"""

from __future__ import annotations

from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

FLOW_NAME = "mnist-recovery"
TAG = "recovers:"
BACK_LINK = "recovered-by:"


@flow(name=FLOW_NAME, flow_run_name="recover-{flow_run_id}", persist_result=False)
def recover(flow_run_id: UUID) -> UUID | None:
    """Start a crashed run of a deployment again: the new run, or None if there is to be none."""
    logger = get_run_logger()
    with get_client(sync_client=True) as client:
        dead = client.read_flow_run(flow_run_id)
        if reason := why_not(dead):
            logger.warning("%s is not started again: %s.", dead.name, reason)
            return None
        new = start_again(dead, client)
    logger.info("%s goes on as %s (%s).", dead.name, new.name, new.id)
    return new.id


def why_not(run: FlowRun) -> str:
    """Why a run is not to be started again; empty if it is."""
    if run.state is None or not run.state.is_crashed():
        return f"it is {run.state.name if run.state else 'without a state'}, not Crashed"
    if run.deployment_id is None:
        return "whoever started it at a terminal can start it again"
    if any(tag.startswith(TAG) for tag in run.tags):
        return "it was itself started in place of one that had died, so something is wrong for good"
    return ""


def start_again(run: FlowRun, client: SyncPrefectClient) -> FlowRun:
    """The run that replaces a dead one; however often it is asked for, there is one."""
    assert run.deployment_id is not None
    link = f"{TAG}{run.id}"
    new = client.create_flow_run_from_deployment(
        run.deployment_id,
        parameters=run.parameters,
        job_variables=run.job_variables,
        work_queue_name=run.work_queue_name,
        tags=[*(tag for tag in run.tags if tag != "auto-scheduled"), link],
        idempotency_key=link,
        state=Scheduled(message=f"In place of {run.name}, which has died."),
    )
    client.update_flow_run(run.id, tags=[*run.tags, f"{BACK_LINK}{new.id}"])
    return new
