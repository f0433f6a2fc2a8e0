"""The tiers of validation: files → structure → rows → splits → drift.

A tier is only run if no error was found before it, and what was not run says so: it never reads
as passed. Rows and splits are schemas of the table that `measure` makes of a split's images,
drift is one of the split's profile, a table of one row.

This module imports pandera: import it inside the stages that compute.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from pandera.pandas import DataFrameSchema

from tasks.records import ARRAY_NAMES, DatasetRef, Moments, Tier, ValidationReport, ValidationRules
from tasks.validation.contracts import raw_arrays, stored_arrays
from tasks.validation.measure import (
    class_fractions,
    effect_size,
    measure,
    profile_of,
    stability_index,
)
from tasks.validation.rules import Arrays, Contracts, Rule, check

EARLIER_FAILED = "an earlier tier failed"
NO_PROFILE = "no profile: write one with mnist-profile"

Distance = float | list[float]  # one, or one of each class


def examine(raw: DatasetRef, arrays: Arrays, rules: ValidationRules) -> ValidationReport:
    """Run the tiers over a loaded dataset; those after a failed error check are skipped."""

    @cache
    def images(split: str) -> pd.DataFrame:
        return measure(arrays[f"x_{split}"], arrays[f"y_{split}"])

    @cache
    def profile(split: str) -> pd.DataFrame:
        return pd.DataFrame([dict(profile_of(split, images(split)))])

    tiers: dict[Tier, tuple[Contracts, Callable[[str], Any]]] = {
        "files": (stored_arrays(raw), arrays.__getitem__),
        "structure": (raw_arrays(raw, arrays), arrays.__getitem__),
        "rows": (single_images(raw.classes), lambda name: images(name[2:])),
        "splits": (likeness_of_splits(images, rules.max_psi), lambda name: images(name[2:])),
        "drift": (likeness_to_profile(rules), lambda name: profile(name[2:])),
    }
    report = ValidationReport(checks=())
    for tier, (contracts, found) in tiers.items():
        no_profile = NO_PROFILE if tier == "drift" and rules.profile is None else ""
        skipped = EARLIER_FAILED if report.failed("error") else no_profile
        results = check(tier, contracts, found, rules.severity, skipped)
        report = ValidationReport(checks=report.checks + results)
    return report


def single_images(classes: int) -> Contracts:
    """Images that are neither blank nor repeated, under labels that are classes and agree."""
    varied = Rule(
        "constant-images",
        "no image is blank or all of one value",
        lambda images: images["darkest"] < images["brightest"],
    )
    single = Rule(
        "duplicates",
        "no image occurs again in its split",
        lambda images: ~images.duplicated("content"),
    )
    agreeing = Rule(
        "contradictions",
        "equal images of a split have equal labels",
        lambda images: images.groupby("content", sort=False)["label"].transform("nunique") == 1,
    )
    known = Rule(
        "foreign-labels",
        "labels are classes that both splits have",
        lambda images: images["label"] < classes,
        lambda broken: f"labels {', '.join(map(str, np.unique(broken['label'])))}: ",
    )
    return _of_both_splits([varied, single], [agreeing, known])


def likeness_of_splits(images: Callable[[str], pd.DataFrame], max_psi: float) -> Contracts:
    """Test images that training does not have, of classes as frequent as there."""
    unseen = Rule(
        "leakage",
        "no test image is among the training images",
        lambda test: ~test["content"].isin(images("train")["content"]),
    )
    balance = _below(
        max_psi,
        "class-balance",
        "classes are as frequent as in training: PSI",
        lambda test: stability_index(class_fractions(test), class_fractions(images("train"))),
    )
    return {"x_test": DataFrameSchema(checks=unseen), "y_test": DataFrameSchema(checks=balance)}


def likeness_to_profile(rules: ValidationRules) -> Contracts:
    """Images and labels like those that the rules' profile was made of."""

    def near(figure: str, what: str, distance: Callable[..., Distance], limit: float) -> Rule:
        return _below(
            limit,
            f"drift-{figure}",
            f"{what} from the profile",
            lambda profile: distance(profile[figure][0], getattr(rules.profile, figure)),
        )

    def effects(found: tuple[Moments, ...], usual: tuple[Moments, ...]) -> list[float]:
        return [effect_size(*pair) for pair in zip(found, usual, strict=False)]

    psi, effect = rules.max_psi, rules.max_effect
    brightness = near("brightness", "images' means: Cohen's d", effect_size, effect)
    contrast = near("contrast", "images' spreads: Cohen's d", effect_size, effect)
    pixels = near("pixels", "pixel values in ten bins: PSI", stability_index, psi)
    classes = near("classes", "frequency of classes: PSI", stability_index, psi)
    ink = near("ink", "each class's ink: Cohen's d", effects, effect)
    return _of_both_splits([brightness, contrast, pixels], [classes, ink])


def _of_both_splits(images: list[Rule], labels: list[Rule]) -> Contracts:
    rules = {"x": images, "y": labels}
    return {name: DataFrameSchema(checks=rules[name[0]]) for name in ARRAY_NAMES}


def _below(
    limit: float, name: str, text: str, distance: Callable[[pd.DataFrame], Distance]
) -> Rule:
    """A distance, or the largest of several by class, is small."""

    def received(table: pd.DataFrame) -> str:
        sizes = np.atleast_1d(distance(table))
        worst = np.abs(sizes).argmax()
        return f"{sizes[worst]:.2f}" + (f" for class {worst}" if len(sizes) > 1 else "")

    def small(table: pd.DataFrame) -> bool:
        return bool((np.abs(distance(table)) < limit).all())

    return Rule(name, f"{text} below {limit:g}", small, received)
