"""The networks, and what identifies a trained one.

The default is the reference experiment: 784 inputs, Dense 64 ReLU, Dense 10 softmax,
784·64 + 64 + 64·10 + 10 = 50,890 parameters.

This module imports TensorFlow (3 s): import it inside the stages that compute.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tasks.errors import ModelError
from tasks.learning.backend import keras, use_defaults, use_threads
from tasks.learning.own_model import call_own_model
from tasks.learning.seeding import seeded
from tasks.learning.training import input_shape
from tasks.records import DatasetRef, Network, OwnModel, TrainingPlan

WARMUP_FRACTION, START_DIVISOR = 0.3, 25  # of the one-cycle schedule
BATCH_MEMORY = 0.9  # Keras's 0.99 still holds the initial statistics after an epoch
CNN_MIN_SIDE = 4  # two poolings by 2 must leave at least one pixel
CNN_UNPADDED_SIDE = 12  # from here on also if the convolutions take 4 and 2 pixels off


def build_model(plan: TrainingPlan, dataset: DatasetRef) -> keras.Model:
    """A new, compiled network with its initial weights drawn from the plan's seed.

    Input: (batch, pixel) float32 in [0, 1], or of a user's own model any shape of as many
    values. Output: (batch, class) probabilities. Raises ModelError if the images are smaller
    than the network can pool, if the user's function gives no model that fits, or as
    `use_threads` does.
    """
    use_threads(plan.threads)
    use_defaults()
    with seeded(plan.seed):
        # Layers without a name are numbered, and the digest has names. Garbage is left: 0.3 s.
        keras.utils.clear_session(free_memory=False)
        if isinstance(plan.model, OwnModel):
            return _own_model(plan.model, plan, dataset)
        return _compile(_network(plan.model, plan, dataset), plan, dataset)


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


def load_model(
    path: Path, network: Network, threads: int, seed: int, dataset: DatasetRef
) -> keras.Model:
    """Read a model that `train` saved, for predictions. Code inside the file is never run.

    A user's own model is built again by its function, from the seed that it was trained from, and
    takes the weights only: what else it drew is drawn again. Raises ModelError.
    """
    use_threads(threads)
    use_defaults()
    if not isinstance(network, OwnModel):
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    with seeded(seed):
        keras.utils.clear_session(free_memory=False)
        model, images = _called(network, dataset)
        model(images)  # makes what weights it has
    if model.compiled:
        model.optimizer.build(model.trainable_variables)  # they are in the file, too
    model.load_weights(path)
    return model


def _network(name: str, plan: TrainingPlan, dataset: DatasetRef) -> keras.Model:
    dense = keras.layers.Dense
    if name == "mlp":
        hidden = [dense(plan.hidden_units, activation="relu", name="hidden")]
    else:
        hidden = _cnn_layers(plan, dataset)
    pixels = keras.Input((dataset.pixels,), name="pixels")
    probabilities = dense(dataset.classes, activation="softmax", name="probabilities")
    return keras.Sequential([pixels, *hidden, probabilities], name=name)


def _compile(model: keras.Model, plan: TrainingPlan, dataset: DatasetRef) -> keras.Model:
    config = {"learning_rate": _learning_rate(plan, dataset)}
    model.compile(
        optimizer=keras.optimizers.get({"class_name": plan.optimizer, "config": config}),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=plan.label_smoothing),
        metrics=["accuracy"],
    )
    return model


def _learning_rate(
    plan: TrainingPlan, dataset: DatasetRef
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if plan.schedule == "constant":
        return plan.learning_rate
    # Smith, Super-Convergence (arXiv 1708.07120), with a cosine for the way down.
    steps = plan.epochs * math.ceil(dataset.x_train.shape[0] / plan.batch_size)
    warmup_steps = round(WARMUP_FRACTION * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=plan.learning_rate / START_DIVISOR,
        warmup_target=plan.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps - warmup_steps,
    )


def _own_model(own: OwnModel, plan: TrainingPlan, dataset: DatasetRef) -> keras.Model:
    """What the user's function builds, compiled if it is not, and tried on two images."""
    model, images = _called(own, dataset)
    if not model.compiled:
        _compile(model, plan, dataset)
    labels = np.eye(len(images), dataset.classes, dtype=np.float32)
    try:
        probabilities = np.asarray(model(images))
        figures = model.test_on_batch(images, labels, return_dict=True)
        json.dumps(model.get_config())
    except Exception as error:
        rule = "The model must take one-hot labels, and be one that Keras can save."
        received = f"{type(error).__name__}: {error}"
        raise ModelError(rule, received=received, where=own.place) from error
    sums = probabilities.sum(axis=-1)
    fits = probabilities.shape == labels.shape and probabilities.min() >= 0
    if not fits or not np.allclose(sums, 1, atol=1e-3):
        rule = f"The model must give {dataset.classes} probabilities, as a softmax does."
        received = f"outputs of shape {probabilities.shape[1:]} that sum to {sums.flat[0]:.3g}"
        raise ModelError(rule, received=received, where=own.place)
    if "accuracy" not in figures:
        rule = 'A model that comes compiled must have "accuracy" among its metrics.'
        raise ModelError(rule, received=list(figures), where=own.place)
    return model


def _called(
    own: OwnModel, dataset: DatasetRef
) -> tuple[keras.Model, Float32[np.ndarray, "image ..."]]:
    """What the user's function builds, and two random images as it takes them."""
    model = call_own_model(own, height=dataset.height, width=dataset.width, classes=dataset.classes)
    if not isinstance(model, keras.Model):
        rule = "The function must return a keras.Model."
        raise ModelError(rule, received=type(model).__name__, where=own.place)
    shape = input_shape(model, (dataset.pixels,))
    if -1 in shape or math.prod(shape) != dataset.pixels:
        size = f"the size of an image, {dataset.pixels} values in any shape"
        rule = f"The model's input must have {size}."
        raise ModelError(rule, received=f"keras.Input({shape})", where=own.place)
    return model, np.random.default_rng(0).random((2, *shape), np.float32)


def _cnn_layers(plan: TrainingPlan, dataset: DatasetRef) -> list[keras.layers.Layer]:
    height, width = dataset.height, dataset.width
    if min(height, width) < CNN_MIN_SIDE:
        rule = f"The cnn needs images of at least {CNN_MIN_SIDE} by {CNN_MIN_SIDE} pixels."
        received, advice = f"{height} by {width}", "Use --model mlp."
        raise ModelError(rule, received=received, where=dataset.name, advice=advice)
    layers = keras.layers
    # Without the border a convolution takes a quarter less time, and MNIST's is empty.
    padding = "valid" if min(height, width) >= CNN_UNPADDED_SIDE else "same"
    return [
        layers.Reshape((height, width, dataset.channels), name="image"),
        layers.Conv2D(32, 5, padding=padding, use_bias=False, name="edges"),
        layers.MaxPooling2D(name="pool_edges"),  # before what follows: a quarter of its work
        *_normalised("edges"),
        layers.Conv2D(64, 3, padding=padding, use_bias=False, name="shapes"),
        layers.MaxPooling2D(name="pool_shapes"),
        *_normalised("shapes"),
        layers.Flatten(name="features"),
        layers.Dense(plan.hidden_units, use_bias=False, name="hidden"),
        *_normalised("hidden"),
    ]


def _normalised(name: str) -> list[keras.layers.Layer]:
    return [
        keras.layers.BatchNormalization(momentum=BATCH_MEMORY, name=f"normalise_{name}"),
        keras.layers.ReLU(name=f"rectify_{name}"),
    ]
