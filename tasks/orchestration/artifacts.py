"""What a run leaves in Prefect: versioned artifacts under one stable key per dataset."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.report import RunReport


def publish_accuracy(report: RunReport) -> None:
    """`<dataset>-accuracy`: the figure with its settings, data and run."""
    create_markdown_artifact(
        report.headline(),
        key=f"{report.dataset.name}-accuracy",
        description=f"Test accuracy {report.metrics.accuracy_fraction:.4f}",
    )


def publish_per_class(report: RunReport) -> None:
    """`<dataset>-per-class`: precision, recall and F1, a row a class."""
    create_table_artifact(
        report.per_class(),
        key=f"{report.dataset.name}-per-class",
        description="Precision, recall and F1 per class",
    )
