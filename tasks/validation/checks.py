"""The tiers of validation: which checks there are, and what became of each.

files → structure → rows → splits → drift. A tier is only run if no error was found before
it, and what was not run says so: it never reads as passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool

from tasks.records import (
    ARRAY_NAMES,
    CheckName,
    CheckResult,
    ChosenSeverity,
    Tier,
    ValidationReport,
    ValidationRules,
)

EARLIER_FAILED = "an earlier tier failed"
SWITCHED_OFF = "switched off"
NO_PROFILE = "no profile: write one with mnist-profile"
SHOWN_ROWS = 20

IMAGES, LABELS = ("x_train", "x_test"), ("y_train", "y_test")
EFFECT = "at most {max_effect:g} from the profile's"
# By tier and name: what holds, and the arrays that it is asked of.
PLAN: dict[Tier, dict[str, tuple[str, tuple[str, ...]]]] = {
    "files": {"integrity": ("checksum and header agree with the bytes", ARRAY_NAMES)},
    "structure": {
        "dims": ("axes are those of its contract", ARRAY_NAMES),
        "sizes": ("sizes are those of its contract", ARRAY_NAMES),
        "dtype": ("dtype is uint8", ARRAY_NAMES),
        "span": ("pixels span more than 0 and 1", IMAGES),
        "classes": ("each class occurs", LABELS),
    },
    "rows": {
        "constant-images": ("no image is blank or all of one value", IMAGES),
        "duplicates": ("no image occurs again in its split", IMAGES),
        "contradictions": ("equal images of a split have equal labels", LABELS),
        "foreign-labels": ("labels are classes that both splits have", LABELS),
    },
    "splits": {
        "leakage": ("no test image is among the training images", ("x_test",)),
        "class-balance": (
            "classes are as frequent as in training: PSI below {max_psi:g}",
            LABELS[1:],
        ),
    },
    "drift": {
        "drift-brightness": (
            "images' means: Cohen's d from the profile below {max_effect:g}",
            IMAGES,
        ),
        "drift-contrast": (
            "images' spreads: Cohen's d from the profile below {max_effect:g}",
            IMAGES,
        ),
        "drift-pixels": (
            "pixel values in ten bins: PSI from the profile below {max_psi:g}",
            IMAGES,
        ),
        "drift-classes": ("frequency of classes: PSI from the profile below {max_psi:g}", LABELS),
        "drift-ink": ("each class's ink: Cohen's d from the profile below {max_effect:g}", LABELS),
    },
}


class Finding(NamedTuple):
    """What a check found: whether it holds, else what was there instead, and in which images."""

    holds: bool
    received: str = ""
    rows: tuple[int, ...] = ()
    failing: int = 0


def in_rows(offends: Bool[np.ndarray, " image"], what: str = "") -> Finding:
    """The finding of a check of single images, from which of them break its rule."""
    rows = np.flatnonzero(offends)
    received = f"{what}{rows.size} of {offends.size} images"
    return Finding(not rows.size, received, tuple(rows[:SHOWN_ROWS].tolist()), rows.size)


def concluded(
    tier: Tier, findings: Mapping[tuple[str, str], Finding], rules: ValidationRules
) -> tuple[CheckResult, ...]:
    """A tier's checks from what was found, by check and array."""
    results = []
    for check in skipped(tier, SWITCHED_OFF, rules):
        found = findings[check.name, check.subject]
        if _severity(check.tier, check.name, rules) == "off":
            results.append(check)
        elif found.holds:
            results.append(check.model_copy(update={"outcome": "passed", "received": ""}))
        else:
            values = {**found._asdict(), "outcome": "failed"}
            del values["holds"]
            results.append(check.model_copy(update=values))
    return tuple(results)


def skipped(tier: Tier, reason: str, rules: ValidationRules) -> tuple[CheckResult, ...]:
    """A tier's checks, none of them made."""
    checks = []
    for name, (rule, subjects) in PLAN[tier].items():
        severity = _severity(tier, name, rules)
        checks += [
            CheckResult(
                tier=tier,
                name=name,
                subject=subject,
                rule=rule.format_map(dict(rules)),
                severity="warning" if severity == "off" else severity,
                outcome="skipped",
                received=SWITCHED_OFF if severity == "off" else reason,
            )
            for subject in subjects
        ]
    return tuple(checks)


def unread(error: Exception, rules: ValidationRules) -> ValidationReport:
    """The report of a dataset that could not be loaded."""
    failed = Finding(holds=False, received=str(error))
    checks = concluded("files", {("integrity", name): failed for name in ARRAY_NAMES}, rules)
    rest = [tier for tier in PLAN if tier != "files"]
    return ValidationReport(
        checks=checks + tuple(c for tier in rest for c in skipped(tier, EARLIER_FAILED, rules))
    )


def _severity(tier: Tier, name: str, rules: ValidationRules) -> ChosenSeverity:
    chosen = cast("CheckName", "drift" if tier == "drift" else name)
    return rules.severity.get(chosen, "error")  # what is no setting is an error
