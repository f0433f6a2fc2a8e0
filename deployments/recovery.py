"""Starts a dead run again: at most once, and never a run that was itself started that way.

Automations call the flow with the run's id: of a run that has crashed, and of one that seems to be
dead, which is looked at first. The new run has the dead one's parameters, so its
stages have the same cache keys: it takes what the dead one had finished from the cache and goes
on from its last checkpoint. The two are linked by their tags,

    recovers:0198c0de-…         on the new run
    recovered-by:0198c0df-…     on the dead one

the first of which is also an idempotency key, which Prefect accepts only once.
"""

from __future__ import annotations

import time
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.states import Crashed, Scheduled

FLOW_NAME = "mnist-recovery"
TAG = "recovers:"
BACK_LINK = "recovered-by:"
LOOK_AGAIN_SECONDS = 2.0


@flow(name=FLOW_NAME, flow_run_name="recover-{flow_run_id}", persist_result=False)
def recover(flow_run_id: UUID, look_seconds: float = 0, why: str = "") -> UUID | None:
    """Start a crashed run of a deployment again: the new run, or None if there is to be none.

    With `look_seconds`, the run seems to be dead, and is looked at for that long. If it gives no
    sign of life, it becomes Crashed, for the reason `why`; the automation for crashed runs does
    the rest.
    """
    logger = get_run_logger()
    with get_client(sync_client=True) as client:
        if look_seconds:
            if silent(client, flow_run_id, look_seconds):
                client.set_flow_run_state(flow_run_id, Crashed(message=why))
                logger.warning("%s", why)
            else:
                logger.info(
                    "It is alive, waits for something, or has ended: nothing is to be done."
                )
            return None
        dead = client.read_flow_run(flow_run_id)
        close_tasks(client, dead)
        if reason := why_not(dead):
            logger.warning("%s is not started again: %s.", dead.name, reason)
            return None
        new = start_again(dead, client)
    logger.info("%s goes on as %s (%s).", dead.name, new.name, new.id)
    return new.id


def silent(client: SyncPrefectClient, run: UUID, seconds: float) -> bool:
    """Whether a run that should be at work gives no sign of life for some time from now on."""
    first, end = last_sign(client, run), time.monotonic() + seconds
    while first is not None and time.monotonic() < end:
        time.sleep(LOOK_AGAIN_SECONDS)
        if last_sign(client, run) != first:
            return False
    return first is not None


def last_sign(client: SyncPrefectClient, run: UUID) -> tuple[UUID, ...] | None:
    """The ids of a run's state and of its last heartbeat; None if it is not to be at work."""
    state = client.read_flow_run(run).state
    if state is None or state.type not in (StateType.PENDING, StateType.RUNNING):
        return None
    heartbeats = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"]),
    )
    return (state.id, *(event.id for event in client.read_events(heartbeats, limit=1).events))


def close_tasks(client: SyncPrefectClient, dead: FlowRun) -> None:
    """Let the tasks of a crashed run end as it did: nobody else would."""
    if dead.state is None or not dead.state.is_crashed():
        return
    of_the_run = FlowRunFilter.model_validate({"id": {"any_": [dead.id]}})
    for task in client.read_task_runs(flow_run_filter=of_the_run):
        if task.state is None or not task.state.is_final():
            crashed: State[None] = Crashed(message="Its run has died.")
            client.set_task_run_state(task.id, crashed, force=True)


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
