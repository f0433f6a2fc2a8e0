"""The contracts of the arrays, as pandera schemas over xarray.

Each rule is a reduction to one truth value, so that a failing check costs no more than a
passing one. All failures are collected, not only the first. Only checks that can fail
stand here: 0 … 255 on a uint8 would not.

This module imports pandera, xarray and with them pandas (0.8 s): import it inside the
stages that compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandera.xarray as pandera
import xarray

from tasks.errors import ValidationFailedError
from tasks.records import SPLITS, CheckResult, DatasetRef, ValidationReport

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rule:
    """A property of a whole array: its name and text, the test, and what to show if it fails."""

    name: str
    text: str
    holds: Callable[[np.ndarray], bool]
    received: Callable[[np.ndarray], str]


@dataclass(frozen=True)
class Contract:
    """What one array must be. `sizes` names the axes in order, with their lengths."""

    dtype: type[np.generic]
    sizes: dict[str, int]
    rules: tuple[Rule, ...]


def raw_contracts(dataset: DatasetRef, arrays: Arrays) -> dict[str, Contract]:
    """Images (image, row, column) uint8 and labels (image,) uint8, as loaded.

    As many images as labels; the same rows and columns in both splits; pixels that span
    more than 0 and 1, so that they are not already scaled; every class in both splits.
    """
    contracts = {}
    for split in SPLITS:
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        sizes = {"image": len(labels), "row": dataset.height, "column": dataset.width}
        contracts[f"x_{split}"] = Contract(np.uint8, sizes, (_SPAN,))
        contracts[f"y_{split}"] = Contract(
            np.uint8, {"image": len(images)}, (_every_class(dataset.classes),)
        )
    return contracts


def ready_contracts(dataset: DatasetRef, arrays: Arrays) -> dict[str, Contract]:
    """Images (image, pixel) float32 in [0, 1] and labels (image, class) float32 one-hot."""
    contracts = {}
    for split in SPLITS:
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        sizes = {"image": len(labels), "pixel": dataset.height * dataset.width}
        contracts[f"x_{split}"] = Contract(np.float32, sizes, (_UNIT_RANGE,))
        contracts[f"y_{split}"] = Contract(
            np.float32, {"image": len(images), "class": dataset.classes}, (_ONE_HOT,)
        )
    return contracts


def check_arrays(arrays: Arrays, contracts: dict[str, Contract]) -> tuple[CheckResult, ...]:
    """Check every array against its contract; one result per rule, passed or not."""
    results: list[CheckResult] = []
    for subject, contract in contracts.items():
        results += _check_array(subject, arrays[subject], contract)
    return tuple(results)


def require_passed(report: ValidationReport, dataset: str) -> None:
    """Raise ValidationFailedError, one line a failure, unless every check that is an error held."""
    failed = report.failed("error")
    if failed:
        made = sum(check.outcome != "skipped" for check in report.checks)
        lines = "".join(
            f"\n  {check.subject}: {check.rule}. Received: {check.received}{_rows(check)}."
            for check in failed
        )
        raise ValidationFailedError(
            f"{len(failed)} of {made} checks failed for {dataset}:{lines}\n",
            advice="Mend the dataset and run again; nothing was trained.",
        )


def _rows(check: CheckResult) -> str:
    more = ", …" if check.failing > len(check.rows) else ""
    return f" in rows {', '.join(map(str, check.rows))}{more}" if check.rows else ""


def _check_array(subject: str, values: np.ndarray, contract: Contract) -> list[CheckResult]:
    failed = _failed_checks(subject, values, contract)
    axes = ", ".join(f"{name} {size}" for name, size in contract.sizes.items())
    structure = [
        ("dims", f"axes are ({', '.join(contract.sizes)})", f"{values.ndim} axes"),
        ("sizes", f"sizes are {axes}", f"{values.shape}"),
        ("dtype", f"dtype is {np.dtype(contract.dtype)}", f"{values.dtype}"),
    ]
    structure += [
        (rule.name, rule.text, _received(rule, values) if rule.name in failed else "")
        for rule in contract.rules
    ]
    return [
        CheckResult(
            tier="structure",
            name=name,
            subject=subject,
            rule=text,
            severity="error",
            outcome="failed" if name in failed else "passed",
            received=received if name in failed else "",
        )
        for name, text, received in structure
    ]


def _received(rule: Rule, values: np.ndarray) -> str:
    try:
        return rule.received(values)
    except ValueError:  # no values to describe, or not the axes to do it along
        return f"shape {values.shape}"


def _failed_checks(subject: str, values: np.ndarray, contract: Contract) -> set[str]:
    names = list(contract.sizes)
    dims = names if len(names) == values.ndim else [f"axis {n}" for n in range(values.ndim)]
    schema = pandera.DataArraySchema(
        name=subject,
        dtype=contract.dtype,
        dims=tuple(names),
        sizes=dict(contract.sizes),
        checks=[pandera.Check(_on_values(rule), name=rule.name) for rule in contract.rules],
        nullable=True,  # the rules refuse NaN; pandera would look for it in a copy of the array
    )
    try:
        schema.validate(xarray.DataArray(values, dims=dims, name=subject), lazy=True)
    except pandera.errors.SchemaErrors as errors:
        return {_check_name(error) for error in errors.schema_errors}
    return set()


def _on_values(rule: Rule) -> Callable[[xarray.DataArray], bool]:
    return lambda array: rule.holds(array.values)


def _check_name(error: pandera.errors.SchemaError) -> str:
    if isinstance(error.check, str):  # "dims", "sizes" or "dtype('…')"
        return error.check.partition("(")[0]
    return str(error.check.name)


def _range(values: np.ndarray) -> str:
    return f"{values.min()} … {values.max()}"


def _every_class(classes: int) -> Rule:
    def absent(labels: np.ndarray) -> list[int]:
        return sorted(set(range(classes)) - set(np.unique(labels).tolist()))

    return Rule(
        name="classes",
        text=f"each of the classes 0 … {classes - 1} occurs",
        holds=lambda labels: not absent(labels),
        received=lambda labels: f"no image of class {', '.join(map(str, absent(labels)))}",
    )


def _is_one_hot(rows: np.ndarray) -> bool:
    sums_to_one = bool((rows.sum(axis=1) == 1).all())
    return sums_to_one and bool(((rows == 0) | (rows == 1)).all())


_SPAN = Rule(
    name="span",
    text="pixels span more than 0 and 1 (0 = background … 255 = ink, not already scaled)",
    holds=lambda pixels: bool(pixels.min() < pixels.max() and pixels.max() > 1),
    received=_range,
)
_UNIT_RANGE = Rule(
    name="unit-range",
    text="pixels lie in [0, 1] and reach beyond 1/255",
    holds=lambda pixels: bool(pixels.min() >= 0 and 1 / 255 < pixels.max() <= 1),
    received=_range,
)
_ONE_HOT = Rule(
    name="one-hot",
    text="each row is one 1 among zeros",
    holds=_is_one_hot,
    received=lambda rows: f"row sums {_range(rows.sum(axis=1))}, values {_range(rows)}",
)
