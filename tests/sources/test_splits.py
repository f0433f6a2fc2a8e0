"""A test split that is cut off a dataset without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import tiny_arrays

from tasks.cache.blobs import Store
from tasks.errors import DatasetError
from tasks.load import load
from tasks.records import Reading
from tasks.sources.catalogue import find_dataset
from tasks.sources.splits import draw_split

LABELS = np.repeat(np.arange(3, dtype=np.uint8), (10, 20, 5))
pytestmark = pytest.mark.usefixtures("outside_a_run")


def test_of_each_class_the_same_fraction_is_drawn() -> None:
    chosen = draw_split(LABELS, 0.2, seed=0)

    assert [2, 4, 1] == np.bincount(LABELS[chosen]).tolist()


def test_draw_depends_on_the_seed_alone() -> None:
    first, again, other = (draw_split(LABELS, 0.4, seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_each_class_of_two_images_is_in_both_splits(fraction: float) -> None:
    chosen = draw_split(np.array([0, 1, 0, 1], np.uint8), fraction, seed=0)

    assert [1, 1] == np.bincount(np.array([0, 1, 0, 1])[chosen]).tolist()


def test_nothing_to_test_is_an_error() -> None:
    with pytest.raises(DatasetError, match="a class of two images or more"):
        draw_split(np.arange(3, dtype=np.uint8), 0.5, seed=0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV of 60 images, with no test split; each image holds its own number."""
    numbers = np.arange(60)
    rows = np.column_stack([numbers % 3, *[numbers] * 4])
    path = tmp_path / "numbers.csv"
    np.savetxt(path, rows, "%d", ",")
    return path


def test_images_and_labels_are_split_alike(table: Path, store: Store) -> None:
    reading = Reading(test_fraction=0.25, seed=3)

    raw = load.fn(find_dataset(str(table), table.parent), store, reading)

    images, labels = {}, {}
    for split in ("train", "test"):
        images[split] = store.open_array(getattr(raw, f"x_{split}"))[:, 0, 0]
        labels[split] = store.open_array(getattr(raw, f"y_{split}"))
        np.testing.assert_array_equal(images[split] % 3, labels[split])
        assert list(images[split]) == sorted(images[split])  # in the order of the file
    assert set(range(60)) == {*images["train"], *images["test"]}
    assert [5, 5, 5] == np.bincount(labels["test"]).tolist()
    assert 0.25 == raw.test_fraction


def test_dataset_without_a_test_split_is_told_how_to_cut_one(table: Path, store: Store) -> None:
    with pytest.raises(DatasetError, match=r"no x_test, y_test .*--test-fraction 0.2"):
        load.fn(find_dataset(str(table), table.parent), store)


def test_test_split_that_is_there_is_not_cut(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "whole.npz"
    np.savez(path, **tiny_arrays())

    with pytest.raises(DatasetError, match="only where there is none"):
        load.fn(find_dataset(str(path), tmp_path), store, Reading(test_fraction=0.2, seed=0))
