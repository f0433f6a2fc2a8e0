"""What `fit` is given: brought into one form, or refused in words.

A compiled program takes no offence: for a row that is not there it would take the nearest one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Num, Shaped
from pydantic import ValidationError

from tasks.errors import ModelError
from tasks.learning.backend import keras, tf
from tasks.records import TrainingPlan

Labels = Num[np.ndarray, "label *class"]  # one-hot, or whatever else the loss takes
Weights = Float32[np.ndarray, "weight *output"]
AnyShape = Shaped[np.ndarray, "..."]
# Images, labels and weights, as `keras.Model.evaluate` takes them.
HeldOut = tuple[Any, Any, Any]


def plan_within_bounds(plan: TrainingPlan) -> TrainingPlan:
    """The plan, checked although `model_copy` does not. Raises ModelError."""
    try:
        return TrainingPlan.model_validate(dict(plan))
    except ValidationError as error:
        first = error.errors()[0]
        rule = f"The plan's {first['loc'][0]} must be within its bounds: {first['msg']}."
        raise ModelError(rule, received=first["input"]) from error


def flat(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Callbacks in any form that Keras takes: none, one, a list of lists; and any iterable."""
    if callbacks is None:
        return []
    one = isinstance(callbacks, keras.callbacks.Callback)
    return list(keras.tree.flatten([callbacks] if one else list(callbacks)))


def image_weights(
    labels: Labels, by_image: Any, by_class: Mapping[int, float] | None
) -> Weights | None:
    """What each image counts in the loss; a class that is not named counts 1. Raises ModelError."""
    if by_class is None:
        return None if by_image is None else np.asarray(by_image, np.float32)
    rule = "Images have weights by `sample_weight` or by `class_weight`, not both."
    _require(by_image is None, rule, "both")
    one_hot = labels.ndim > 1 and labels.shape[-1] > 1
    classes = labels.argmax(axis=-1) if one_hot else np.rint(labels).ravel().astype(int)
    return np.array([by_class.get(label, 1.0) for label in classes.tolist()], np.float32)


def held_out(validation_data: Any, shape: tuple[int, ...]) -> HeldOut | None:
    """Arrays, their images brought to a shape; or anything else that can be read repeatedly.

    Raises ModelError.
    """
    if validation_data is None:
        return None
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(validation_data)
    rule = "Validation data must be there to be read again after each epoch."
    _require(not isinstance(images, Iterator), rule, type(images).__name__)
    if hasattr(images, "shape"):
        pixels, (count, *found) = math.prod(shape), images.shape
        rule = f"Validation images must be of {pixels} values, as those trained on."
        _require(math.prod(found) == pixels, rule, f"images of shape {tuple(found)}")
        _require_counts(count, labels=labels, weights=weights)
        images = np.reshape(images, (count, *shape))
    return images, labels, weights


def in_batches(tested: HeldOut | None, size: int) -> HeldOut | None:
    """Arrays as a dataset of their batches; anything else as it is.

    From arrays, Keras makes such a dataset in each epoch: that takes longer than it takes a small
    network to evaluate them.
    """
    given = [part for part in tested or () if part is not None]
    if not given or not all(isinstance(part, np.ndarray) and len(part) for part in given):
        return tested
    floats = keras.config.floatx()
    arrays = tuple(
        part.astype(floats, copy=False) if part.dtype.kind == "f" else part for part in given
    )
    whole = len(arrays[0]) // size * size
    batches = tf.data.Dataset.from_tensor_slices(
        tuple(part[:whole].reshape(-1, size, *part.shape[1:]) for part in arrays)
    )
    if whole < len(arrays[0]):
        rest = tf.data.Dataset.from_tensors(tuple(part[whole:] for part in arrays))
        batches = batches.concatenate(rest) if whole else rest
    return batches, None, None


def require_fitting(
    model: keras.Model,
    images: AnyShape,
    labels: AnyShape,
    weights: AnyShape | None,
    rows: AnyShape,
) -> None:
    """Raise ModelError unless all of these go together."""
    _require(model.compiled, "A model must be compiled before it is trained.", model.name)
    inputs = len(getattr(model, "inputs", None) or [model])
    _require(inputs == 1, "A model that is trained here has one input.", inputs)
    _require_counts(len(images), labels=labels, weights=weights)
    rule = f"Rows are numbers of images, 0 … {len(images) - 1}, at least one."
    _require(rows.dtype.kind in "iu" and rows.size > 0, rule, f"{rows.size} of dtype {rows.dtype}")
    least, most = int(rows.min()), int(rows.max())
    _require(least >= 0 and most < len(images), rule, f"{least} … {most}")


def require_meaningful(
    plan: TrainingPlan,
    initial_epoch: int,
    pixels: int,
    image_shape: tuple[int, ...] | None,
    others: Mapping[str, object],
) -> None:
    """Raise ModelError for arguments that mean nothing here, or nothing for this plan."""
    rule = "fit takes batch size, epochs and seed from the plan, and images by `rows`."
    advice = "Leave them out; what may be given stands in its signature."
    _require(not others, rule, sorted(others), advice)
    rule = f"initial_epoch says how many epochs are done, 0 … {plan.epochs}."
    _require(0 <= initial_epoch <= plan.epochs, rule, initial_epoch)
    rule = f"image_shape, which shifts need, must be of {pixels} values."
    fits = not plan.shift_pixels if image_shape is None else math.prod(image_shape) == pixels
    _require(fits, rule, image_shape)


def _require_counts(images: int, **others: Any) -> None:
    counts = {
        name: len(each) if isinstance(each, list | tuple) else each.shape[0]
        for name, each in others.items()
        if each is not None
    }
    received = ", ".join(f"{count} {name}" for name, count in {"images": images, **counts}.items())
    rule = "There must be as many labels, and weights, as images."
    _require({*counts.values()} <= {images}, rule, received)


def _require(holds: bool, rule: str, received: object, advice: str = "") -> None:
    if not holds:
        raise ModelError(rule, received=received, advice=advice)
