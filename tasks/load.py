"""Load: from a dataset's files to four arrays in the store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from prefect import get_run_logger

from tasks.cache.blobs import Store
from tasks.errors import DatasetError
from tasks.orchestration.stage import stage
from tasks.records import ARRAY_NAMES, SPLITS, ArrayRef, DatasetRef, DatasetSource
from tasks.sources.catalogue import check_unchanged, open_dataset
from tasks.sources.stream import ArrayStream

MAX_LABEL = 255  # of a uint8


@stage()
def load(source: DatasetSource, store: Store) -> DatasetRef:
    """Read a dataset into the store: images (image, row, column), labels (image,) uint8.

    Height, width and the number of classes come from the data. Pixels keep their dtype;
    whole-number labels of any width become uint8 where they fit. Raises DatasetError with the
    rule that the files break.
    """
    streams = open_dataset(source)
    _check_shapes(streams)
    arrays = {name: _store_stream(streams[name], store) for name in ARRAY_NAMES}
    check_unchanged(source)
    images, height, width = arrays["x_train"].shape
    classes = count_classes(*(store.open_array(arrays[f"y_{split}"]) for split in SPLITS))
    get_run_logger().info(
        "%s: %d training and %d test images of %d x %d pixels, %d classes",
        *(source.name, images, arrays["x_test"].shape[0], height, width, classes),
    )
    return DatasetRef(name=source.name, height=height, width=width, classes=classes, **arrays)


def count_classes(train: np.ndarray, test: np.ndarray) -> int:
    """1 + the largest label in both splits, so that a stray label makes no class.

    If no label is in both, 1 + the largest of all.
    """
    common = np.intersect1d(train, test)
    return 1 + int((common if common.size else np.concatenate([train, test])).max())


def _check_shapes(streams: Mapping[str, ArrayStream]) -> None:
    for name, stream in streams.items():
        axes = ("image", "row", "column") if name.startswith("x") else ("image",)
        if len(stream.shape) != len(axes):
            raise DatasetError(
                f"{name} must have the axes ({', '.join(axes)}).",
                received=f"shape {stream.shape}",
                where=stream.where,
                advice="Reshape the array, for instance images[..., 0] to drop a channel axis.",
            )
    train, test = ((streams[f"x_{split}"], streams[f"y_{split}"]) for split in SPLITS)
    for images, labels in (train, test):
        if images.shape[0] != labels.shape[0]:
            raise DatasetError(
                "Image and label counts must match.",
                received=f"{images.shape[0]} images, {labels.shape[0]} labels",
                where=f"{images.where} and {labels.where}",
                advice="Take both from the same release of the dataset.",
            )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DatasetError(
            "Training and test images must have the same height and width.",
            received=f"{train[0].shape[1:]} and {test[0].shape[1:]}",
            where=f"{train[0].where} and {test[0].where}",
            advice="Rescale one of them.",
        )


def _store_stream(stream: ArrayStream, store: Store) -> ArrayRef:
    labels = len(stream.shape) == 1
    dtype = np.uint8 if labels else stream.dtype
    pieces = (_as_labels(rows, stream.where) if labels else rows for rows in stream.rows())
    return store.put_rows(dtype, stream.shape, pieces)


def _as_labels(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "ui" or values.min() < 0 or values.max() > MAX_LABEL:
        raise DatasetError(
            f"Labels must be whole numbers from 0 to {MAX_LABEL}.",
            received=f"{values.dtype}, {values.min()} … {values.max()}",
            where=where,
            advice="Number the classes from 0.",
        )
    return values.astype(np.uint8)
