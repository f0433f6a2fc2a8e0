"""Load: from a dataset's files to four arrays in the store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from prefect import get_run_logger

from tasks.cache.blobs import Store
from tasks.errors import DatasetError
from tasks.orchestration.stage import stage
from tasks.records import ARRAY_NAMES, DatasetRef, DatasetSource
from tasks.sources.catalogue import check_unchanged, open_dataset
from tasks.sources.labels import read_labels
from tasks.sources.pixels import grey_images
from tasks.sources.stream import Stream


@stage()
def load(source: DatasetSource, store: Store) -> DatasetRef:
    """Read a dataset into the store: images (image, row, column), labels (image,), both uint8.

    Height, width and the classes with their names come from the data; what is done to pixels
    and labels is logged. Raises DatasetError with the rule that the files break.
    """
    log = get_run_logger()
    opened = open_dataset(source)
    for note in opened.notes:
        log.info("%s", note)
    streams = _of_both_splits(opened.streams, source)
    if unused := opened.streams.keys() - set(ARRAY_NAMES):
        log.info("not used: %s", ", ".join(sorted(unused)))
    x, y = ({name: streams[name] for name in ARRAY_NAMES if name[0] == axis} for axis in "xy")
    images = grey_images(x, log.info, log.warning)
    _check_sizes(images, y)
    labels, class_names = read_labels(y, opened.names, log.info)
    arrays = {n: store.put_rows(np.uint8, s.shape, s.rows()) for n, s in images.items()}
    arrays |= {name: store.put_array(values) for name, values in labels.items()}
    check_unchanged(source)
    count, height, width = arrays["x_train"].shape
    log.info(
        "%s: %d training and %d test images of %d x %d pixels, %d classes",
        *(source.name, count, arrays["x_test"].shape[0], height, width, len(class_names)),
    )
    size = {"height": height, "width": width}
    return DatasetRef(name=source.name, class_names=class_names, **size, **arrays)


def _of_both_splits(streams: Mapping[str, Stream], source: DatasetSource) -> dict[str, Stream]:
    if missing := [name for name in ARRAY_NAMES if name not in streams]:
        raise DatasetError(
            "A dataset must have training and test images with their labels.",
            received=f"no {', '.join(missing)}",
            where=source.files[0].path if len(source.files) == 1 else source.files[0].path.parent,
            advice="Keep some of the images apart as the test split.",
        )
    return {name: streams[name] for name in ARRAY_NAMES}


def _check_sizes(images: Mapping[str, Stream], labels: Mapping[str, Stream]) -> None:
    for x, y in zip(images.values(), labels.values(), strict=True):
        if x.shape[0] != y.shape[0]:
            raise DatasetError(
                "Image and label counts must match.",
                received=f"{x.shape[0]} images, {y.shape[0]} labels",
                where=f"{x.where} and {y.where}",
                advice="Take both from the same release of the dataset.",
            )
    train, test = images.values()
    if train.shape[1:] != test.shape[1:]:
        raise DatasetError(
            "Training and test images must have the same height and width.",
            received=f"{train.shape[1:]} and {test.shape[1:]}",
            where=f"{train.where} and {test.where}",
            advice="Rescale one of them.",
        )
