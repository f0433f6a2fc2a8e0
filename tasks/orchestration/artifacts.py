"""What a run leaves in Prefect: artifacts under one stable key per dataset.

Accuracy, figures per class and validation are versioned, one for each run; the progress moves.
"""

from __future__ import annotations

import logging
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event, Thread
from typing import get_args
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext

from tasks.records import Severity, ValidationReport
from tasks.report import RunReport

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
PAUSE_PER_REQUEST = 100  # so that requests take at most a hundredth of the time
LAST_SECONDS = 2.0  # for the request that says how it ended


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


def publish_validation(report: ValidationReport, dataset: str, sheet: bytes | None) -> None:
    """`<dataset>-validation`: every check, and a picture of offending images, a PNG.

    Outside a run, nothing is left.
    """
    if FlowRunContext.get() is None:
        return
    failed = {severity: len(report.failed(severity)) for severity in get_args(Severity)}
    summary = ", ".join(f"{count} {severity}s" for severity, count in failed.items())
    header = ("tier", "check", "array", "rule", "outcome", "severity", "found", "rows")
    lines = [header, ("---",) * len(header)]
    for check in report.checks:
        more = ", …" if check.failing > len(check.rows) else ""
        rows = ", ".join(map(str, check.rows)) + more
        outcome = f"**{check.outcome}**" if check.outcome == "failed" else check.outcome
        texts = (check.rule, outcome, check.severity, check.received, rows)
        lines.append((check.tier, check.name, check.subject, *texts))
    table = "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)
    picture = b64encode(sheet).decode() if sheet else ""
    create_markdown_artifact(
        f"# {dataset}: {summary}\n\n{table}"
        + (f"\n![offending images](data:image/png;base64,{picture})\n" if picture else ""),
        key=f"{dataset}-validation",
        description=f"Validation: {summary}",
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


@contextmanager
def live_progress(dataset: str) -> Iterator[Callable[[float], None]]:
    """`<dataset>-training`: how far the current task is, while it runs.

    Yields a function that takes the fraction that is done. It costs nothing: a thread tells
    Prefect now and then. Outside a task run, and while the server is away, nobody is told.
    """
    if TaskRunContext.get() is None:
        yield lambda _: None
        return
    fraction, ended = 0.0, Event()

    def show(done_fraction: float) -> None:
        nonlocal fraction
        fraction = done_fraction

    def tell() -> None:
        try:
            started = time.perf_counter()
            artifact = create_progress_artifact(0.0, f"{dataset}-training", "Epochs trained")
            assert isinstance(artifact, UUID), "called in a thread without an event loop"
            while not ended.is_set():
                took_seconds = time.perf_counter() - started
                ended.wait(max(PAUSE_SECONDS, PAUSE_PER_REQUEST * took_seconds))
                started = time.perf_counter()
                update_progress_artifact(artifact, round(100 * fraction, 1))
        except Exception:  # whatever it is: training does not depend on it
            logger.debug("no progress in Prefect", exc_info=True)

    thread = Thread(target=copy_context().run, args=(tell,), daemon=True)
    thread.start()
    try:
        yield show
    finally:
        ended.set()
        thread.join(LAST_SECONDS)
