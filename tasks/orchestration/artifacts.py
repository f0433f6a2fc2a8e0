"""What a run keeps in Prefect: artifacts under stable keys, a version for each run."""

from __future__ import annotations

from typing import Literal

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.reporting.rendering import as_markdown
from tasks.reporting.report import Report


def publish_evaluation(report: Report) -> None:
    """Three artifacts of how well the model does.

    `<dataset>-accuracy`: the figure with its settings, data and run, after earlier ones.
    `<dataset>-evaluation`: figures per class and pictures of what goes wrong.
    `<dataset>-per-class`: precision, recall and F1, a row a class.
    """
    assert report.metrics is not None, "a run that was evaluated has metrics"
    accuracy = f"{report.metrics.accuracy_fraction:.4f}"
    _publish(report, "accuracy", f"Test accuracy {accuracy}")
    _publish(report, "evaluation", f"Accuracy {accuracy}, by class, with mistakes")
    create_table_artifact(
        [
            {
                "class": as_markdown(report.class_names[each.label]),
                "images": each.images,
                "precision": round(each.precision, 4),
                "recall": round(each.recall, 4),
                "F1": round(each.f1, 4),
            }
            for each in report.metrics.per_class
        ],
        key=f"{report.dataset.name}-per-class",
        description="Precision, recall and F1 per class",
    )


def publish_validation(report: Report) -> None:
    """`<dataset>-validation`: every check with its outcome, the images that they name, the data."""
    _publish(report, "validation", report.validation_summary)


def _publish(
    report: Report, kind: Literal["accuracy", "evaluation", "validation"], description: str
) -> None:
    key = f"{report.dataset.name}-{kind}"
    create_markdown_artifact(report.markdown(kind), key=key, description=description)
