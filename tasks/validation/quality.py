"""Validation in tiers: from four arrays to every check's result.

This module imports pandas and pandera: import it inside the stages that compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pandera.pandas as pandera
from jaxtyping import Float

from tasks.records import (
    ARRAY_NAMES,
    SPLITS,
    CheckResult,
    DatasetRef,
    Moments,
    Profile,
    Tier,
    ValidationRules,
)
from tasks.validation.checks import EARLIER_FAILED, NO_PROFILE, Finding, concluded, in_rows, skipped
from tasks.validation.measure import Measured, measure
from tasks.validation.schema import Arrays, check_arrays, raw_contracts

Findings = dict[tuple[str, str], Finding]
SMALLEST_FRACTION = 1e-4  # stands for none at all: the index has logarithms


def examine(raw: DatasetRef, arrays: Arrays, rules: ValidationRules) -> tuple[CheckResult, ...]:
    """Run the tiers over a loaded dataset; those after a failed error check are skipped."""
    intact = {("integrity", name): Finding(holds=True) for name in ARRAY_NAMES}  # or not loaded
    checks = concluded("files", intact, rules)
    checks += check_arrays(arrays, raw_contracts(raw, arrays))
    splits: dict[str, Measured] = {}
    tiers: dict[Tier, Callable[[], Findings]] = {
        "rows": lambda: check_rows(splits, raw.classes),
        "splits": lambda: compare_splits(splits, rules),
        "drift": lambda: compare_profile(splits, rules),
    }
    for tier, find in tiers.items():
        if any(check.outcome == "failed" and check.severity == "error" for check in checks):
            checks += skipped(tier, EARLIER_FAILED, rules)
        elif tier == "drift" and rules.profile is None:
            checks += skipped(tier, NO_PROFILE, rules)
        else:
            splits = splits or {s: measure(arrays[f"x_{s}"], arrays[f"y_{s}"]) for s in SPLITS}
            checks += concluded(tier, find(), rules)
    return checks


def check_rows(splits: dict[str, Measured], classes: int) -> Findings:
    """Tier rows: constant images, duplicates, contradicting labels, labels that are no class."""
    findings: Findings = {}
    for split, measured in splits.items():
        table = measured.table
        broken = _broken_rules(table, classes)
        for name, offends in _row_rules(classes).items():
            axis = "x" if name in ("constant-images", "duplicates") else "y"
            findings[name, f"{axis}_{split}"] = (
                _offenders(name, table, offends) if name in broken else Finding(holds=True)
            )
    return findings


def compare_splits(splits: dict[str, Measured], rules: ValidationRules) -> Findings:
    """Tier splits: training images in the test split, and the frequency of classes."""
    train, test = (splits[split].table for split in SPLITS)
    balance = stability_index(_class_fractions(test), _class_fractions(train))
    return {
        ("leakage", "x_test"): in_rows(test["content"].isin(train["content"]).to_numpy()),
        ("class-balance", "y_test"): _below(balance, rules.max_psi),
    }


def compare_profile(splits: dict[str, Measured], rules: ValidationRules) -> Findings:
    """Tier drift: how far the images of each split are from those of the rules' profile."""
    usual = rules.profile
    assert usual is not None, "the tier is skipped without a profile"
    findings: Findings = {}
    for split, measured in splits.items():
        found = profile_of(split, measured)
        ink = np.array([effect_size(*pair) for pair in zip(found.ink, usual.ink, strict=False)])
        worst = int(np.abs(ink).argmax())
        psi, effect = rules.max_psi, rules.max_effect
        x, y = f"x_{split}", f"y_{split}"
        findings |= {
            ("drift-brightness", x): _below(
                effect_size(found.brightness, usual.brightness), effect
            ),
            ("drift-contrast", x): _below(effect_size(found.contrast, usual.contrast), effect),
            ("drift-pixels", x): _below(stability_index(found.pixels, usual.pixels), psi),
            ("drift-classes", y): _below(stability_index(found.classes, usual.classes), psi),
            ("drift-ink", y): _below(ink[worst], effect, f" for class {worst}"),
        }
    return findings


