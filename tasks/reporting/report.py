"""The readable record of one run: what it was told, what it met, how well it does."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version

from tasks.records import (
    ARRAY_NAMES,
    CheckResult,
    ConfidenceBin,
    DatasetRef,
    Metrics,
    ModelRef,
    OwnModel,
    Record,
    StageRecord,
    Suspects,
    TrainingPlan,
    ValidationReport,
)
from tasks.reporting.rendering import Picture, Section, Table, Tiles, html_page, markdown, trend
from tasks.settings import RunSettings

LIBRARIES = ("tensorflow", "keras", "numpy", "prefect")
MOST_CONFUSIONS = 10


class RunReport(Record):
    """Everything that a report of a run shows.

    `pictures`: PNG files by the field of Pictures, and `sheet` of a ValidationReport.
    `earlier`: the accuracies of earlier runs on the dataset, the oldest first.
    """

    settings: RunSettings
    plan: TrainingPlan
    dataset: DatasetRef
    validation: ValidationReport
    model: ModelRef
    metrics: Metrics
    suspects: Suspects | None
    pictures: dict[str, bytes]
    earlier: tuple[float, ...]
    stages: dict[str, StageRecord]
    run_name: str
    run_id: str
    finished: datetime

    @property
    def title(self) -> str:
        """For instance `mnist: accuracy 0.9751`."""
        return f"{self.dataset.name}: accuracy {self.metrics.accuracy_fraction:.4f}"

    def accuracy_markdown(self) -> str:
        """The figure, the settings, the data and the run."""
        return markdown(self.title, [self._headline(), self._run()])

    def evaluation_markdown(self) -> str:
        """How well the model does, with pictures: less than 300 KB."""
        sections = [self._headline(), *self._evaluation(), self._training(with_epochs=False)]
        return markdown(self.title, sections)

    def html(self) -> str:
        """The whole report as one page."""
        sections = [
            self._headline(),
            *self._evaluation(),
            self._training(with_epochs=True),
            self.data(),
            validation_section(self.validation, self.pictures.get("sheet")),
            _stages(self.stages),
            self._run(),
            self._settings(),
        ]
        return html_page(self.title, sections)

    def per_class(self) -> list[dict[str, object]]:
        """One row a class, figures rounded for reading."""
        return [
            {
                "class": row.label,
                "images": row.images,
                "precision": round(row.precision, 4),
                "recall": round(row.recall, 4),
                "F1": round(row.f1, 4),
            }
            for row in self.metrics.per_class
        ]

    def _headline(self) -> Section:
        metrics = self.metrics
        low, high = metrics.accuracy_interval
        mistakes = round(metrics.images * (1 - metrics.accuracy_fraction))
        tiles = Tiles(
            [
                (
                    "accuracy",
                    f"{metrics.accuracy_fraction:.4f}",
                    f"95 % interval {low:.4f} to {high:.4f}, {metrics.images:,} test images",
                ),
                ("loss", f"{metrics.loss:.4f}", "cross-entropy on the test images"),
                ("mistakes", f"{mistakes:,}", f"of {metrics.images:,} test images"),
                ("calibration error", f"{metrics.calibration_error:.4f}", "expected, ten bins"),
            ]
        )
        if not self.earlier:
            return Section("", parts=[tiles])
        change = metrics.accuracy_fraction - self.earlier[-1]
        text = f"This run after {len(self.earlier)} earlier on {self.dataset.name}: {change:+.4f}"
        line = trend([*self.earlier, metrics.accuracy_fraction])
        return Section("", parts=[tiles, Picture(text, line, "svg+xml")])

    def _run(self) -> Section:
        plan = self.plan
        facts = [
            ("run", f"{self.run_name}, {self.run_id}"),
            ("finished", f"{self.finished:%Y-%m-%d %H:%M:%S} UTC"),
            ("model", f"{plan.model_name}, {self.model.parameters:,} parameters"),
            ("training", _training(plan)),
            ("weights", f"SHA-256 {self.model.weights_sha256}"),
            ("dataset", f"SHA-256 {self.dataset.digest}"),
            ("libraries", _libraries()),
        ]
        return Section("Run", parts=[Table(("", ""), facts)])

    def _settings(self) -> Section:
        digests = [(name, getattr(self.dataset, name).sha256) for name in ARRAY_NAMES]
        return Section(
            "Settings and arrays",
            "What the recipe decided is filled in. The arrays are those that were loaded.",
            [_settings_table(self.settings, self.plan), Table(("array", "SHA-256"), digests)],
        )

    def data(self) -> Section:
        """What the images look like, how many there are of each class, and what is made of them."""
        shown = self._pictures(
            samples="The first training images of each class",
            balance="How often each class occurs",
            preprocessing="One image as loaded, and as the network reads it",
        )
        shape = f"{self.dataset.height} by {self.dataset.width} pixels"
        return Section("Data", f"Images of {shape}, {self.dataset.classes} classes.", shown)

    def _training(self, *, with_epochs: bool) -> Section:
        parts: list[Picture | Table] = [
            *self._pictures(curves="Means over the training images of an epoch, as they were met")
        ]
        if with_epochs:
            rows = [
                (epoch, f"{m.loss:.4f}", f"{m.accuracy_fraction:.4f}")
                for epoch, m in enumerate(self.model.history, start=1)
            ]
            parts.append(Table(("epoch", "loss", "accuracy"), rows))
        return Section("Training", parts=parts)

    def _evaluation(self) -> list[Section]:
        figures = [
            (c.label, c.images, *(f"{value:.4f}" for value in (c.precision, c.recall, c.f1)))
            for c in self.metrics.per_class
        ]
        sections = [
            Section(
                "Classes",
                parts=[
                    *self._pictures(confusion="Test images by true and predicted class"),
                    Table(("class", "images", "precision", "recall", "F1"), figures),
                    _most_confused(self.metrics),
                ],
            ),
            Section(
                "Calibration",
                "How far the probability of the predicted class can be taken at its word.",
                [
                    *self._pictures(
                        reliability="Accuracy by the probability of the predicted class"
                    ),
                    _reliability(self.metrics),
                ],
            ),
            Section(
                "Mistakes",
                "The wrong predictions that the model was surest of.",
                [
                    *self._pictures(mistakes="True class → predicted class, with its probability"),
                    Table(
                        ("test image", "class", "predicted", "probability"),
                        [
                            (m.row, m.label, m.predicted, f"{m.confidence:.4f}")
                            for m in self.metrics.mistakes
                        ],
                    ),
                ],
            ),
        ]
        if self.suspects is not None:
            sections.append(self._suspects(self.suspects))
        return sections

    def _suspects(self, suspects: Suspects) -> Section:
        return Section(
            "Doubtful labels",
            f"Among {suspects.images:,} training images, judged by models that were not trained "
            "on them: the probability of the label, by confident learning. The worst first.",
            [
                *self._pictures(suspects="The label, and what the image rather looks like"),
                Table(
                    ("training image", "label", "looks like", "probability of the label"),
                    [(s.row, s.label, s.suggested, f"{s.quality:.4f}") for s in suspects.found],
                ),
            ],
        )

    def _pictures(self, **texts: str) -> Sequence[Picture]:
        """The named pictures, those that there are."""
        found = self.pictures
        return [Picture(text, found[name]) for name, text in texts.items() if name in found]


def refusal_page(
    settings: RunSettings,
    dataset: str,
    report: ValidationReport,
    sheet: bytes | None,
    stages: dict[str, StageRecord],
    run_name: str,
    finished: datetime,
) -> str:
    """The report of a run that ended at its dataset, as one page."""
    facts = [
        ("run", run_name),
        ("finished", f"{finished:%Y-%m-%d %H:%M:%S} UTC"),
        ("libraries", _libraries()),
    ]
    sections = [
        validation_section(report, sheet, title=""),
        _stages(stages),
        Section("Run", parts=[Table(("", ""), facts)]),
        Section("Settings", parts=[_settings_table(settings, settings.plan)]),
    ]
    return html_page(f"Validation of {dataset}: failed", sections)


def _libraries() -> str:
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    return ", ".join([f"Python {platform.python_version()}", *versions])


def _settings_table(settings: RunSettings, plan: TrainingPlan) -> Table:
    told = settings.model_dump(mode="json", exclude={"cache_dir", "model_dir"})
    told["severity"] = ", ".join(
        f"{check}={severity}" for check, severity in told["severity"].items()
    )
    used = told | plan.model_dump(mode="json") | {"model": plan.model_name}
    return Table(
        ("setting", "value"),
        [
            (name.replace("_", " "), value)
            for name, value in used.items()
            if value not in (None, "")
        ],
    )


def _stages(stages: dict[str, StageRecord]) -> Section:
    rows = [(name, s.state, f"{s.seconds:.2f}", s.why) for name, s in stages.items()]
    return Section("Stages", parts=[Table(("stage", "state", "seconds", "why"), rows)])


def _training(plan: TrainingPlan) -> str:
    facts = [f"{plan.epochs} epochs", f"batch {plan.batch_size}", f"seed {plan.seed}"]
    if isinstance(plan.model, OwnModel):  # may have come compiled
        facts.append(f"code {plan.model.sha256[:12]}")
    else:
        facts += [
            f"{plan.hidden_units} hidden units",
            f"{plan.optimizer} at {plan.learning_rate:g} ({plan.schedule})",
            f"label smoothing {plan.label_smoothing:g}",
            f"shifts by {plan.shift_pixels} px",
        ]
    return ", ".join([*facts, f"threads {plan.threads}"])


def validation_summary(report: ValidationReport) -> str:
    """For instance `3 errors, 0 warnings; 28 of 40 checks made`."""
    errors, warnings = len(report.failed("error")), len(report.failed("warning"))
    made = sum(check.outcome != "skipped" for check in report.checks)
    return f"{errors} errors, {warnings} warnings; {made} of {len(report.checks)} checks made"


def validation_section(
    report: ValidationReport, sheet: bytes | None, title: str = "Validation"
) -> Section:
    """What failed, the images that broke a rule, and every check with what became of it."""
    failed: dict[tuple[str, ...], list[str]] = {}  # the arrays by what is said of them
    checks: dict[tuple[str, ...], list[str]] = {}
    for c in report.checks:
        outcome = f"skipped: {c.received}" if c.outcome == "skipped" else c.outcome
        checks.setdefault((c.tier, c.name, c.rule, c.severity, outcome), []).append(c.subject)
        if c.outcome == "failed":
            what = (c.severity, c.name, f"{c.rule}; found: {c.received}", _rows(c))
            failed.setdefault(what, []).append(c.subject)
    parts: list[Picture | Table] = []
    if failed:
        header = ("severity", "failed check", "rule", "rows", "array")
        parts.append(Table(header, _with_arrays(failed)))
    if sheet:
        parts.append(Picture("Images that break a rule, some for each check", sheet))
    every = ("tier", "check", "rule", "severity", "outcome", "arrays")
    parts.append(Table(every, _with_arrays(checks)))
    return Section(title, f"{validation_summary(report)}.", parts)


def _with_arrays(arrays: dict[tuple[str, ...], list[str]]) -> list[tuple[str, ...]]:
    return [(*said, ", ".join(subjects)) for said, subjects in arrays.items()]


def _rows(check: CheckResult) -> str:
    more = (
        f" and {check.failing - len(check.rows):,} more" if check.failing > len(check.rows) else ""
    )
    return ", ".join(map(str, check.rows)) + more


def _reliability(metrics: Metrics) -> Table:
    rows = [
        (f"{number / 10:.1f} … {(number + 1) / 10:.1f}", b.images, *_means(b))
        for number, b in enumerate(metrics.reliability)
    ]
    return Table(("probability", "images", "mean", "accuracy"), rows)


def _means(each: ConfidenceBin) -> tuple[str, str]:
    return (f"{each.confidence:.4f}", f"{each.accuracy_fraction:.4f}") if each.images else ("", "")


def _most_confused(metrics: Metrics) -> Table:
    pairs = [
        (count, label, predicted)
        for label, row in enumerate(metrics.confusion)
        for predicted, count in enumerate(row)
        if count and label != predicted
    ]
    pairs.sort(key=lambda pair: (-pair[0], *pair[1:]))
    rows = [(label, predicted, count) for count, label, predicted in pairs[:MOST_CONFUSIONS]]
    return Table(("class", "taken for", "images"), rows)
