"""Training that goes on where an earlier run of the same call was cut off.

    with resumable(model, plan, store) as training:
        …  # from training.history on; after each epoch: training.epoch_done(metrics)

It belongs inside a stage: the key of the stage's call names the checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from prefect import get_run_logger

from tasks.cache.blobs import Store
from tasks.cache.checkpoints import Checkpoint, Checkpoints, written_beside
from tasks.orchestration.account import listener
from tasks.orchestration.signals import end_if_told
from tasks.orchestration.stage import current_call
from tasks.records import EpochMetrics, TrainingPlan

if TYPE_CHECKING:
    from tasks.learning.backend import keras


@dataclass(frozen=True)
class Training:
    """A training under way: the metrics of the epochs that are done, those before included."""

    epochs: int
    history: list[EpochMetrics]
    keep: Callable[[], None]

    def epoch_done(self, metrics: EpochMetrics) -> None:
        """Keep a checkpoint, and tell whoever listens."""
        self.history.append(metrics)
        self.keep()
        done = len(self.history)
        listener().epoch_finished(done, self.epochs, metrics)
        held_out = ""
        if metrics.validation_loss is not None:
            fraction = metrics.validation_accuracy_fraction or 0
            held_out = f"; held out: loss {metrics.validation_loss:.4f}, accuracy {fraction:.4f}"
        get_run_logger().info(
            "epoch %d/%d: loss %.4f, accuracy %.4f%s",
            *(done, self.epochs, metrics.loss, metrics.accuracy_fraction, held_out),
        )
        end_if_told()


@contextmanager
def resumable(
    model: keras.Model, plan: TrainingPlan, store: Store, beside: Sequence[keras.Variable] = ()
) -> Iterator[Training]:
    """Bring a new model to where an earlier run of this training was cut off.

    And what is to be kept `beside` its state. Without a cache key, nothing is resumed or kept;
    with `--refresh` it begins again.
    """
    from tasks.learning.training import state_of

    call = current_call()
    if call is None or call.key is None:
        yield Training(plan.epochs, [], keep=lambda: None)
        return
    checkpoints, logger = Checkpoints(store, call.key), get_run_logger()
    if store.fresh_since:
        checkpoints.clear()
    state = [*state_of(model), *beside]
    found = checkpoints.newest([tuple(variable.shape) for variable in state], logger.warning)
    history = list(found.history) if found else []
    if found:
        for variable, array in zip(state, found.arrays, strict=True):
            variable.assign(array)
        call.notes.append(f"resumed after epoch {len(history)} of {plan.epochs}")
        listener().resumed(len(history), plan.epochs)
        logger.info("goes on after epoch %d of %d", len(history), plan.epochs)
    with written_beside(checkpoints, logger.warning) as write:

        def keep() -> None:
            arrays = [np.array(variable.numpy()) for variable in state]  # copies: training goes on
            write(Checkpoint(tuple(history), arrays))

        yield Training(plan.epochs, history, keep)
