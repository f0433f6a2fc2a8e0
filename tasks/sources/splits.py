"""What the splits of a dataset are called, and cutting one off where there is none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
from jaxtyping import Bool, UInt8

from tasks.errors import DatasetError
from tasks.records import ARRAY_NAMES, Reading
from tasks.sources.stream import Stream

SPLITS = ("train", "validation", "test")
SPLIT_WORDS = {  # in lower case, as names of folders, files and arrays have them
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NEEDED = "A dataset must have training and test images with their labels."

Taken = Bool[np.ndarray, " image"]


def missing_arrays(found: Collection[str]) -> list[str]:
    """Which of its arrays a dataset lacks beside these; it may have no test split at all."""
    without_test = not {"x_test", "y_test"}.intersection(found)
    needed = [name for name in ARRAY_NAMES if not (without_test and name.endswith("test"))]
    return [name for name in needed if name not in found]


def selected(source: Stream, taken: Taken) -> Stream:
    """Those images of a stream that are to be taken, in their order."""
    shape = (int(taken.sum()), *source.shape[1:])
    return replace(source, shape=shape, rows=partial(_selected_rows, source, taken))


def _selected_rows(source: Stream, taken: Taken) -> Iterator[np.ndarray]:
    start = 0
    for piece in source.rows():
        yield piece[taken[start : start + len(piece)]]
        start += len(piece)


def chained(first: Stream, then: Stream) -> Stream:
    """One stream after another."""
    return Stream(
        where=f"{first.where} and {then.where}",
        dtype=np.result_type(first.dtype, then.dtype),
        shape=(first.shape[0] + then.shape[0], *first.shape[1:]),
        rows=lambda: chain(first.rows(), then.rows()),
    )


def require_splits(streams: Mapping[str, Stream], reading: Reading, where: str) -> None:
    """Raise DatasetError unless there is a test split, or else one is to be cut, but not both."""
    missing = [name for name in ARRAY_NAMES if name not in streams]
    no_test_split = missing == ["x_test", "y_test"]
    if missing and not (no_test_split and reading.test_fraction):
        advice = "Check that the names of the arrays and files are among the usual ones."
        if no_test_split:
            advice = "Cut a test split off with --test-fraction 0.2, say."
        raise DatasetError(NEEDED, received=f"no {', '.join(missing)}", where=where, advice=advice)
    if reading.test_fraction and not missing:
        raise DatasetError(
            "A test split is cut off only where there is none.",
            received=f"--test-fraction {reading.test_fraction:g}, and {streams['x_test'].where}",
            where=where,
            advice="Leave --test-fraction out, or take the test split away.",
        )


def draw_split(labels: UInt8[np.ndarray, " image"], fraction: float, seed: int) -> Taken:
    """Which images are set apart: of each class this fraction, at least one of two, never all.

    Raises DatasetError if that is none.
    """
    drawn, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        chosen[drawn.permutation(rows)[:count]] = True
    if not chosen.any():
        raise DatasetError(
            "Setting images apart needs a class of two images or more.",
            received=f"{len(labels)} images, each of a class of its own",
            advice="Add images.",
        )
    return chosen
