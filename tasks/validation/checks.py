"""The tiers of validation: files → structure → rows → splits → plausibility → drift.

A tier is only run if no error was found before it, and what was not run says so: it never reads
as passed. Rows and splits are schemas of the table that `measure` makes of a split's images,
drift is one of the split's profile, a table of one row; what is told without a profile is in
`plausibility`.

This module imports pandera: import it inside the stages that compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from pandera.pandas import DataFrameSchema

from tasks.records import ARRAY_NAMES, DatasetRef, Moments, Tier, ValidationReport, ValidationRules
from tasks.validation.contracts import raw_arrays, stored_arrays
from tasks.validation.measure import FIGURES, effect_size, measure, stability_index
from tasks.validation.plausibility import not_judged, plausible, posture
from tasks.validation.rules import Arrays, Contracts, Rule, check

EARLIER_FAILED = "an earlier tier failed"
NO_PROFILE = "no profile: write one with mnist-profile"

Distance = Callable[[Any, Any], float | list[float]]  # one, or one of each class


def examine(raw: DatasetRef, arrays: Arrays, rules: ValidationRules) -> ValidationReport:
    """Run the tiers over a loaded dataset; those after a failed error check are skipped."""

    @cache
    def images(split: str) -> pd.DataFrame:
        return measure(arrays[f"x_{split}"], arrays[f"y_{split}"])

    @cache
    def postures(split: str) -> pd.DataFrame:
        return posture(arrays[f"x_{split}"], arrays[f"y_{split}"])

    found = {
        "files": arrays.__getitem__,
        "structure": arrays.__getitem__,
        "plausibility": lambda name: postures(name[2:]),
    }

    tiers: dict[Tier, Contracts] = {
        "files": stored_arrays(raw),
        "structure": raw_arrays(raw, arrays),
        "rows": single_images(raw.class_names, arrays),
        "splits": likeness_of_splits(images, rules.max_psi),
        "plausibility": plausible(raw, rules),
        "drift": likeness_to_profile(rules, raw.class_names),
    }
    without = {
        "plausibility": not_judged(raw, rules),
        "drift": "" if rules.profile else NO_PROFILE,
    }
    report = ValidationReport(checks=())
    for tier, contracts in tiers.items():
        skipped = EARLIER_FAILED if report.failed("error") else without.get(tier, "")
        of_tier = found.get(tier, lambda name: images(name[2:]))
        results = check(tier, contracts, of_tier, rules.severity, skipped)
        report = ValidationReport(checks=report.checks + results)
    return report


def single_images(class_names: Sequence[str], arrays: Arrays) -> Contracts:
    """Images that are neither blank nor repeated, under labels that agree, and that both use."""
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
    both = np.intersect1d(arrays["y_train"], arrays["y_test"])

    def one_sided(broken: pd.DataFrame) -> str:
        return f"{_of_classes(np.unique(broken['label']).tolist(), class_names)} only here: "

    shared = Rule(
        "classes",
        "classes are in both splits",
        lambda images: images["label"].isin(both),
        one_sided,
    )
    return _of_both_splits([varied, single], [agreeing, shared])


def likeness_of_splits(images: Callable[[str], pd.DataFrame], max_psi: float) -> Contracts:
    """Test images that training does not have, of classes as frequent as there."""
    unseen = Rule(
        "leakage",
        "no test image is among the training images",
        lambda test: ~test["content"].isin(images("train")["content"]),
    )
    balance = _near(
        "class-balance",
        "classes are as frequent as in training: PSI",
        *("classes", stability_index, max_psi),
        usual=lambda: FIGURES["classes"](images("train")),
    )
    return {"x_test": DataFrameSchema(checks=unseen), "y_test": DataFrameSchema(checks=balance)}


def likeness_to_profile(rules: ValidationRules, class_names: Sequence[str]) -> Contracts:
    """Images and labels like those that the rules' profile was made of."""

    def near(figure: str, what: str, distance: Distance, limit: float) -> Rule:
        name, text = f"drift-{figure}", f"{what} from the profile"
        usual = partial(getattr, rules.profile, figure)
        return _near(name, text, figure, distance, limit, usual, class_names)

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


def _near(
    name: str,
    text: str,
    figure: str,
    distance: Distance,
    limit: float,
    usual: Callable[[], Any],
    class_names: Sequence[str] = (),
) -> Rule:
    """A figure of the images is near the usual one; of several by class, each."""

    def distances(table: pd.DataFrame) -> np.ndarray:
        return np.atleast_1d(distance(FIGURES[figure](table), usual()))

    def received(table: pd.DataFrame) -> str:
        sizes = distances(table)
        worst = int(np.abs(sizes).argmax())
        of_class = f" for {_of_classes([worst], class_names)}" if len(sizes) > 1 else ""
        return f"{sizes[worst]:.2f}{of_class}"

    def small(table: pd.DataFrame) -> bool:
        return bool((np.abs(distances(table)) < limit).all())

    return Rule(name, f"{text} below {limit:g}", small, received)


def _of_classes(labels: Iterable[int], class_names: Sequence[str]) -> str:
    """For instance `classes T-shirt, Coat`."""
    names = [class_names[label] for label in labels]
    return f"class{'es' if len(names) > 1 else ''} {', '.join(names)}"
