"""Labels as people store them: what numbers and names come out, and what is refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from builders import pieces

from tasks.errors import DatasetError
from tasks.sources.labels import read_labels


def read(
    train: object, test: object = None, names: dict[int, str] | None = None
) -> tuple[list[int], list[int], tuple[str, ...], list[str]]:
    """Numbers of the training and test labels, names of the classes, and the notes."""
    notes: list[str] = []
    arrays = {"y_train": np.asarray(train), "y_test": np.asarray(train if test is None else test)}
    streams = {name: pieces(array) for name, array in arrays.items()}
    labels, class_names = read_labels(streams, names, notes.append)
    assert all(values.dtype == np.uint8 for values in labels.values())
    return labels["y_train"].tolist(), labels["y_test"].tolist(), class_names, notes


@pytest.mark.parametrize(
    ("stored", "numbers", "names"),
    [
        ([0, 1, 2, 1], [0, 1, 2, 1], ("0", "1", "2")),
        ([1, 2, 3, 2], [0, 1, 2, 1], ("1", "2", "3")),
        ([10, 2, 7, 2], [2, 0, 1, 0], ("2", "7", "10")),
        ([-1, 1, 0], [0, 2, 1], ("-1", "0", "1")),
        ([3.0, 1.0, -2.0], [2, 1, 0], ("-2", "1", "3")),
        ([True, False, True], [1, 0, 1], ("False", "True")),
        (["cat", "ant", "bee", "ant"], [2, 0, 1, 0], ("ant", "bee", "cat")),
        (["10", "9", "1"], [1, 2, 0], ("1", "10", "9")),
        ([b"cat", "Übung".encode()], [0, 1], ("cat", "Übung")),
        ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], [1, 0, 2], ("0", "1", "2")),
        ([[0.0, 1.0], [1.0, 0.0]], [1, 0], ("0", "1")),
        ([[False, True], [True, False]], [1, 0], ("0", "1")),
        (np.array([2**63, 2**64 - 1], np.uint64), [0, 1], ("9223372036854775808", f"{2**64 - 1}")),
        (np.arange(255, -1, -1), list(range(255, -1, -1)), tuple(map(str, range(256)))),
    ],
)
def test_labels_become_numbers_of_classes_with_their_names(
    stored: object, numbers: list[int], names: tuple[str, ...]
) -> None:
    assert (numbers, names) == read(stored)[::2]


@pytest.mark.parametrize("dtype", ["|i1", "<i2", ">i4", "<i8", "|u1", ">u2", "<f2", ">f8"])
def test_dtype_of_labels_does_not_matter(dtype: str) -> None:
    assert ([0, 1, 0], ("5", "9")) == read(np.array([5, 9, 5], dtype))[::2]


def test_classes_are_those_of_both_splits() -> None:
    assert (
        [0, 2],
        [1, 2],
        ("1", "5", "9"),
        ["labels 1, 5, 9 read as 0 … 2, their names kept"],
    ) == (read([1, 9], [5, 9]))


def test_names_are_given_by_label() -> None:
    assert ("A", "2", "Z") == read([1, 26, 2], names={1: "A", 26: "Z", 3: "C"})[2]


def test_what_needs_no_change_is_not_noted() -> None:
    assert [] == read([0, 1, 2])[3]


def test_one_hot_labels_are_noted() -> None:
    assert ["labels (2, 2), (2, 2): one-hot, read as classes"] == read([[0, 1], [1, 0]])[3]


KIND = "Labels must be whole numbers, truth values or text. Received: "
ONE_HOT = "Labels with two axes must be one-hot: a 1 in the column of the class, 0 elsewhere."


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([0.5, 1.0], f"{KIND}float64, 0.5 … 1.0 (in array.npy)."),
        ([0.0, np.nan], f"{KIND}float64, nan … nan"),
        ([0.0, np.inf], f"{KIND}float64, 0.0 … inf"),
        ([0.0, 1e300], f"{KIND}float64, 0.0 … 1e+300"),
        (
            np.arange(300),
            "A dataset has at most 256 classes. Received: 258 or more labels (in",
        ),
        ([[0, 2], [1, 0]], f"{ONE_HOT} Received: shape (2, 2), int64 (in"),
        ([[0.1, 0.9], [1, 0]], f"{ONE_HOT} Received: shape (2, 2), float64 (in"),
        ([["a", "b"]], f"{ONE_HOT} Received: shape (1, 2), <U1 (in"),
        ([[1, 1, 0], [1, 0, 0]], "An image must have one label; multi-label targets, as of MedM"),
        ([[0, 0, 0], [1, 0, 0]], "An image must have one label; multi-label targets, as of MedM"),
        ([[[0]]], "y_train must have the axes (image), or (image, class) if it is one-hot. Rece"),
        (3, "y_train must have the axes (image), or (image, class) if it is one-hot. Received: "),
        (
            ["x" * 101, "y"],
            "The name of a class has at most 100 letters. Received: 101 letters",
        ),
        ([b"\xff"], "Labels that are text must be Unicode. Received: text that is not utf-8 ("),
        (["\ud800"], "Labels that are text must be Unicode. Received: text that is not utf-8 ("),
        (np.array([0x110000], "<u4").view("<U1"), "Labels that are text must be Unicode. Received"),
    ],
)
def test_what_are_no_labels_is_refused(stored: object, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read(stored)

    assert str(caught.value).startswith(message)


def test_text_and_numbers_together_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"all text\. Received: int64 in array.*, <U1 in array"):
        read([0, 1], ["a", "b"])


def test_labels_need_memory_for_their_numbers_only() -> None:
    labels = np.lib.stride_tricks.as_strided(np.array([7], np.int64), (200_000,), (0,))
    long = {"y_train": pieces(labels, most=1000), "y_test": pieces(labels[:1])}
    tracemalloc.start()
    read_labels(long, None, lambda _: None)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 1 << 20  # as int64: 1.6 MB