def profile_of(name: str, measured: Measured) -> Profile:
    """What these images are like. Labels are 0 … classes - 1, each at least once."""
    table = measured.table
    by_class = table.groupby("label")["mean"]
    return Profile(
        name=name,
        images=len(table),
        brightness=_moments(table["mean"]),
        contrast=_moments(table["spread"]),
        pixels=tuple((measured.pixels / measured.pixels.sum()).tolist()),
        classes=tuple(_class_fractions(table).tolist()),
        ink=tuple(_moments(means) for _, means in by_class),
    )


def stability_index(
    found: Float[np.ndarray, " bin"] | tuple[float, ...],
    usual: Float[np.ndarray, " bin"] | tuple[float, ...],
) -> float:
    """Population stability index of two distributions; 0.25 is a shift by convention.

    Siddiqi, Credit Risk Scorecards (2006): the sum of (p - q) ln(p / q). Of distributions over
    unequally many bins, the shorter one has nothing in the others.
    """
    p, q = np.full((2, max(len(found), len(usual))), SMALLEST_FRACTION)
    p[: len(found)] = np.maximum(found, SMALLEST_FRACTION)
    q[: len(usual)] = np.maximum(usual, SMALLEST_FRACTION)
    return float(((p - q) * np.log(p / q)).sum())


def effect_size(found: Moments, usual: Moments) -> float:
    """Cohen's d: the difference of two means in standard deviations; 0.5 is medium by convention.

    Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), with the root mean
    square of both standard deviations. Infinite if neither varies and they differ.
    """
    difference = found.mean - usual.mean
    spread = np.hypot(found.spread, usual.spread) / np.sqrt(2)
    if not spread:
        return math.copysign(math.inf, difference) if difference else 0.0
    return float(difference / spread)


def _row_rules(classes: int) -> dict[str, Callable[[pd.DataFrame], pd.Series]]:
    """By check: which images break its rule."""

    def contradicts(table: pd.DataFrame) -> pd.Series:
        labels = table.groupby("content", sort=False)["label"]
        return labels.transform("min") != labels.transform("max")

    return {
        "constant-images": lambda table: table["darkest"] == table["brightest"],
        "duplicates": lambda table: table.duplicated("content"),
        "contradictions": contradicts,
        "foreign-labels": lambda table: table["label"] >= classes,
    }


def _broken_rules(table: pd.DataFrame, classes: int) -> set[str]:
    # Each check is one truth value: pandera would list every failing image by itself, slowly.
    def none(offends: Callable[[pd.DataFrame], pd.Series]) -> Callable[[pd.DataFrame], bool]:
        return lambda table: not offends(table).any()

    schema = pandera.DataFrameSchema(
        {
            "darkest": pandera.Column("uint8"),
            "brightest": pandera.Column("uint8"),
            "label": pandera.Column("uint8"),
        },
        checks=[
            pandera.Check(none(offends), name=name) for name, offends in _row_rules(classes).items()
        ],
    )
    try:
        schema.validate(table, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        return {error.check.name for error in errors.schema_errors}
    return set()


def _offenders(
    name: str, table: pd.DataFrame, offends: Callable[[pd.DataFrame], pd.Series]
) -> Finding:
    found = offends(table).to_numpy()
    if name == "foreign-labels":
        labels = ", ".join(map(str, np.unique(table["label"].to_numpy()[found])))
        return in_rows(found, f"labels {labels}: ")
    return in_rows(found)


def _below(size: float, limit: float, where: str = "") -> Finding:
    return Finding(abs(size) < limit, f"{size:.2f}{where}")


def _moments(values: pd.Series) -> Moments:
    return Moments(mean=float(values.mean()), spread=float(values.std(ddof=0)))


def _class_fractions(table: pd.DataFrame) -> Float[np.ndarray, " class"]:
    fractions: np.ndarray = np.bincount(table["label"]) / len(table)
    return fractions
