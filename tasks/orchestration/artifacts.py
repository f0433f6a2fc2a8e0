"""What a run leaves in Prefect: artifacts under stable keys, a version for each run."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.context import FlowRunContext

from tasks.orchestration.events import tell_dropped_accuracy, tell_failed_validation
from tasks.records import ValidationReport
from tasks.reporting.rendering import Section, markdown
from tasks.reporting.report import RunReport, validation_section, validation_summary

logger = logging.getLogger(__name__)

HISTORY_RUNS = 30
ACCURACY = re.compile(r"Test accuracy ([01]\.\d+)")


def publish_accuracy(report: RunReport) -> None:
    """`<dataset>-accuracy`: the figure with its settings, data and run, after earlier ones."""
    tell_dropped_accuracy(report.dataset.name, report.metrics.accuracy_fraction, report.earlier)
    create_markdown_artifact(
        report.accuracy_markdown(),
        key=f"{report.dataset.name}-accuracy",
        description=f"Test accuracy {report.metrics.accuracy_fraction:.4f}",
    )


def publish_evaluation(report: RunReport) -> None:
    """`<dataset>-evaluation`: figures per class and pictures of what goes wrong."""
    create_markdown_artifact(
        report.evaluation_markdown(),
        key=f"{report.dataset.name}-evaluation",
        description=f"Accuracy {report.metrics.accuracy_fraction:.4f}, by class, with mistakes",
    )


def publish_per_class(report: RunReport) -> None:
    """`<dataset>-per-class`: precision, recall and F1, a row a class."""
    create_table_artifact(
        report.per_class(),
        key=f"{report.dataset.name}-per-class",
        description="Precision, recall and F1 per class",
    )


def publish_validation(
    report: ValidationReport, dataset: str, sheet: bytes | None, more: Sequence[Section] = ()
) -> None:
    """`<dataset>-validation`: every check with its outcome, the images that they name, and more.

    Outside a run, nothing is left.
    """
    if FlowRunContext.get() is None:
        return
    failed, summary = bool(report.failed("error")), validation_summary(report)
    if failed:
        tell_failed_validation(dataset, summary)
    create_markdown_artifact(
        markdown(
            f"Validation of {dataset}{': failed' if failed else ''}",
            [validation_section(report, sheet, title=""), *more],
        ),
        key=f"{dataset}-validation",
        description=summary,
    )


def earlier_accuracies(dataset: str) -> tuple[float, ...]:
    """The accuracies of the latest runs on a dataset, the oldest first; none if unreachable."""
    try:
        with get_client(sync_client=True) as client:
            versions = client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[f"{dataset}-accuracy"])),
                sort=ArtifactSort.CREATED_DESC,
                limit=HISTORY_RUNS,
            )
    except Exception:  # whatever it is: the record does not depend on it
        logger.debug("no earlier accuracies from Prefect", exc_info=True)
        return ()
    found = [ACCURACY.match(version.description or "") for version in reversed(versions)]
    return tuple(float(match[1]) for match in found if match)
