"""Publish: leave the record of a run, in Prefect and on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile

from prefect import get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.cache.blobs import Store, errors_named, new_file, write_atomically
from tasks.errors import AccuracyTooLowError, ValidationFailedError
from tasks.orchestration.artifacts import (
    earlier_accuracies,
    publish_accuracy,
    publish_evaluation,
    publish_per_class,
    publish_validation,
)
from tasks.orchestration.ledger import current_ledger
from tasks.orchestration.stage import stage
from tasks.records import (
    ARRAY_NAMES,
    DatasetRef,
    Metrics,
    ModelRef,
    Pictures,
    RunSummary,
    Suspects,
    TrainingPlan,
    ValidationReport,
    ValidationRules,
)
from tasks.reporting.report import RunReport, refusal_page
from tasks.settings import RunSettings


@stage(cache_policy=NO_CACHE)
def publish(
    settings: RunSettings,
    plan: TrainingPlan,
    raw: DatasetRef,
    checked: ValidationReport,
    model: ModelRef,
    metrics: Metrics,
    suspects: Suspects | None,
    pictures: Pictures,
    store: Store,
) -> RunSummary:
    """Record a run: Prefect artifacts, a report as one HTML file, the model by a readable name.

    Never cached, so that every run leaves its record.

    Raises:
        AccuracyTooLowError: the accuracy is below the settings' minimum; the record is
            left all the same.
    """
    report = RunReport(
        settings=settings,
        plan=plan,
        dataset=raw,
        validation=checked,
        model=model,
        metrics=metrics,
        suspects=suspects,
        pictures={
            name: store.require(ref).read_bytes() for name, ref in pictures.stored_files().items()
        },
        earlier=earlier_accuracies(raw.name),
        stages=dict(current_ledger().stages),
        run_name=flow_run.name or "no-run",
        run_id=str(flow_run.id or ""),
        finished=datetime.now(UTC),
    )
    name = f"{raw.name}-{plan.model_name}-{model.weights_sha256[:12]}.keras"
    model_path = _export_model(settings.model_root / name, model, store)
    report_path = _write_report(settings, report.html(), report.finished)
    publish_accuracy(report)
    publish_evaluation(report)
    publish_per_class(report)
    publish_validation(checked, raw.name, report.pictures.get("sheet"), [report.data()])
    get_run_logger().info("report: %s; model: %s", report_path, model_path)
    _require_accuracy(metrics, settings)
    return RunSummary(
        dataset=raw.name,
        model=plan.model_name,
        accuracy=metrics.accuracy_fraction,
        loss=metrics.loss,
        model_path=model_path,
        weights_sha256=model.weights_sha256,
        report_path=report_path,
        flow_run_id=report.run_id,
        flow_run_name=report.run_name,
        stages=report.stages,
    )


@contextmanager
def refusal_reported(
    settings: RunSettings,
    dataset: str,  # noqa: ARG001
    rules: ValidationRules,  # noqa: ARG001
    store: Store,
) -> Iterator[None]:
    """Leave a report of a dataset that fails validation, in Prefect and on disk."""
    try:
        yield
    except ValidationFailedError as error:
        if error.report is not None and error.dataset is not None:
            _report_refusal(settings, error.dataset, error.report, store)
        raise


def _report_refusal(
    settings: RunSettings, raw: DatasetRef, report: ValidationReport, store: Store
) -> None:
    from tasks.reporting.offenders import offender_sheet

    arrays = {name: store.open_array(getattr(raw, name)) for name in ARRAY_NAMES}
    sheet = offender_sheet(report.checks, arrays)
    publish_validation(report, raw.name, sheet)
    finished, stages, run = datetime.now(UTC), current_ledger().stages, flow_run.name or ""
    page = refusal_page(settings, raw.name, report, sheet, stages, run, finished)
    get_run_logger().info("report: %s", _write_report(settings, page, finished))


def _export_model(path: Path, model: ModelRef, store: Store) -> Path:
    """Copy the model out of the cache, which may be cleared, to a name that says what it is."""
    folder = path.parent
    with errors_named(folder, option="--model-dir"):
        folder.mkdir(parents=True, exist_ok=True)
        with new_file(folder, option="--model-dir") as file:
            copyfile(store.require(model.keras_file), file.temporary)
            file.temporary.chmod(0o644)  # to be served by others, unlike the cache
            file.publish(path)
    return path


def _write_report(settings: RunSettings, page: str, finished: datetime) -> Path:
    folder = settings.model_root / "reports"
    with errors_named(folder, option="--model-dir"):
        folder.mkdir(parents=True, exist_ok=True)
    run = f"{flow_run.name or 'no-run'}-{str(flow_run.id or '')[:8]}"
    path = folder / f"{finished:%Y%m%dT%H%M%S}-{run}.html"
    write_atomically(path, page.encode(), option="--model-dir")
    return path


def _require_accuracy(metrics: Metrics, settings: RunSettings) -> None:
    if metrics.accuracy_fraction < settings.min_accuracy:
        raise AccuracyTooLowError(
            f"The test accuracy must be at least {settings.min_accuracy:.4f}.",
            received=f"{metrics.accuracy_fraction:.4f}",
            where=f"{metrics.images} test images",
            advice="Train longer, choose another model, or lower --min-accuracy.",
        )
