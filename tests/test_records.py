"""Records: everything that stands in one counts in the keys of the stages that are given it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trainings import dataset

from tasks.cache.keys import content_of
from tasks.records import (
    ArrayRef,
    BlobRef,
    CheckResult,
    ClassMetrics,
    ConfidenceBin,
    EpochMetrics,
    Metrics,
    Mistake,
    ModelRef,
    Moments,
    OwnModel,
    Pictures,
    Profile,
    Reading,
    Record,
    Suspect,
    Suspects,
    ValidationReport,
    ValidationRules,
)
from tasks.settings import LocalRunSettings

SHA256 = 64 * "a"
FRACTIONS = {"accuracy_fraction": 0.5, "loss": 0.25}
PICTURE = BlobRef(sha256=SHA256, size_bytes=9, suffix=".png")
PROFILE = Profile(
    name="mnist",
    images=4,
    brightness=Moments(mean=1.5, spread=0.5),
    contrast=Moments(mean=1.5, spread=0.5),
    pixels=(1.0, *9 * [0.0]),
    classes=(1.0,),
    ink=(Moments(mean=1.5, spread=0.5),),
    upright=(Moments(mean=1.5, spread=0.5),),
)
OWN = OwnModel(name="tiny", file="nets.py", sha256=SHA256, path=Path("nets.py"))
# An example of whatever a stage is given, nothing in it empty.
GIVEN: dict[str, Record] = {
    "plan": LocalRunSettings().plan,
    "plan of an own model": LocalRunSettings().plan.model_copy(update={"model": OWN}),
    "dataset": dataset(8, 6, 3).model_copy(update={"test_fraction": 0.5}),
    "reading": Reading(image_size=(8, 6), test_fraction=0.5, seed=1),
    "rules": ValidationRules(
        severity={"leakage": "error"}, max_psi=0.5, max_effect=0.5, profile=PROFILE, shipped=PROFILE
    ),
    "report": ValidationReport(
        checks=(
            CheckResult(
                tier="rows",
                name="duplicates",
                subject="x_train",
                rule="no image occurs again",
                severity="warning",
                outcome="failed",
                received="one",
                rows=(21,),
                failing=1,
            ),
        )
    ),
    "model": ModelRef(
        keras_file=BlobRef(sha256=SHA256, size_bytes=9, suffix=".keras"),
        weights_sha256=SHA256,
        parameters=50_890,
        history=(
            EpochMetrics(validation_loss=0.5, validation_accuracy_fraction=0.25, **FRACTIONS),
        ),
    ),
    "metrics": Metrics(
        accuracy_interval=(0.25, 0.75),
        images=2,
        per_class=(ClassMetrics(label=0, images=2, precision=0.5, recall=0.5, f1=0.5),),
        confusion=((1, 1),),
        calibration_error=0.5,
        reliability=(ConfidenceBin(confidence=0.5, accuracy_fraction=0.5, images=2),),
        mistakes=(Mistake(row=1, label=0, predicted=1, confidence=0.75),),
        probabilities=ArrayRef(sha256=SHA256, size_bytes=8, dtype="float32", shape=(2, 2)),
        **FRACTIONS,
    ),
    "suspects": Suspects(found=(Suspect(row=1, label=0, suggested=1, quality=0.25),), images=2),
    "pictures": Pictures(drawn={"curves": PICTURE}),
}
# Two saved files of one model differ by their date, and a place is no content.
UNCOUNTED = {"keras_file", "path"}


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one thing in it changed, each in turn, and where that is."""
    if isinstance(value, tuple):
        for where, others in changes(dict(enumerate(value))):
            yield where, tuple(others.values())
    elif isinstance(value, Record | dict):
        for name, part in dict(value).items():
            for where, other in changes(part):
                changed = {name: other}
                whole = (
                    value | changed if isinstance(value, dict) else value.model_copy(update=changed)
                )
                yield f"{name}.{where}", whole
    else:
        yield "", another(value)


def another(value: str | Path | float | None) -> Any:
    if isinstance(value, str | Path):
        return type(value)(f"{value}x")
    return (value or 0) + 1


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of values that are made up
@pytest.mark.parametrize("given", GIVEN)
def test_everything_in_a_record_counts_in_a_key(given: str) -> None:
    """What is drawn or printed from it is drawn and printed again."""
    record, uncounted = GIVEN[given], set[str]()
    for where, other in changes(record):
        assert other != record
        if content_of(other) == content_of(record):
            uncounted |= {*where.split(".")} & UNCOUNTED or {where}
    assert uncounted <= UNCOUNTED
