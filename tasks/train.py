"""Train: from arrays and a plan to a model in the store."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from prefect import get_run_logger

from tasks.errors import TrainingDivergedError
from tasks.ledger import report_epoch
from tasks.orchestration.policy import CODE_AND_INPUTS
from tasks.orchestration.stage import stage
from tasks.records import DatasetRef, EpochMetrics, ModelRef, TrainingPlan
from tasks.store import PARTIAL, Store, errors_named


@stage(cache_policy=CODE_AND_INPUTS)
def train(ready: DatasetRef, plan: TrainingPlan, store: Store) -> ModelRef:
    """Train the plan's network on the training images.

    Reads x_train (image, pixel) float32 in [0, 1] and y_train (image, class) float32.

    Raises:
        ImageTooSmallError: the network cannot take images of this size.
        TrainingDivergedError: the loss is no longer finite.
    """
    from tasks.network import build_model, weights_digest
    from tasks.training import EpochListener, fit

    logger = get_run_logger()
    history: list[EpochMetrics] = []

    def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
        require_finite(metrics, epoch, plan)
        history.append(metrics)
        report_epoch(epoch, plan.epochs, metrics)
        logger.info(
            "epoch %d/%d: loss %.4f, accuracy %.4f",
            *(epoch, plan.epochs, metrics.loss, metrics.accuracy_fraction),
        )

    model = build_model(plan, ready)
    fit(
        model,
        store.open_array(ready.x_train),
        store.open_array(ready.y_train),
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        seed=plan.seed,
        callbacks=[EpochListener(on_epoch)],
    )
    with (
        errors_named(store.blobs),
        tempfile.TemporaryDirectory(dir=store.blobs, suffix=PARTIAL) as folder,
    ):
        path = Path(folder) / "model.keras"
        model.save(path)
        return ModelRef(
            keras_file=store.put_file(path, ".keras"),
            weights_sha256=weights_digest(model),
            parameters=model.count_params(),
            history=tuple(history),
        )


def require_finite(metrics: EpochMetrics, epoch: int, plan: TrainingPlan) -> None:
    """Raise TrainingDivergedError when the loss is infinite or not a number."""
    if not math.isfinite(metrics.loss):
        raise TrainingDivergedError(
            "The training loss must stay finite.",
            received=f"{metrics.loss} after epoch {epoch}",
            where=f"{plan.optimizer}, learning rate {plan.learning_rate:g}",
            advice="Choose a smaller --learning-rate.",
        )
