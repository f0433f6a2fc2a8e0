"""A table of images: one row of statistics for each, in one pass over the pixels.

This module imports pandas: import it inside the stages that compute.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt8

CHUNK_BYTES = 1 << 17  # of pixels: what fits in a core's cache is read there several times
DIGEST_BYTES = 16
PIXEL_BINS = 10
# The smallest value of each bin but the first: 26, 52, 77 …
BIN_EDGES = tuple(-(-256 * number // PIXEL_BINS) for number in range(1, PIXEL_BINS))


class Measured(NamedTuple):
    """The images of a split, measured.

    `table`: by image, `content` (SHA-256 of the pixels, the first 128 bits), `darkest`,
    `brightest`, `mean`, `spread` (standard deviation) of its pixels 0 … 255, and `label`.
    `pixels`: how many of all pixels are in each of ten equal bins.
    """

    table: pd.DataFrame
    pixels: Int64[np.ndarray, " bin"]


def measure(
    images: UInt8[np.ndarray, "image row column"], labels: UInt8[np.ndarray, " image"]
) -> Measured:
    """Measure images by chunks, so that a memory map of any size will do."""
    pixels_per_image = images[0].size
    content: list[bytes] = []
    figures: dict[str, list[np.ndarray]] = {
        name: [] for name in ("darkest", "brightest", "mean", "spread")
    }
    above = np.zeros(PIXEL_BINS - 1, np.int64)
    count = max(1, CHUNK_BYTES // pixels_per_image)
    for start in range(0, len(images), count):
        chunk = np.ascontiguousarray(images[start : start + count]).reshape(-1, pixels_per_image)
        content += [hashlib.sha256(image.data).digest()[:DIGEST_BYTES] for image in chunk]
        above += [np.count_nonzero(chunk >= edge) for edge in BIN_EDGES]
        mean = chunk.mean(axis=1)
        wide = chunk.astype(np.float64)
        square = np.einsum("ij,ij->i", wide, wide) / pixels_per_image
        figures["darkest"].append(chunk.min(axis=1))
        figures["brightest"].append(chunk.max(axis=1))
        figures["mean"].append(mean)
        figures["spread"].append(np.sqrt(np.maximum(square - mean**2, 0)))
    columns = {name: np.concatenate(parts) for name, parts in figures.items()}
    table = pd.DataFrame({"content": pd.Series(content, dtype=object), **columns, "label": labels})
    return Measured(table, -np.diff([images.size, *above, 0]))
