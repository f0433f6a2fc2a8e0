"""Trainings on noise, 8 by 6 pixels in 3 classes: two epochs, 48 images by 16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.learning.backend import keras
from tasks.learning.network import build_model
from tasks.learning.training import fit
from tasks.records import ArrayRef, DatasetRef, TrainingPlan
from tasks.settings import RunSettings

PLAN = RunSettings(epochs=2, batch_size=16, seed=7).plan


def dataset(height: int, width: int, classes: int) -> DatasetRef:
    array = ArrayRef(sha256="0" * 64, size_bytes=0, dtype="uint8", shape=(0,))
    return DatasetRef(
        name="made",
        height=height,
        width=width,
        class_names=tuple(map(str, range(classes))),
        x_train=array,
        y_train=array,
        x_test=array,
        y_test=array,
    )


def noise(images: int, pixels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images (image, pixel) in [0, 1] and one-hot labels (image, class)."""
    drawn = np.random.default_rng(3)
    labels = np.eye(classes, dtype=np.float32)[drawn.integers(classes, size=images)]
    return drawn.random((images, pixels), dtype=np.float32), labels


def train(
    plan: TrainingPlan,
    images: int = 48,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: object,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Train on noise, 8 by 6 pixels in 3 classes; returns the model and its history.

    Three whole batches an epoch: a last, smaller one would be compiled too.
    """
    model = build_model(plan, dataset(8, 6, 3))
    x, y = noise(images, 48, 3)
    return model, fit_noise(model, plan, x, y, callbacks, **options)


def fit_noise(
    model: keras.Model,
    plan: TrainingPlan,
    x: np.ndarray,
    y: np.ndarray,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: object,
) -> dict[str, list[float]]:
    """Options of the plan overrule it; the others are those of `fit`."""
    changes = {name: options.pop(name) for name in TrainingPlan.model_fields if name in options}
    return fit(model, x, y, plan.model_copy(update=changes), callbacks=callbacks, **options).history


def bits(model: keras.Model) -> bytes:
    """The weights, without the names that Keras numbers through."""
    return b"".join(values.tobytes() for values in model.get_weights())


class HearsOfBatches(keras.callbacks.Callback):
    """A callback that cannot be served by a compiled epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        del batch, logs
        self.batches += 1
