"""The contracts of the four arrays: axes, sizes, dtype, and a rule on the values of each.

Each rule is a reduction to one truth value: pandera walks an array's failing elements in
Python, 30 s for MNIST. Only rules that can fail stand here: 0 … 255 on a uint8 would not. The
schemas are nullable: their rules refuse NaN, and pandera would look for it in a copy of the array.

This module imports pandera: import it inside the stages that compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from pandera.xarray import DataArraySchema

from tasks.records import ARRAY_NAMES, DatasetRef
from tasks.validation.rules import Arrays, Contracts, Rule

Axes = dict[str, int]  # sizes of the axes after the first

_schema = partial(DataArraySchema, nullable=True)


def stored_arrays(dataset: DatasetRef) -> Contracts:
    """Arrays as their records say; `load` compared the bytes of the files with their checksums."""

    def intact(name: str) -> Rule:
        ref = getattr(dataset, name)
        return Rule(
            "integrity",
            "checksum and header agree with the bytes",
            lambda array: (array.dtype.name, array.shape) == (ref.dtype, ref.shape),
            lambda array: f"{array.dtype} {array.shape}",
        )

    return {name: _schema(checks=[intact(name)]) for name in ARRAY_NAMES}


def raw_arrays(dataset: DatasetRef, arrays: Arrays) -> Contracts:
    """Images (image, row, column) uint8 and labels (image,) uint8, as loaded.

    As many images as labels; the same rows and columns in both splits; pixels that span
    more than 0 and 1, so that they are not already scaled; something to tell apart.
    """
    pixels = dict(zip(("row", "column", "channel"), dataset.image_shape, strict=False))
    span = Rule(
        "span",
        "pixels span more than 0 and 1 (0 = background … 255 = ink, not already scaled)",
        lambda pixels: bool(pixels.min() < pixels.max() and pixels.max() > 1),
        _range,
    )
    two_classes = Rule(
        "two-classes",
        "training images are of at least two classes",
        lambda labels: bool(labels.min() < labels.max()),
        lambda labels: f"only class {dataset.class_names[labels[0]]}",
    )
    values = {"x_train": span, "x_test": span, "y_train": two_classes}
    return _contracts(arrays, "uint8", pixels, {}, values)


def ready_arrays(dataset: DatasetRef, arrays: Arrays) -> Contracts:
    """Images (image, pixel) float32 in [0, 1] and labels (image, class) float32 one-hot."""
    pixels, classes = {"pixel": dataset.pixels}, {"class": dataset.classes}
    unit_range = Rule(
        "unit-range",
        "pixels lie in [0, 1] and reach beyond 1/255",
        lambda pixels: bool(pixels.min() >= 0 and 1 / 255 < pixels.max() <= 1),
        _range,
    )
    one_hot = Rule(
        "one-hot",
        "each row is one 1 among zeros",
        # A 1 in each row, and no more numbers but 0 than rows: needs no copy of the array.
        lambda rows: bool((rows.max(axis=1) == 1).all() and np.count_nonzero(rows) == len(rows)),
        lambda rows: f"row sums {_range(rows.sum(axis=-1))}, values {_range(rows)}",
    )
    values = {name: unit_range if name.startswith("x") else one_hot for name in ARRAY_NAMES}
    return _contracts(arrays, "float32", pixels, classes, values)


def _contracts(
    arrays: Arrays, dtype: str, images: Axes, labels: Axes, values: Mapping[str, Rule]
) -> Contracts:
    contracts = {}
    for name, other in zip(ARRAY_NAMES, ("y_train", "x_train", "y_test", "x_test"), strict=True):
        others = images if name.startswith("x") else labels
        sizes: dict[str, int | None] = {"image": len(arrays[other]), **others}
        contracts[name] = _schema(
            dtype=dtype, dims=tuple(sizes), sizes=sizes, checks=values.get(name)
        )
    return contracts


def _range(values: np.ndarray | np.generic) -> str:
    return f"{values.min()} … {values.max()}" if values.size else f"shape {values.shape}"
