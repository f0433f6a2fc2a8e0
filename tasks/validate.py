"""Validate: the gate between what was loaded and everything that relies on it."""

from __future__ import annotations

from prefect import get_run_logger

from tasks import IMPORTS
from tasks.cache.blobs import Store
from tasks.errors import ValidationFailedError
from tasks.orchestration.stage import stage
from tasks.records import ARRAY_NAMES, DatasetRef, ValidationReport, ValidationRules


@stage()
def validate(raw: DatasetRef, rules: ValidationRules, store: Store) -> ValidationReport:
    """Check the loaded arrays, tier by tier.

    Raises ValidationFailedError with every failed check that is an error, and the whole report.
    """
    with IMPORTS:
        from tasks.validation.checks import examine
        from tasks.validation.rules import require_passed

    arrays = {name: store.open_array(getattr(raw, name)) for name in ARRAY_NAMES}
    report = examine(raw, arrays, rules)
    try:
        require_passed(report, raw.name)
    except ValidationFailedError as error:
        error.report, error.dataset = report, raw
        raise
    for check in (warnings := report.failed("warning")):
        get_run_logger().warning("%s: %s. Received: %s", check.subject, check.rule, check.received)
    passed = sum(check.outcome == "passed" for check in report.checks)
    get_run_logger().info("%d checks passed, %d warnings", passed, len(warnings))
    return report
