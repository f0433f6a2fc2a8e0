"""What a deployed run that ended badly leaves for whoever looks at it in the UI."""

from __future__ import annotations

from typing import Any

from prefect import Flow, State
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun
from prefect.logging.loggers import flow_run_logger

WHAT_PREFECT_ADDS = "Flow run encountered an exception: "
KEPT = "What its finished stages and epochs computed is kept."
FAILED = f"{KEPT} It is not tried again by itself, since it would fail again: fix what the \
message names, then start it again; it goes on from there."
CRASHED = f"{KEPT} A run of a deployment is started again once, by itself, as soon as a worker \
is there, and goes on from there; see its tag recovered-by."


def explain(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Say in the run's log and as its artifact `mnist-failure` what happened and what follows.

    A run from a terminal has said so there.
    """
    if flow_run.deployment_id is None:
        return
    message = (state.message or "no reason was given").removeprefix(WHAT_PREFECT_ADDS)
    advice = CRASHED if state.is_crashed() else FAILED
    flow_run_logger(flow_run, flow).error("%s: %s %s", state.name, message, advice)
    artifact = ArtifactCreate(
        key=f"{flow.name}-failure",
        type="markdown",
        description=message.splitlines()[0],
        data=f"## {state.name}\n\n{message}\n\n{advice}\n",
        flow_run_id=flow_run.id,
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)
