"""Train: from arrays and a plan to a model in the store."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from tasks import IMPORTS
from tasks.cache.blobs import PARTIAL, Store, errors_named
from tasks.errors import ModelError
from tasks.orchestration.account import listener
from tasks.orchestration.progress import live_progress
from tasks.orchestration.resuming import resumable
from tasks.orchestration.stage import stage
from tasks.records import DatasetRef, EpochMetrics, ModelRef, TrainingPlan
from tasks.sources.splits import draw_split


@stage()
def train(ready: DatasetRef, plan: TrainingPlan, store: Store) -> ModelRef:
    """Train the plan's network on the training images.

    Reads x_train (image, pixel) float32 in [0, 1] and y_train (image, class) float32. Leaves a
    checkpoint after each epoch; a training that was cut off goes on from there, to the same bits.
    Raises ModelError as `build_model` does, and when the loss is no longer finite.
    """
    with IMPORTS:
        from tasks.learning.network import build_model, weights_digest
        from tasks.learning.training import BestEpoch, comparable, epoch_listener, fit

    images, labels = store.open_array(ready.x_train), store.open_array(ready.y_train)
    held_out = held_out_rows(labels, ready, plan)
    rows = np.setdiff1d(np.arange(len(images), dtype=np.int32), held_out)
    model = build_model(plan, ready.of_training_images(len(rows)))
    best = BestEpoch(model, plan.patience)
    with (
        resumable(model, plan, store, best.kept) as training,
        live_progress(ready.name) as show,
    ):
        best.losses += [comparable(epoch.validation_loss) for epoch in training.history]

        def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
            require_finite(metrics, epoch, plan)
            training.epoch_done(metrics)

        def on_part(epochs_done: float) -> None:
            listener().trained(epochs_done, plan.epochs)
            show(epochs_done / plan.epochs)

        if not best.exhausted:
            fit(
                model,
                images,
                labels,
                plan,
                rows=rows,
                image_shape=ready.image_shape,
                validation_data=(images[held_out], labels[held_out]) if len(held_out) else None,
                callbacks=[best, epoch_listener(on_epoch)],
                on_part=on_part,
                initial_epoch=len(training.history),
            )
        best.go_back()
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


def held_out_rows(
    labels: Float32[np.ndarray, "image class"], ready: DatasetRef, plan: TrainingPlan
) -> Int64[np.ndarray, " row"]:
    """The numbers of the training images that are held out: the dataset's own, or some drawn.

    Raises ModelError if both are asked for, or a patience without any.
    """
    drawn = plan.validation_fraction > 0
    if drawn and ready.validation_images:
        raise ModelError(
            "Validation images are held out only where the dataset has none of its own.",
            received=f"--validation-fraction {plan.validation_fraction:g}",
            where=f"{ready.name}, which has {ready.validation_images}",
            advice="Leave --validation-fraction out.",
        )
    if plan.patience and not (drawn or ready.validation_images):
        raise ModelError(
            "--patience needs validation images.",
            received=f"{plan.patience}",
            where=ready.name,
            advice="Hold some out with --validation-fraction 0.1, say.",
        )
    if drawn:
        classes = labels.argmax(axis=1).astype(np.uint8)
        return np.flatnonzero(draw_split(classes, plan.validation_fraction, plan.seed))
    return np.arange(len(labels) - ready.validation_images, len(labels))


def require_finite(metrics: EpochMetrics, epoch: int, plan: TrainingPlan) -> None:
    """Raise ModelError when the loss is infinite or not a number."""
    if not math.isfinite(metrics.loss):
        raise ModelError(
            "The training loss must stay finite.",
            received=f"{metrics.loss} after epoch {epoch}",
            where=f"{plan.optimizer}, learning rate {plan.learning_rate:g}",
            advice="Choose a smaller --learning-rate.",
        )
