"""Validate: the gate between what was loaded and everything that relies on it."""

from __future__ import annotations

from prefect import get_run_logger

from tasks.orchestration.policy import CODE_AND_INPUTS
from tasks.orchestration.stage import stage
from tasks.records import ARRAY_NAMES, DatasetRef, ValidationReport
from tasks.store import Store


@stage(cache_policy=CODE_AND_INPUTS)
def validate(raw: DatasetRef, store: Store) -> ValidationReport:
    """Check the loaded arrays against their contract.

    Raises:
        ValidationFailedError: with every failed check, not only the first.
    """
    from tasks.schema import check_arrays, raw_contracts, require_passed

    arrays = {name: store.open_array(getattr(raw, name)) for name in ARRAY_NAMES}
    report = ValidationReport(checks=check_arrays(arrays, raw_contracts(raw, arrays)))
    require_passed(report, raw.name)
    get_run_logger().info("%d checks passed", len(report.checks))
    return report
