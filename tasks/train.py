"""Train: from arrays and a plan to a model in the store."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from prefect import get_run_logger
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE

from tasks.cache.blobs import PARTIAL, Store, errors_named
from tasks.cache.checkpoints import Checkpoint, Checkpoints, CheckpointWriter
from tasks.errors import ModelError
from tasks.orchestration.ledger import report_epoch, report_resumed, report_training
from tasks.orchestration.policy import CODE_AND_INPUTS
from tasks.orchestration.progress import live_progress
from tasks.orchestration.stage import remark, result_key, stage
from tasks.records import DatasetRef, EpochMetrics, ModelRef, TrainingPlan

if TYPE_CHECKING:
    from tasks.learning.backend import keras


@stage(cache_policy=CODE_AND_INPUTS)
def train(ready: DatasetRef, plan: TrainingPlan, store: Store) -> ModelRef:
    """Train the plan's network on the training images.

    Reads x_train (image, pixel) float32 in [0, 1] and y_train (image, class) float32. Leaves a
    checkpoint after each epoch; a training that was cut off goes on from there, to the same bits.

    Raises:
        ModelError: the network cannot take images of this size.
        ModelError: the user's function does not give a model that fits.
        ModelError: the loss is no longer finite.
    """
    from tasks.learning.network import build_model, weights_digest
    from tasks.learning.training import EpochListener, fit

    logger = get_run_logger()
    model = build_model(plan, ready)
    with checkpointing(model, plan, store) as (history, keep), live_progress(ready.name) as show:

        def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
            require_finite(metrics, epoch, plan)
            history.append(metrics)
            keep()
            report_epoch(epoch, plan.epochs, metrics)
            logger.info(
                "epoch %d/%d: loss %.4f, accuracy %.4f",
                *(epoch, plan.epochs, metrics.loss, metrics.accuracy_fraction),
            )

        def on_part(epochs_done: float) -> None:
            report_training(epochs_done, plan.epochs)
            show(epochs_done / plan.epochs)

        fit(
            model,
            store.open_array(ready.x_train),
            store.open_array(ready.y_train),
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            seed=plan.seed,
            image_shape=(ready.height, ready.width),
            shift_pixels=plan.shift_pixels,
            callbacks=[EpochListener(on_epoch, on_part)],
            initial_epoch=len(history),
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


@contextmanager
def checkpointing(
    model: keras.Model, plan: TrainingPlan, store: Store
) -> Iterator[tuple[list[EpochMetrics], Callable[[], None]]]:
    """Bring a new model to where an earlier run of this training was cut off.

    Yields the metrics of the epochs that are done, to be continued, and a function that keeps a
    checkpoint. Without a cache key, nothing is resumed or kept.
    """
    from tasks.learning.training import state_of

    key = result_key(train)
    if key is None:
        yield [], lambda: None
        return
    checkpoints, logger = Checkpoints(store, key), get_run_logger()
    if PREFECT_TASKS_REFRESH_CACHE.value():
        checkpoints.clear()
    state = state_of(model)
    checkpoint = checkpoints.newest([tuple(variable.shape) for variable in state], logger.warning)
    history = list(checkpoint.history) if checkpoint else []
    if checkpoint:
        for variable, array in zip(state, checkpoint.arrays, strict=True):
            variable.assign(array)
        report_resumed(len(history), plan.epochs)
        remark(train.name, f"resumed after epoch {len(history)} of {plan.epochs}")
        logger.info("goes on after epoch %d of %d", len(history), plan.epochs)
    with CheckpointWriter(checkpoints, logger.warning) as write:

        def keep() -> None:
            arrays = [np.array(variable.numpy()) for variable in state]  # copies: training goes on
            write(Checkpoint(tuple(history), arrays))

        yield history, keep


def require_finite(metrics: EpochMetrics, epoch: int, plan: TrainingPlan) -> None:
    """Raise ModelError when the loss is infinite or not a number."""
    if not math.isfinite(metrics.loss):
        raise ModelError(
            "The training loss must stay finite.",
            received=f"{metrics.loss} after epoch {epoch}",
            where=f"{plan.optimizer}, learning rate {plan.learning_rate:g}",
            advice="Choose a smaller --learning-rate.",
        )
