"""Preprocess: from pixels as stored to numbers as the network reads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float32, UInt8
from prefect import get_run_logger

from tasks import IMPORTS
from tasks.cache.blobs import Store
from tasks.orchestration.stage import stage
from tasks.records import ARRAY_NAMES, SPLITS, ArrayRef, DatasetRef, ValidationReport

CHUNK_BYTES = 16 << 20  # of float32
INK = np.float32(255)


@stage()
def preprocess(raw: DatasetRef, store: Store) -> DatasetRef:
    """Scale pixels to [0, 1] and one-hot the labels.

    Images: (image, row, column[, channel]) uint8, 0 = background … 255 = ink
    becomes (image, pixel) float32 in [0, 1]; labels (image,) uint8
    become (image, class) float32.

    Raises ValidationFailedError when the result breaks its own contract.
    """
    with IMPORTS:
        from tasks.validation.contracts import ready_arrays
        from tasks.validation.rules import check, require_passed

    pixels, label_row = raw.pixels, partial(one_hot, classes=raw.classes)
    converted = {}
    for split in SPLITS:
        images, labels = (store.open_array(getattr(raw, f"{axis}_{split}")) for axis in "xy")
        converted[f"x_{split}"] = _store(images, scale, pixels, store)
        converted[f"y_{split}"] = _store(labels, label_row, raw.classes, store)
        get_run_logger().info("%s: float32 %s", split, (len(images), pixels))
    ready = raw.model_copy(update=converted)
    arrays = {name: store.open_array(getattr(ready, name)) for name in ARRAY_NAMES}
    checks = check("structure", ready_arrays(ready, arrays), arrays.__getitem__, {})
    require_passed(ValidationReport(checks=checks), f"the preprocessed {raw.name}")
    return ready


def scale(
    images: UInt8[np.ndarray, "image row column *channel"],
) -> Float32[np.ndarray, "image pixel"]:
    """Flatten each image row by row and divide by 255."""
    return images.reshape(len(images), -1).astype(np.float32) / INK


def one_hot(
    labels: UInt8[np.ndarray, " image"], classes: int
) -> Float32[np.ndarray, "image class"]:
    """A 1 in the label's column, 0 elsewhere."""
    rows: np.ndarray = np.eye(classes, dtype=np.float32)[labels]
    return rows


def _store(
    values: np.ndarray, convert: Callable[[np.ndarray], np.ndarray], columns: int, store: Store
) -> ArrayRef:
    """Convert by chunks: memory is needed for one of them, not for the split."""
    step = max(1, CHUNK_BYTES // (4 * columns))
    pieces = (convert(values[start : start + step]) for start in range(0, len(values), step))
    return store.put_rows(np.float32, (len(values), columns), pieces)
