"""What images are like: each of them, all of them together, and how unlike others they are.

This module imports pandas: import it inside the stages that compute.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from tasks.records import Moments, Profile

CHUNK_BYTES = 1 << 17  # of pixels: what fits in a core's cache is read there several times
PIXEL_BINS = 10
# The smallest value of each bin but the first: 26, 52, 77 …
BIN_EDGES = tuple(-(-256 * number // PIXEL_BINS) for number in range(1, PIXEL_BINS))
SMALLEST_FRACTION = 1e-4  # stands for none at all: the index has logarithms


def measure(
    images: UInt8[np.ndarray, "image row column *channel"], labels: UInt8[np.ndarray, " image"]
) -> pd.DataFrame:
    """A table of images, measured by chunks, so that a memory map of any size will do.

    By image: `content` (SHA-256 of the pixels, the first 128 bits), `darkest`, `brightest`,
    `mean`, `spread` (standard deviation) of its pixels 0 … 255, and `label`. The table's
    `attrs["pixels"]` are how many of all pixels are in each of ten equal bins.
    """
    size = images[0].size
    darkest, brightest = np.empty((2, len(images)), np.uint8)
    mean, square = np.empty((2, len(images)))
    content: list[bytes] = []
    above = np.zeros(PIXEL_BINS - 1, np.int64)
    step = max(1, CHUNK_BYTES // size)
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        chunk = np.ascontiguousarray(images[rows]).reshape(-1, size)
        wide = chunk.astype(np.float64)
        content += [hashlib.sha256(image.data).digest()[:16] for image in chunk]
        above += [np.count_nonzero(chunk >= edge) for edge in BIN_EDGES]
        chunk.min(axis=1, out=darkest[rows])
        chunk.max(axis=1, out=brightest[rows])
        chunk.mean(axis=1, out=mean[rows])
        np.einsum("ij,ij->i", wide, wide, out=square[rows])
    spread = np.sqrt(np.maximum(square / size - mean**2, 0))
    columns = {"darkest": darkest, "brightest": brightest, "mean": mean, "spread": spread}
    table = pd.DataFrame({"content": pd.Series(content, dtype=object), **columns, "label": labels})
    table.attrs["pixels"] = (-np.diff([images.size, *above, 0])).tolist()
    return table


def _moments(values: pd.Series) -> Moments:
    return Moments(mean=float(values.mean()), spread=float(values.std(ddof=0)))


def moments_by_class(values: pd.Series, labels: pd.Series) -> tuple[Moments, ...]:
    """NaN for a class without images, so that each stands at its label."""
    groups = dict(iter(values.groupby(labels)))
    none = pd.Series([], dtype=float)
    return tuple(_moments(groups.get(label, none)) for label in range(1 + int(labels.max())))


def _fractions(counts: np.ndarray) -> tuple[float, ...]:
    return tuple((counts / counts.sum()).tolist())


# What a profile has of a table of images, by field.
FIGURES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "brightness": lambda table: _moments(table["mean"]),
    "contrast": lambda table: _moments(table["spread"]),
    "pixels": lambda table: _fractions(np.array(table.attrs["pixels"])),
    "classes": lambda table: _fractions(np.bincount(table["label"])),
    "ink": lambda table: moments_by_class(table["mean"], table["label"]),
}


def profile_of(name: str, table: pd.DataFrame, upright: tuple[Moments, ...] = ()) -> Profile:
    """What these images are like. Labels are 0 … classes - 1."""
    figures = {figure: of_table(table) for figure, of_table in FIGURES.items()}
    return Profile(name=name, images=len(table), **figures, upright=upright)


def stability_index(found: tuple[float, ...], usual: tuple[float, ...]) -> float:
    """Population stability index of two distributions; 0.25 is a shift by convention.

    Siddiqi, Credit Risk Scorecards (2006): the sum of (p - q) ln(p / q). Of distributions over
    unequally many bins, the shorter one has nothing in the others.
    """
    bins = max(len(found), len(usual))
    padded = (np.pad(each, (0, bins - len(each))) for each in (found, usual))
    p, q = (np.maximum(each, SMALLEST_FRACTION) for each in padded)
    return float(((p - q) * np.log(p / q)).sum())


def effect_size(found: Moments, usual: Moments) -> float:
    """Cohen's d: the difference of two means in standard deviations; 0.5 is medium by convention.

    Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), with the root mean
    square of both standard deviations. Infinite if neither varies and they differ; 0 if one is
    of no images.
    """
    if math.isnan(found.mean) or math.isnan(usual.mean):
        return 0.0
    difference = found.mean - usual.mean
    spread = np.hypot(found.spread, usual.spread) / np.sqrt(2)
    if not spread:
        return math.copysign(math.inf, difference) if difference else 0.0
    return float(difference / spread)
