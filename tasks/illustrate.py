"""Illustrate: the pictures of a report, from the arrays and the figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.cache.blobs import Store
from tasks.orchestration.stage import stage
from tasks.records import (
    ARRAY_NAMES,
    DatasetRef,
    Metrics,
    Mistake,
    ModelRef,
    Pictures,
    Suspect,
    Suspects,
    ValidationReport,
)

SAMPLES_PER_CLASS = 12
GALLERY = 20  # images: four rows of five


@stage()
def illustrate(
    raw: DatasetRef,
    checked: ValidationReport,
    ready: DatasetRef,
    model: ModelRef,
    metrics: Metrics,
    suspects: Suspects | None,
    store: Store,
) -> Pictures:
    """Draw what the data looks like, how training went, and what the model gets wrong.

    Reads images (image, row, column) uint8 and labels (image,) uint8 of `raw`, and one image
    (pixel,) float32 of `ready`.
    """
    from tasks.reporting import pictures
    from tasks.reporting.offenders import offender_sheet

    arrays = {name: store.open_array(getattr(raw, name)) for name in ARRAY_NAMES}
    x_train, y_train, x_test, y_test = arrays.values()
    mistakes = metrics.mistakes[:GALLERY]
    classes = range(raw.classes)
    rows = [np.flatnonzero(y_train == label)[:SAMPLES_PER_CLASS] for label in classes]
    drawn = {
        "samples": pictures.samples([list(x_train[of_class]) for of_class in rows]),
        "balance": pictures.balance(
            np.bincount(y_train, minlength=raw.classes), np.bincount(y_test, minlength=raw.classes)
        ),
        "preprocessing": pictures.preprocessing(
            np.asarray(x_train[0]), np.asarray(store.open_array(ready.x_train)[0])
        ),
        "curves": pictures.curves(model.history, metrics.accuracy_fraction),
        "confusion": pictures.confusion(np.array(metrics.confusion)),
        "reliability": pictures.reliability(metrics.reliability, metrics.calibration_error),
        "mistakes": pictures.gallery(
            _images(x_test, mistakes),
            [f"{m.label} → {m.predicted}\n{m.confidence:.1%}" for m in mistakes],
            if_none=f"No mistakes on {metrics.images:,} test images.",
        ),
    }
    if suspects is not None:
        doubtful = suspects.found[:GALLERY]
        drawn["suspects"] = pictures.gallery(
            _images(x_train, doubtful),
            [f"{s.label}, rather {s.suggested}\nno. {s.row}" for s in doubtful],
            if_none=f"No doubtful label among {suspects.images:,} training images.",
        )
    if sheet := offender_sheet(checked.checks, arrays):
        drawn["sheet"] = sheet
    return Pictures(**{name: store.put_bytes(png, ".png") for name, png in drawn.items()})


def _images(images: np.ndarray, chosen: Sequence[Mistake | Suspect]) -> list[np.ndarray]:
    return [np.asarray(images[each.row]) for each in chosen]
