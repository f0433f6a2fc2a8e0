"""Publish: keep the record of a run, in Prefect and on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.runtime import flow_run

from tasks.cache.blobs import Store, errors_named, write_atomically
from tasks.errors import AccuracyTooLowError, ValidationFailedError
from tasks.orchestration.account import Account
from tasks.orchestration.artifacts import publish_evaluation, publish_validation
from tasks.orchestration.events import tell_dropped_accuracy, tell_failed_validation
from tasks.orchestration.stage import stage
from tasks.records import (
    ARRAY_NAMES,
    DatasetRef,
    Metrics,
    ModelRef,
    OwnModel,
    Pictures,
    RunSummary,
    Suspects,
    TrainingPlan,
    ValidationReport,
)
from tasks.reporting.history import CompletedRun, append_run, earlier_accuracies
from tasks.reporting.report import Report
from tasks.settings import RunSettings


@stage(cached=False)
def publish(
    settings: RunSettings,
    plan: TrainingPlan,
    raw: DatasetRef,
    checked: ValidationReport,
    model: ModelRef,
    metrics: Metrics,
    suspects: Suspects | None,
    of_data: Pictures,
    of_model: Pictures,
    store: Store,
) -> RunSummary:
    """Record a run: Prefect artifacts, a report as one HTML file, the model by a readable name.

    And a line in the history of accuracies. Never cached, so that every run has its record.
    Raises AccuracyTooLowError below the settings' minimum; the record is still written.
    """
    root, own = settings.model_root, plan.model
    called = f"{own.file}:{own.name}" if isinstance(own, OwnModel) else own
    earlier = earlier_accuracies(root, raw.name, called)
    drawn = of_data.drawn | of_model.drawn
    pictures = {name: store.read(ref) for name, ref in drawn.items()}
    asked = {"settings": settings, "plan": plan, "dataset": raw, "validation": checked}
    trained = {"model": model, "metrics": metrics, "suspects": suspects, "earlier": earlier}
    report = _report(store, **asked, **trained, pictures=pictures)
    name = f"{raw.name}-{plan.model_name}-{model.weights_sha256[:12]}.keras"
    keras_file = store.read(model.keras_file)
    summary = RunSummary(
        dataset=raw.name,
        model=plan.model_name,
        accuracy=metrics.accuracy_fraction,
        loss=metrics.loss,
        model_path=_written(root / name, keras_file),
        weights_sha256=model.weights_sha256,
        report_path=_written_report(report),
        flow_run_id=report.run_id,
        flow_run_name=report.run_name,
        stages=report.stages,
    )
    tell_dropped_accuracy(raw.name, called, summary.accuracy, earlier)
    publish_evaluation(report)
    publish_validation(report)
    kept = summary.model_dump(include={"dataset", "accuracy", "loss", "weights_sha256"})
    ran = {"finished": report.finished, "run_name": report.run_name, "run_id": report.run_id}
    append_run(root, CompletedRun(**kept, **ran, model=called))
    get_run_logger().info("report: %s; model: %s", summary.report_path, summary.model_path)
    if summary.accuracy < settings.min_accuracy:
        raise AccuracyTooLowError(
            f"The test accuracy must be at least {settings.min_accuracy:.4f}.",
            received=f"{summary.accuracy:.4f}",
            where=f"{metrics.images} test images",
            advice="Train longer, choose another model, or lower --min-accuracy.",
        )
    return summary


@contextmanager
def refusal_reported(settings: RunSettings, plan: TrainingPlan, store: Store) -> Iterator[None]:
    """Report a dataset that fails its validation, in Prefect and on disk."""
    try:
        yield
    except ValidationFailedError as error:
        if error.dataset is not None and error.report is not None:
            from tasks.reporting.pictures import offender_sheet

            arrays = {name: store.open_array(getattr(error.dataset, name)) for name in ARRAY_NAMES}
            sheet = offender_sheet(error.report.checks, arrays, error.dataset.class_names)
            pictures = {"sheet": sheet} if sheet else {}
            checked = {"dataset": error.dataset, "validation": error.report}
            report = _report(store, settings=settings, plan=plan, **checked, pictures=pictures)
            get_run_logger().info("report: %s", _written_report(report))
            tell_failed_validation(error.dataset.name, report.validation_summary)
            publish_validation(report)
        raise


def _report(store: Store, **shown: Any) -> Report:
    """The report of the run that is under way, its stages as they are by now."""
    return Report(
        stages=Account(store, flow_run.id).stages(),
        run_name=flow_run.name or "no-run",
        run_id=str(flow_run.id or ""),
        finished=datetime.now(UTC),
        **shown,
    )


def _written_report(report: Report) -> Path:
    name = f"{report.finished:%Y%m%dT%H%M%S}-{report.run_name}-{report.run_id[:8]}.html"
    return _written(report.settings.model_root / "reports" / name, report.html().encode())


def _written(path: Path, content: bytes) -> Path:
    """A new file in the model folder, to be read by others, unlike the cache."""
    with errors_named(path.parent, option="--model-dir"):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, option="--model-dir", mode=0o644)
    return path
