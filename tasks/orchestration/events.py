"""What a deployed run tells Prefect besides its states, for automations to act on."""

from __future__ import annotations

from prefect.context import FlowRunContext
from prefect.events import emit_event

VALIDATION_FAILED = "mnist.validation.failed"
ACCURACY_DROPPED = "mnist.accuracy.dropped"

# Below the best of the latest runs by more than this: a fraction, as accuracies are. Training
# again with another seed moves it by a tenth of that.
DROP = 0.01


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


def _tell(event: str, dataset: str, payload: dict[str, object]) -> None:
    if _deployed():  # otherwise, who started the run sees it at the terminal
        resource = {"prefect.resource.id": f"mnist.dataset.{dataset}"}
        emit_event(event=event, resource=resource, payload=payload)


def _deployed() -> bool:
    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
