"""The networks, and what identifies a trained one.

The default is the reference experiment: 784 inputs, Dense 64 ReLU, Dense 10 softmax,
784·64 + 64 + 64·10 + 10 = 50,890 parameters.

This module imports TensorFlow (3 s): import it inside the stages that compute.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from tasks.backend import keras
from tasks.errors import ImageTooSmallError
from tasks.records import DatasetRef, TrainingPlan

OPTIMIZERS = {
    "rmsprop": keras.optimizers.RMSprop,
    "adam": keras.optimizers.Adam,
    "sgd": keras.optimizers.SGD,
}
CNN_MIN_SIDE = 4  # two poolings by 2 must leave at least one pixel


def build_model(plan: TrainingPlan, dataset: DatasetRef) -> keras.Model:
    """A new, compiled network with its initial weights drawn from the plan's seed.

    Input: (batch, pixel) float32 in [0, 1]. Output: (batch, class) probabilities.
    Raises ImageTooSmallError when the images are smaller than the network can pool.
    """
    keras.utils.set_random_seed(plan.seed)
    hidden = {"mlp": _mlp_layers, "cnn": _cnn_layers}[plan.model](plan, dataset)
    model = keras.Sequential(
        [
            keras.Input((dataset.height * dataset.width,), name="pixels"),
            *hidden,
            keras.layers.Dense(dataset.classes, activation="softmax", name="probabilities"),
        ],
        name=plan.model,
    )
    model.compile(
        optimizer=OPTIMIZERS[plan.optimizer](learning_rate=plan.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over configuration and weights: the model's identity, unlike its file's digest.

    Covers the architecture and, in order, each weight's dtype, shape and bytes. Neither the
    optimizer's state nor any date enters.
    """
    digest = hashlib.sha256(json.dumps(model.get_config(), sort_keys=True).encode())
    for variable in model.weights:
        values = np.ascontiguousarray(variable.numpy())
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(values.data.cast("B"))
    return digest.hexdigest()


def load_model(path: Path) -> keras.Model:
    """Read a model that `train` saved. Code inside the file is never run."""
    return keras.saving.load_model(path, compile=False, safe_mode=True)


def _mlp_layers(plan: TrainingPlan, dataset: DatasetRef) -> list[keras.layers.Layer]:
    del dataset
    return [keras.layers.Dense(plan.hidden_units, activation="relu", name="hidden")]


def _cnn_layers(plan: TrainingPlan, dataset: DatasetRef) -> list[keras.layers.Layer]:
    height, width = dataset.height, dataset.width
    if min(height, width) < CNN_MIN_SIDE:
        raise ImageTooSmallError(
            f"The cnn needs images of at least {CNN_MIN_SIDE} by {CNN_MIN_SIDE} pixels.",
            received=f"{height} by {width}",
            where=dataset.name,
            advice="Use --model mlp.",
        )
    layers = keras.layers
    return [
        layers.Reshape((height, width, 1), name="image"),
        layers.Conv2D(24, 5, padding="same", activation="relu", name="edges"),
        layers.MaxPooling2D(name="pool_edges"),
        layers.Conv2D(32, 3, padding="same", activation="relu", name="shapes"),
        layers.MaxPooling2D(name="pool_shapes"),
        layers.Flatten(name="features"),
        layers.Dense(plan.hidden_units, activation="relu", name="hidden"),
    ]
