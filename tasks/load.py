"""Load: from a dataset's files to four arrays in the store."""

from __future__ import annotations

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
    whole-number labels of any width become uint8 where they fit.

    Raises:
        DatasetError: one of its kinds for each way in which the files can be wrong.
    """
    streams = open_dataset(source)
    _check_shapes(streams)
    arrays = {name: _store_stream(streams[name], store) for name in ARRAY_NAMES}
    check_unchanged(source)
    _, height, width = arrays["x_train"].shape
    dataset = DatasetRef(
        name=source.name,
        height=height,
        width=width,
        classes=count_classes(*(store.open_array(arrays[f"y_{split}"]) for split in SPLITS)),
        **arrays,
    )
    get_run_logger().info(
        "%s: %d training and %d test images of %d x %d pixels, %d classes",
        *(dataset.name, dataset.x_train.shape[0], dataset.x_test.shape[0]),
        *(height, width, dataset.classes),
    )
    return dataset


def count_classes(train: np.ndarray, test: np.ndarray) -> int:
    """1 + the largest label in both splits, so that a stray label makes no class.

    If no label is in both, 1 + the largest of all.
    """
    common = np.intersect1d(train, test)
    return 1 + int((common if common.size else np.concatenate([train, test])).max())


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


def _check_shapes(streams: dict[str, ArrayStream]) -> None:
    for name, stream in streams.items():
        axes = ("image", "row", "column") if name.startswith("x") else ("image",)
        if len(stream.shape) != len(axes) or 0 in stream.shape:
            raise DatasetError(
                f"{name} must have the axes ({', '.join(axes)}), none of them empty.",
                received=f"shape {stream.shape}",
                where=stream.where,
                advice="Reshape the array, for instance images[..., 0] to drop a channel axis.",
            )
    for split in SPLITS:
        images, labels = streams[f"x_{split}"], streams[f"y_{split}"]
        if images.shape[0] != labels.shape[0]:
            raise DatasetError(
                "Image and label counts must match.",
                received=f"{images.shape[0]} images, {labels.shape[0]} labels",
                where=f"{images.where} and {labels.where}",
                advice="Take both from the same release of the dataset.",
            )
    train, test = streams["x_train"], streams["x_test"]
    if train.shape[1:] != test.shape[1:]:
        raise DatasetError(
            "Training and test images must have the same height and width.",
            received=f"{train.shape[1:]} and {test.shape[1:]}",
            where=f"{train.where} and {test.where}",
            advice="Rescale one of them.",
        )
