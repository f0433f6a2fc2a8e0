"""Preprocess: from pixels as stored to numbers as the network reads them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8
from prefect import get_run_logger

from tasks.cache.blobs import Store
from tasks.orchestration.stage import stage
from tasks.records import ARRAY_NAMES, SPLITS, ArrayRef, DatasetRef, ValidationReport

CHUNK_BYTES = 16 << 20  # of float32
INK = np.float32(255)


@stage()
def preprocess(raw: DatasetRef, store: Store) -> DatasetRef:
    """Scale pixels to [0, 1] and one-hot the labels.

    Images: (image, row, column) uint8, 0 = background … 255 = ink
    becomes (image, pixel) float32 in [0, 1]; labels (image,) uint8
    become (image, class) float32.

    Raises:
        ValidationFailedError: the result breaks its own contract.
    """
    from tasks.validation.schema import check_arrays, ready_contracts, require_passed

    ready = raw.model_copy(
        update={
            name: (_store_images if name.startswith("x") else _store_labels)(raw, name, store)
            for name in ARRAY_NAMES
        }
    )
    arrays = {name: store.open_array(getattr(ready, name)) for name in ARRAY_NAMES}
    report = ValidationReport(checks=check_arrays(arrays, ready_contracts(ready, arrays)))
    require_passed(report, f"the preprocessed {raw.name}")
    for split in SPLITS:
        get_run_logger().info("%s: %s %s", split, ready.x_train.dtype, arrays[f"x_{split}"].shape)
    return ready


def scale(images: UInt8[np.ndarray, "image row column"]) -> Float32[np.ndarray, "image pixel"]:
    """Flatten each image row by row and divide by 255."""
    pixels: np.ndarray = images.reshape(len(images), -1).astype(np.float32) / INK
    return pixels


def one_hot(
    labels: UInt8[np.ndarray, " image"], classes: int
) -> Float32[np.ndarray, "image class"]:
    """A 1 in the label's column, 0 elsewhere."""
    rows: np.ndarray = np.eye(classes, dtype=np.float32)[labels]
    return rows


def _store_images(raw: DatasetRef, name: str, store: Store) -> ArrayRef:
    images = store.open_array(getattr(raw, name))
    count = max(1, CHUNK_BYTES // (4 * raw.height * raw.width))
    pieces = (scale(images[start : start + count]) for start in range(0, len(images), count))
    return store.put_rows(np.float32, (len(images), raw.height * raw.width), pieces)


def _store_labels(raw: DatasetRef, name: str, store: Store) -> ArrayRef:
    return store.put_array(one_hot(store.open_array(getattr(raw, name)), raw.classes))
