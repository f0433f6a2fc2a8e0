"""Cutting a split off a dataset that has none: of each class the same fraction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from tasks.errors import DatasetError
from tasks.records import ARRAY_NAMES, Reading
from tasks.sources.stream import Stream

NEEDED = "A dataset must have training and test images with their labels."


@dataclass(frozen=True)
class Selected:
    """Those images of a stream that are to be taken, in their order."""

    source: Stream
    taken: Bool[np.ndarray, " image"]

    @property
    def where(self) -> str:
        """The file, for messages."""
        return self.source.where

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is taken."""
        return (int(self.taken.sum()), *self.source.shape[1:])

    def rows(self) -> Iterator[np.ndarray]:
        """Read consecutive pieces along axis 0. Raises DatasetError."""
        start = 0
        for piece in self.source.rows():
            yield piece[self.taken[start : start + len(piece)]]
            start += len(piece)


@dataclass(frozen=True)
class Chained:
    """One stream after another."""

    first: Stream
    then: Stream

    @property
    def where(self) -> str:
        """The files, for messages."""
        return f"{self.first.where} and {self.then.where}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values of both."""
        return np.result_type(self.first.dtype, self.then.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of both together."""
        return (self.first.shape[0] + self.then.shape[0], *self.first.shape[1:])

    def rows(self) -> Iterator[np.ndarray]:
        """Read consecutive pieces along axis 0. Raises DatasetError."""
        yield from self.first.rows()
        yield from self.then.rows()


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


def draw_split(
    labels: UInt8[np.ndarray, " image"], fraction: float, seed: int
) -> Bool[np.ndarray, " image"]:
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
