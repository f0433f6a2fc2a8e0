"""From pandera schemas to the results of their checks.

A rule is stated once, in a schema of `contracts` or `checks`. pandera evaluates it once, over
whole columns, and its verdict by row (`check_output`) tells the images that break it. It would
also write every failing value into a message, one at a time: four rules that each of 60,000
images breaks take 0.8 s and 150 MB that way, 0.06 s and 4 MB with one failure case for each.

This module imports pandera, xarray and with them pandas (0.8 s): import it inside the stages
that compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors
from pandera.pandas import Check, DataFrameSchema
from pandera.xarray import DataArraySchema
from xarray import DataArray

from tasks import IMPORTS
from tasks.errors import ValidationFailedError
from tasks.records import CheckResult, ChosenSeverity, Tier, ValidationReport

SWITCHED_OFF = "switched off"
SHOWN_ROWS = 20

Arrays = Mapping[str, np.ndarray]
Schema = DataArraySchema | DataFrameSchema
Contracts = Mapping[str, Schema]  # by array
Holds = Callable[[Any], Any]
Says = Callable[[Any], str]


class Rule(Check):
    """A pandera check with its text, and with what to say where it does not hold.

    `holds`: one truth value of an array or table, or one for each image of a table. `received`:
    what is there instead, from that array or table, or from the rows of the images that break
    the rule, before how many there are.
    """

    def __init__(self, name: str, text: str, holds: Holds, received: Says = lambda _: "") -> None:
        def plain(found: Any) -> Any:  # xarray's minimum would pass over NaN
            return holds(np.asarray(found) if isinstance(found, DataArray) else found)

        super().__init__(plain, name=name, error=text, n_failure_cases=1, ignore_na=False)
        self.received = received

    @classmethod
    def get_backend(cls, check_obj: Any) -> Any:
        """Any check's backend: pandera looks for one of this very class."""
        return Check.get_backend(check_obj)

    def failure(self, found: Any, holds: Any) -> dict[str, Any]:
        """What a result says, from pandera's verdict: one, or one for each image."""
        if not isinstance(holds, pd.Series):
            return {"outcome": "failed", "received": self.received(found)}
        broken = found[~holds]
        return {
            "outcome": "failed",
            "received": f"{self.received(broken)}{len(broken)} of {len(found)} images",
            "rows": tuple(broken.index[:SHOWN_ROWS].tolist()),
            "failing": len(broken),
        }


def check(
    tier: Tier,
    contracts: Contracts,
    found: Callable[[str], Any],
    severity: Mapping[Any, ChosenSeverity],
    skipped: str = "",
) -> tuple[CheckResult, ...]:
    """Hold what is found of each array to its contract; one result for each rule.

    `severity` is that of checks that are settings; others are errors. `skipped` is why the tier
    is not run, if it is not.
    """
    results = []
    for subject, schema in contracts.items():
        examined = None if skipped else found(subject)
        broken = {} if skipped else _broken(schema, examined)
        for rule in _stated(schema):
            chosen = severity.get("drift" if tier == "drift" else rule.name, "error")
            if reason := SWITCHED_OFF if chosen == "off" else skipped:
                outcome = {"outcome": "skipped", "received": reason}
            elif rule.name in broken:
                outcome = rule.failure(examined, broken[rule.name])
            else:
                outcome = {"outcome": "passed"}
            result = CheckResult(
                tier=tier,
                name=rule.name,
                subject=subject,
                rule=rule.error,
                severity="warning" if chosen == "off" else chosen,
                **outcome,
            )
            results.append(result)
    return tuple(results)


def require_passed(report: ValidationReport, dataset: str) -> None:
    """Raise ValidationFailedError, one line a failure, unless every check that is an error held."""
    if failed := report.failed("error"):
        made = sum(check.outcome != "skipped" for check in report.checks)
        lines = "".join(
            f"\n  {check.subject}: {check.rule}. Received: {check.received}{_rows(check)}."
            for check in failed
        )
        raise ValidationFailedError(
            f"{len(failed)} of {made} checks failed for {dataset}:{lines}\n",
            advice="Fix the dataset and run again; nothing was trained.",
        )


def _rows(check: CheckResult) -> str:
    more = ", …" if check.failing > len(check.rows) else ""
    return f" in rows {', '.join(map(str, check.rows))}{more}" if check.rows else ""


def _stated(schema: Schema) -> list[Rule]:
    """The rules of a schema, in order; of arrays also those that pandera has of its own."""
    if isinstance(schema, DataFrameSchema) or not schema.sizes:
        return list(schema.checks)
    sizes = ", ".join(f"{axis} {size}" for axis, size in schema.sizes.items())
    return [
        Rule("dims", f"axes are ({', '.join(schema.sizes)})", bool, lambda a: f"{a.ndim} axes"),
        Rule("sizes", f"sizes are {sizes}", bool, lambda a: f"{a.shape}"),
        Rule("dtype", f"dtype is {schema.dtype}", bool, lambda a: f"{a.dtype}"),
        *schema.checks,
    ]


# Whatever PANDERA_VALIDATION_ENABLED says: a check that was not made must not read as passed.
@config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA)
def _broken(schema: Schema, found: Any) -> dict[str, Any]:
    """The names of the rules that do not hold, with pandera's verdict on each."""
    if isinstance(schema, DataArraySchema):
        axes = schema.dims if schema.dims and len(schema.dims) == found.ndim else None
        found = DataArray(found, dims=axes)
    view = found.copy(deep=False)  # pandera keeps the schema for as long as what it was given
    try:
        with IMPORTS:  # pandera imports its backends when they are first needed
            schema.validate(view, lazy=True, inplace=True)
    except SchemaErrors as errors:
        return {  # of "dims", "dtype(uint8)" or one of our rules
            getattr(error.check, "name", error.check).partition("(")[0]: error.check_output
            for error in errors.schema_errors
        }
    return {}
