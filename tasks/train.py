"""Train: from arrays and a plan to a model in the store."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from tasks import IMPORTS
from tasks.cache.blobs import PARTIAL, Store, errors_named
from tasks.errors import ModelError
from tasks.orchestration.account import listener
from tasks.orchestration.progress import live_progress
from tasks.orchestration.resuming import resumable
from tasks.orchestration.stage import stage
from tasks.records import DatasetRef, EpochMetrics, ModelRef, TrainingPlan


@stage()
def train(ready: DatasetRef, plan: TrainingPlan, store: Store) -> ModelRef:
    """Train the plan's network on the training images.

    Reads x_train (image, pixel) float32 in [0, 1] and y_train (image, class) float32. Leaves a
    checkpoint after each epoch; a training that was cut off goes on from there, to the same bits.
    Raises ModelError as `build_model` does, and when the loss is no longer finite.
    """
    with IMPORTS:
        from tasks.learning.network import build_model, weights_digest
        from tasks.learning.training import epoch_listener, fit

    model = build_model(plan, ready)
    with resumable(model, plan, store) as training, live_progress(ready.name) as show:

        def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
            require_finite(metrics, epoch, plan)
            training.epoch_done(metrics)

        def on_part(epochs_done: float) -> None:
            listener().trained(epochs_done, plan.epochs)
            show(epochs_done / plan.epochs)

        fit(
            model,
            store.open_array(ready.x_train),
            store.open_array(ready.y_train),
            plan,
            image_shape=ready.image_shape,
            callbacks=[epoch_listener(on_epoch)],
            on_part=on_part,
            initial_epoch=len(training.history),
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
            history=tuple(training.history),
        )


def require_finite(metrics: EpochMetrics, epoch: int, plan: TrainingPlan) -> None:
    """Raise ModelError when the loss is infinite or not a number."""
    if not math.isfinite(metrics.loss):
        raise ModelError(
            "The training loss must stay finite.",
            received=f"{metrics.loss} after epoch {epoch}",
            where=f"{plan.optimizer}, learning rate {plan.learning_rate:g}",
            advice="Choose a smaller --learning-rate.",
        )
