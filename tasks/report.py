"""The readable record of one run, as Markdown: the same text on disk and in Prefect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from tasks.records import (
    DatasetRef,
    Metrics,
    ModelRef,
    OwnModel,
    Record,
    StageRecord,
    TrainingPlan,
    ValidationReport,
)


class RunReport(Record):
    """Everything that a report of a run shows."""

    plan: TrainingPlan
    dataset: DatasetRef
    validation: ValidationReport
    model: ModelRef
    metrics: Metrics
    stages: dict[str, StageRecord]
    run_name: str
    run_id: str
    finished: datetime

    def headline(self) -> str:
        """The figure, the settings, the data and the run: what the accuracy artifact holds."""
        metrics, plan = self.metrics, self.plan
        facts = [
            ("Accuracy", f"**{metrics.accuracy_fraction:.4f}** on {metrics.images:,} test images"),
            ("Loss", f"{metrics.loss:.4f}"),
            ("Model", f"{plan.model_name}, {self.model.parameters:,} parameters"),
            ("Training", _training_sentence(self)),
            ("Dataset", f"{self.dataset.name}, digest `{self.dataset.digest[:16]}`"),
            ("Weights", f"`{self.model.weights_sha256}`"),
            ("Run", f"{self.run_name}, `{self.run_id}`"),
            ("Finished", f"{self.finished:%Y-%m-%d %H:%M:%S} UTC"),
        ]
        title = f"# {self.dataset.name}: accuracy {metrics.accuracy_fraction:.4f}"
        return f"{title}\n\n{_table(facts[0], facts[1:])}"

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

    def markdown(self) -> str:
        """The whole report."""
        rows = self.per_class()
        classes = range(self.dataset.classes)
        sections = [
            self.headline(),
            "## Stages\n\n"
            + _table(
                ("stage", "state", "seconds", "why"),
                ((name, s.state, f"{s.seconds:.2f}", s.why) for name, s in self.stages.items()),
            ),
            "## Per class\n\n" + _table(list(rows[0]), (list(row.values()) for row in rows)),
            "## Confusion\n\nRows: the true class. Columns: the predicted one.\n\n"
            + _table(
                ("", *classes),
                ((label, *row) for label, row in zip(classes, self.metrics.confusion, strict=True)),
            ),
            "## Training\n\n"
            + _table(
                ("epoch", "loss", "accuracy"),
                (
                    (epoch, f"{m.loss:.4f}", f"{m.accuracy_fraction:.4f}")
                    for epoch, m in enumerate(self.model.history, start=1)
                ),
            ),
            "## Validation\n\n"
            + _table(
                ("array", "rule", "outcome"),
                ((c.subject, c.rule, c.outcome) for c in self.validation.checks),
            ),
        ]
        return "\n".join(sections)


def _training_sentence(report: RunReport) -> str:
    plan = report.plan
    facts = [f"{plan.epochs} epochs", f"batch {plan.batch_size}", f"seed {plan.seed}"]
    if isinstance(plan.model, OwnModel):  # may have come compiled
        facts.append(f"code `{plan.model.sha256[:12]}`")
    else:
        facts += [
            f"{plan.hidden_units} hidden units",
            f"{plan.optimizer} at {plan.learning_rate:g} ({plan.schedule})",
            f"label smoothing {plan.label_smoothing:g}",
            f"shifts by {plan.shift_pixels} px",
        ]
    return ", ".join(facts)


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
