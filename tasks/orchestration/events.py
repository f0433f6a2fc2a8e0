"""What a deployed run tells Prefect besides its states.

Events, for automations to act on; and what a run that ended badly leaves for whoever looks at
it in the UI. Whoever started a run at a terminal sees all of this there.
"""

from __future__ import annotations

from typing import Any

from prefect import Flow, State
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.logging.loggers import flow_run_logger

from tasks.reporting.rendering import as_markdown

LOAD_FAILED = "mnist.load.failed"
VALIDATION_FAILED = "mnist.validation.failed"
ACCURACY_DROPPED = "mnist.accuracy.dropped"

# Below the best of the latest runs by more than this: a fraction, as accuracies are. Training
# again with another seed moves it by a tenth of that.
DROP = 0.01

WHAT_PREFECT_ADDS = "Flow run encountered an exception: "
KEPT = "What its finished stages and epochs computed is kept."
FAILED = f"{KEPT} It is not tried again by itself, since it would fail again: fix what the \
message names, then start it again; it goes on from there."
CRASHED = f"{KEPT} A run of a deployment is started again once, by itself, as soon as a worker \
is there, and goes on from there; see its tag recovered-by."


def tell_failed_load(dataset: str, message: str) -> None:
    """Say that there is no such dataset, or that it cannot be read."""
    _tell(LOAD_FAILED, dataset, {"dataset": dataset, "message": message})


def tell_failed_validation(dataset: str, message: str) -> None:
    """Say that a dataset breaks its contract."""
    _tell(VALIDATION_FAILED, dataset, {"dataset": dataset, "message": message})


def tell_dropped_accuracy(
    dataset: str, model: str, accuracy: float, earlier: tuple[float, ...]
) -> None:
    """Say that a model is clearly worse than its best of the latest runs, if it is."""
    best = max(earlier, default=0.0)
    if accuracy < best - DROP:
        figures = {"accuracy": round(accuracy, 4), "best": round(best, 4)}
        _tell(ACCURACY_DROPPED, dataset, {"dataset": dataset, "model": model, **figures})


def explain(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Say in the run's log and as its artifact `mnist-failure` what happened and what follows."""
    if flow_run.deployment_id is None:
        return
    message = (state.message or "no reason was given").removeprefix(WHAT_PREFECT_ADDS)
    advice = CRASHED if state.is_crashed() else FAILED
    flow_run_logger(flow_run, flow).error("%s: %s %s", state.name, message, advice)
    said = "\n\n".join(as_markdown(line.strip()) for line in message.splitlines())
    artifact = ArtifactCreate(
        key=f"{flow.name}-failure",
        type="markdown",
        description=as_markdown(message.splitlines()[0]),
        data=f"## {state.name}\n\n{said}\n\n{advice}\n",
        flow_run_id=flow_run.id,
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)


def _tell(event: str, dataset: str, payload: dict[str, object]) -> None:
    if _deployed():
        resource = {"prefect.resource.id": f"mnist.dataset.{dataset}"}
        emit_event(event=event, resource=resource, payload=payload)


def _deployed() -> bool:
    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
