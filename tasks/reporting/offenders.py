"""A picture of the images that validation names.

This module imports matplotlib: import it inside the functions that draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice, zip_longest

import numpy as np

from tasks.records import CheckResult
from tasks.reporting.pictures import gallery

MOST = 25
LIMIT_BYTES = 80_000  # with three more pictures and their text it fits into an artifact of 300 KB


def offender_sheet(checks: Iterable[CheckResult], arrays: Mapping[str, np.ndarray]) -> bytes | None:
    """Up to 25 images that break a rule, some for each check, as a PNG of at most 80 kB.

    None if no failed check names rows.

    Args:
        checks: the results; `x_train`, `y_test` and the like are their subjects.
        arrays: images (image, row, column) uint8 and labels (image,), by name.
    """
    shown = list(_offenders(checks))
    if not shown:
        return None
    return gallery(
        [np.asarray(arrays[f"x_{split}"][row]) for _, split, row in shown],
        [f"{name}\n{split} {row}, label {arrays[f'y_{split}'][row]}" for name, split, row in shown],
        limit_bytes=LIMIT_BYTES,
    )


def _offenders(checks: Iterable[CheckResult]) -> Iterator[tuple[str, str, int]]:
    """(check, split, row), by check; the checks take turns in who may name one more."""
    named = [
        [(number, check.name, check.subject.partition("_")[2], row) for row in check.rows]
        for number, check in enumerate(checks)
        if check.outcome == "failed"
    ]
    turns = (one for one in chain.from_iterable(zip_longest(*named)) if one)
    return (offender[1:] for offender in sorted(islice(turns, MOST)))
