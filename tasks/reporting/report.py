"""The readable record of one run: what it was told, what it met, how well it does.

    report.html()                    one page that stands alone: templates/report.html.j2
    report.markdown("evaluation")    for Prefect, likewise: templates/evaluation.md.j2

Neither needs the network: pictures are data: URIs, the style is in the page. What a report says
stands once, in templates/sections.j2; how it is written, in templates/html.j2 and markdown.j2.
"""

from __future__ import annotations

import platform
from datetime import datetime
from importlib.metadata import version
from typing import Literal

from tasks.records import (
    CheckResult,
    DatasetRef,
    Metrics,
    ModelRef,
    Record,
    StageRecord,
    Suspects,
    TrainingPlan,
    ValidationReport,
)
from tasks.reporting.rendering import rendered
from tasks.settings import RunSettings

MOST_CONFUSIONS = 10
LONGEST_NAME = 40  # of a class


class Report(Record):
    """Everything that a report of a run shows.

    Without `model` and `metrics` it is of a run that ended at its validation. `pictures`: PNG
    files by name, see `illustrate_data` and `illustrate`. `earlier`: accuracies of this model
    on this dataset, the oldest first.
    """

    settings: RunSettings
    plan: TrainingPlan
    dataset: DatasetRef
    validation: ValidationReport
    model: ModelRef | None = None
    metrics: Metrics | None = None
    suspects: Suspects | None = None
    pictures: dict[str, bytes]
    earlier: tuple[float, ...] = ()
    stages: dict[str, StageRecord]
    run_name: str
    run_id: str
    finished: datetime

    def html(self) -> str:
        """The whole report as one page."""
        return rendered("html", "report.html.j2", report=self)

    def markdown(self, artifact: Literal["accuracy", "evaluation", "validation"]) -> str:
        """The part of it that an artifact shows: less than 300 KB."""
        return rendered("markdown", f"{artifact}.md.j2", report=self)

    @property
    def validation_summary(self) -> str:
        """For instance `3 errors, 0 warnings; 28 of 40 checks made`."""
        report = self.validation
        errors, warnings = len(report.failed("error")), len(report.failed("warning"))
        made = sum(check.outcome != "skipped" for check in report.checks)
        return f"{errors} errors, {warnings} warnings; {made} of {len(report.checks)} checks made"

    @property
    def checks(self) -> list[tuple[CheckResult, str]]:
        """Every check with its arrays: those that differ in their arrays only are one."""
        alike: dict[str, list[CheckResult]] = {}
        for check in self.validation.checks:
            alike.setdefault(check.model_dump_json(exclude={"subject"}), []).append(check)
        return [(some[0], ", ".join(check.subject for check in some)) for some in alike.values()]

    @property
    def class_names(self) -> list[str]:
        """By label, cut so that tables of 256 classes fit into an artifact."""
        return [
            name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
            for name in self.dataset.class_names
        ]

    @property
    def most_confused(self) -> list[tuple[str, str, int]]:
        """Class, what it was taken for, how many images; the most frequent first."""
        names = self.class_names
        pairs = [
            (names[label], names[predicted], count)
            for label, row in enumerate(self.metrics.confusion if self.metrics else ())
            for predicted, count in enumerate(row)
            if count and label != predicted
        ]
        return sorted(pairs, key=lambda pair: -pair[2])[:MOST_CONFUSIONS]

    @property
    def chosen(self) -> dict[str, object]:
        """The settings by name, those that the recipe decided filled in."""
        told = self.settings.model_dump(mode="json", exclude={"cache_dir", "model_dir"})
        severity = ", ".join(f"{check}={level}" for check, level in told["severity"].items())
        used = told | self.plan.model_dump(mode="json")
        used |= {"severity": severity, "model": self.plan.model_name}
        return {name.replace("_", " "): used[name] for name in used if used[name] not in (None, "")}

    @property
    def libraries(self) -> str:
        """What it ran with, for instance `Python 3.11.7, tensorflow 2.21.0, …`."""
        names = ("tensorflow", "keras", "numpy", "prefect")
        versions = "".join(f", {name} {version(name)}" for name in names)
        return f"Python {platform.python_version()}{versions}"
