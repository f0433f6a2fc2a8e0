"""What people get wrong most in images of their own, told without a profile of what is usual.

Written or drawn images have a background: their outermost pixels are nearly all of one value.
What differs from that is ink. The three checks are made of grey images that are not tiny; a
photograph has no background in this sense, and nothing is said of its images.

    mnist     background 0     no ink at the border      tall ones: upright 0.48
    fashion   background 0     0.2 of the ink elsewhere: that is how it was cropped

This module imports pandas and pandera: import it inside the stages that compute.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from pandera.pandas import DataFrameSchema

from tasks.records import ARRAY_NAMES, DatasetRef, Moments, Profile, ValidationRules
from tasks.validation.measure import CHUNK_BYTES, effect_size, moments_by_class
from tasks.validation.rules import Contracts, Rule

NEAR = 25  # values, a tenth of all: what the noise of a scan may differ from its background
FLAT = 0.6  # of the outermost pixels, near their median: the image has a background
MOST = 0.7  # of the images, with a background: they are written or drawn
CUT_OFF = 0.6  # ink at the border, of that elsewhere; 0.5 for digits without any margin
ALIKE = 0.5  # Cohen's d: a medium effect by convention
SMALLEST = 12  # rows and columns; of less, a third is border

PROFILE_SAYS_MORE = "the profile says more"
IN_COLOUR = "images in colour"
TINY = f"images of fewer than {SMALLEST} x {SMALLEST} pixels"


def posture(
    images: UInt8[np.ndarray, "image row column"], labels: UInt8[np.ndarray, " image"]
) -> pd.DataFrame:
    """A table of images and their backgrounds, measured by chunks.

    By image: `flat`, whether it has a background; `bright`, whether that is brighter than the
    middle of its values; `border` and `ink`, means of the ink there and of all pixels; `upright`,
    from -1 (a row) to 1 (a column); and `label`.
    """
    step = max(1, CHUNK_BYTES // images[0].size)
    chunks = [_posture(images[start : start + step]) for start in range(0, len(images), step)]
    return pd.concat(chunks, ignore_index=True).assign(label=labels)


def _posture(images: UInt8[np.ndarray, "image row column"]) -> pd.DataFrame:
    rows, columns = images.shape[1:]
    border = np.ones((rows, columns), bool)
    border[1:-1, 1:-1] = False
    background = np.median(images[:, border], axis=1).astype(np.uint8)
    around = background[:, np.newaxis, np.newaxis]
    ink = np.maximum(images, around) - np.minimum(images, around)
    ink *= ink > NEAR
    at_border, middle = ink[:, border], images.max((1, 2)) / 2 + images.min((1, 2)) / 2
    values = ink.astype(np.float32)  # matrix products add up five times as fast as sums
    by_row, by_column = (values @ np.ones(columns, "f4"), np.ones(rows, "f4") @ values)
    figures = {
        "flat": (at_border == 0).mean(axis=1) >= FLAT,
        "bright": background > middle,
        "border": at_border.mean(axis=1),
        "ink": by_row.mean(axis=1) / columns,
        "upright": _upright(by_row, by_column),
    }
    return pd.DataFrame(figures)


def _upright(
    by_row: Float[np.ndarray, "image row"], by_column: Float[np.ndarray, "image column"]
) -> Float[np.ndarray, " image"]:
    """By how much ink is spread more over rows than over columns, as a part of both; 0: none."""
    over_rows, over_columns = _spread(by_row), _spread(by_column)
    both = over_rows + over_columns
    upright: np.ndarray = (over_rows - over_columns) / np.where(both, both, 1)
    return upright


def _spread(ink: Float[np.ndarray, "image line"]) -> Float[np.ndarray, " image"]:
    """The standard deviation of the lines' numbers, each counted by its ink."""
    total, lines = np.maximum(ink.sum(axis=1, dtype=float), 1), np.arange(ink.shape[1])
    distances = lines - (ink @ lines / total)[:, np.newaxis]
    spread: np.ndarray = np.sqrt((ink * distances**2).sum(axis=1) / total)
    return spread


def shapes_by_class(
    images: UInt8[np.ndarray, "image row column"], labels: UInt8[np.ndarray, " image"]
) -> tuple[Moments, ...]:
    """How upright the images of each class are."""
    table = posture(images, labels)
    return moments_by_class(table["upright"], table["label"])


def not_judged(raw: DatasetRef, rules: ValidationRules) -> str:
    """Why nothing is said of these images; empty: it is."""
    if rules.profile is not None:
        return PROFILE_SAYS_MORE
    if raw.channels > 1:
        return IN_COLOUR
    return TINY if min(raw.image_shape) < SMALLEST else ""


def plausible(raw: DatasetRef, rules: ValidationRules) -> Contracts:
    """Ink on a darker background, away from the border, digits upright."""
    inverted = Rule(
        "inverted",
        "backgrounds are darker than what is on them (else turn them over: 255 - pixels)",
        lambda images: ~(images["flat"] & images["bright"] & _drawn(images)),
    )
    cut_off = Rule(
        "cut-off",
        f"ink at the border is below {CUT_OFF:g} of that elsewhere (else crop with a margin)",
        lambda images: _ink_at_border(images) < CUT_OFF,
        lambda images: f"{_ink_at_border(images):.2f}",
    )
    digits = raw.class_names == tuple(map(str, range(len(rules.shipped.upright))))
    upright = [_upright_as(rules.shipped)] if digits else []
    checks = {"x": [inverted, cut_off], "y": upright}
    return {name: DataFrameSchema(checks=checks[name[0]]) for name in ARRAY_NAMES}


def _drawn(images: pd.DataFrame) -> bool:
    """Whether nearly all have a background, so that they are no photographs."""
    return bool(images["flat"].mean() >= MOST)


def _ink_at_border(images: pd.DataFrame) -> float:
    return float(images["border"].mean() / max(images["ink"].mean(), 1)) * _drawn(images)


def _upright_as(usual: Profile) -> Rule:
    def effects(images: pd.DataFrame) -> tuple[float, float]:
        """Cohen's d from the usual shapes, the classes' mean: as they are, and swapped."""
        found = moments_by_class(images["upright"], images["label"])
        swapped = [one.model_copy(update={"mean": -one.mean}) for one in found]
        as_is, other = (
            [abs(effect_size(*pair)) for pair in zip(shapes, usual.upright, strict=False)]
            for shapes in (found, swapped)
        )
        return float(np.mean(as_is)), float(np.mean(other))

    def holds(images: pd.DataFrame) -> bool:
        as_is, swapped = effects(images)
        return swapped >= ALIKE or as_is < ALIKE

    return Rule(
        "transposed",
        f"digits stand upright: with rows and columns swapped they are not those of {usual.name} "
        "(else swap them: images.swapaxes(1, 2))",
        holds,
        lambda images: "Cohen's d {:.2f} as they are, {:.2f} swapped".format(*effects(images)),
    )
