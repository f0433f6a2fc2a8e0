"""Load: from a dataset's files to four arrays in the store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from prefect import get_run_logger

from tasks.cache.blobs import Store
from tasks.errors import DatasetError
from tasks.orchestration.stage import stage
from tasks.records import ARRAY_NAMES, AS_IT_IS, DatasetRef, DatasetSource, Reading
from tasks.sources.catalogue import common_folder, open_dataset
from tasks.sources.labels import Labels, read_labels
from tasks.sources.pixels import read_images
from tasks.sources.splits import chained, draw_split, require_splits, selected
from tasks.sources.stream import OpenedDataset, Stream


@stage()
def load(source: DatasetSource, store: Store, reading: Reading = AS_IT_IS) -> DatasetRef:
    """Read a dataset into the store: images (image, row, column[, channel]), labels (image,).

    Both are uint8. Height, width and the classes with their names come from the data; what is
    done to pixels and labels is logged. Raises DatasetError with the rule that the files break.
    """
    log = get_run_logger()
    opened = open_dataset(source, reading)
    for note in opened.notes:
        log.info("%s", note)
    images, labels, class_names = _read(opened, source, reading)
    validation = _join_validation(images, labels)
    arrays = {n: store.put_rows(np.uint8, s.shape, s.rows()) for n, s in images.items()}
    arrays |= {name: store.put_array(values) for name, values in labels.items()}
    count, height, width, *channels = arrays["x_train"].shape
    log.info(
        "%s: %d training%s and %d test images of %d x %d pixels%s, %d classes",
        *(source.name, count - validation, f", {validation} validation" if validation else ""),
        *(arrays["x_test"].shape[0], height, width),
        *(" in colour" if channels else "", len(class_names)),
    )
    return DatasetRef(
        name=source.name,
        class_names=class_names,
        height=height,
        width=width,
        channels=3 if channels else 1,
        validation_images=validation,
        test_fraction=reading.test_fraction,
        **arrays,
    )


def _read(
    opened: OpenedDataset, source: DatasetSource, reading: Reading
) -> tuple[dict[str, Stream], dict[str, Labels], tuple[str, ...]]:
    """The images of both splits, their labels, and the classes' names."""
    log, paths = get_run_logger(), [file.path for file in source.files]
    place = paths[0] if len(paths) == 1 else common_folder(paths)
    require_splits(opened.streams, reading, str(place))
    held_out = {"x_validation", "y_validation"} <= opened.streams.keys()
    names = [*ARRAY_NAMES, *(("x_validation", "y_validation") if held_out else ())]
    used = {name: opened.streams[name] for name in names if name in opened.streams}
    x, y = ({name: used[name] for name in used if name[0] == axis} for axis in "xy")
    images = read_images(x, log.info, log.warning, grayscale=reading.grayscale)
    _check_sizes(images, y)
    labels, class_names = read_labels(y, opened.names, log.info)
    if reading.test_fraction is not None:
        seed, all_images, all_labels = reading.seed or 0, images["x_train"], labels["y_train"]
        chosen = draw_split(all_labels, reading.test_fraction, seed)
        log.info("test split: %g of each class, drawn from seed %d", reading.test_fraction, seed)
        images |= {"x_train": selected(all_images, ~chosen), "x_test": selected(all_images, chosen)}
        labels |= {"y_train": all_labels[~chosen], "y_test": all_labels[chosen]}
    return images, labels, class_names


def _join_validation(images: dict[str, Stream], labels: dict[str, np.ndarray]) -> int:
    """Put the dataset's own validation images, if it has any, last among those for training.

    Training does not train on them, see tasks/train.py. Returns how many.
    """
    if "x_validation" not in images:
        return 0
    held_out = images.pop("x_validation")
    images["x_train"] = chained(images["x_train"], held_out)
    labels["y_train"] = np.concatenate([labels["y_train"], labels.pop("y_validation")])
    return held_out.shape[0]


def _check_sizes(images: Mapping[str, Stream], labels: Mapping[str, Stream]) -> None:
    for x, y in zip(images.values(), labels.values(), strict=True):
        if x.shape[0] != y.shape[0]:
            raise DatasetError(
                "Image and label counts must match.",
                received=f"{x.shape[0]} images, {y.shape[0]} labels",
                where=f"{x.where} and {y.where}",
                advice="Take both from the same release of the dataset.",
            )
    train, *others = images.values()
    for other in others:
        if train.shape[1:] != other.shape[1:]:
            raise DatasetError(
                "Training and test images must have the same height, width and channels.",
                received=f"{train.shape[1:]} and {other.shape[1:]}",
                where=f"{train.where} and {other.where}",
                advice="Rescale or convert one of them.",
            )
