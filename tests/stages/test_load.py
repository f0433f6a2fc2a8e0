"""Load: what a dataset is said to be once it is read as the settings want it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.cache.blobs import Store
from tasks.load import load
from tasks.records import DatasetRef, Reading
from tasks.sources.catalogue import find_dataset

pytestmark = pytest.mark.usefixtures("outside_a_run")

SIZES = ((16, 12), (16, 12), (8, 6), (32, 24))  # rows and columns of each class's pictures


def loaded(
    folder: Path, store: Store, sizes: tuple[tuple[int, int], ...], **reading: object
) -> DatasetRef:
    """Red and blue pictures of these sizes, a quarter of them for the test."""
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (folder / name).mkdir(parents=True)
        for number, (rows, columns) in enumerate(sizes):
            Image.new("RGB", (columns, rows), colour).save(folder / name / f"{number}.png")
    chosen = Reading.model_validate({"test_fraction": 0.25, "seed": 0, **reading})
    return load.fn(find_dataset(str(folder), folder.parent), store, chosen)


def test_colour_is_told(tmp_path: Path, store: Store) -> None:
    raw = loaded(tmp_path / "lamps", store, SIZES[:2] * 2)

    assert ((16, 12, 3), 576, ("blue", "red")) == (raw.image_shape, raw.pixels, raw.class_names)
    assert ((6, 16, 12, 3), (2, 16, 12, 3)) == (raw.x_train.shape, raw.x_test.shape)
    assert {0, 200} == set(np.unique(store.open_array(raw.x_train)).tolist())


def test_pictures_made_grey_hold_a_third_of_the_values(tmp_path: Path, store: Store) -> None:
    raw = loaded(tmp_path / "lamps", store, SIZES[:2] * 2, grayscale=True)

    assert ((16, 12), 192, 1) == (raw.image_shape, raw.pixels, raw.channels)
    assert {23, 60} == set(np.unique(store.open_array(raw.x_train)).tolist())  # 0.114, 0.299 x 200


def test_pictures_of_several_sizes_are_brought_to_one(tmp_path: Path, store: Store) -> None:
    raw = loaded(tmp_path / "lamps", store, SIZES, image_size=(8, 6))

    assert (8, 6, 3) == raw.image_shape
    assert (6, 8, 6, 3) == raw.x_train.shape
