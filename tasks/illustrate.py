"""Illustrate: the pictures of a report, from the arrays and the figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tasks import IMPORTS
from tasks.cache.blobs import Store
from tasks.orchestration.stage import stage
from tasks.records import (
    ARRAY_NAMES,
    DatasetRef,
    Metrics,
    ModelRef,
    Pictures,
    Suspects,
    ValidationReport,
)

SAMPLES_PER_CLASS = 12
GALLERY = 20  # images: four rows of five


@stage()
def illustrate_data(
    raw: DatasetRef, checked: ValidationReport, ready: DatasetRef, store: Store
) -> Pictures:
    """Draw what the data looks like: `samples`, `balance`, `preprocessing`.

    And `sheet`, if validation names images. Reads images (image, row, column) uint8 and labels
    (image,) uint8 of `raw`, and one image (pixel,) float32 of `ready`.
    """
    with IMPORTS:
        from tasks.reporting import pictures

    arrays = {name: store.open_array(getattr(raw, name)) for name in ARRAY_NAMES}
    x_train, y_train, _, y_test = arrays.values()
    names = pictures.drawable(raw.class_names)
    rows = [np.flatnonzero(y_train == label)[:SAMPLES_PER_CLASS] for label in range(raw.classes)]
    train, test = (np.bincount(labels, minlength=raw.classes) for labels in (y_train, y_test))
    drawn = {
        "samples": pictures.samples([list(x_train[of_class]) for of_class in rows], names),
        "balance": pictures.balance(train, test, names),
        "preprocessing": pictures.preprocessing(x_train[0], store.open_array(ready.x_train)[0]),
    }
    if sheet := pictures.offender_sheet(checked.checks, arrays, raw.class_names):
        drawn["sheet"] = sheet
    return _stored(drawn, store)


@stage()
def illustrate(
    model: ModelRef, metrics: Metrics, suspects: Suspects | None, raw: DatasetRef, store: Store
) -> Pictures:
    """Draw how training went and what the model gets wrong.

    `curves`, `confusion`, `reliability`, `mistakes`, and `suspects`, if they were looked for.
    Reads images (image, row, column) uint8 of `raw`.
    """
    with IMPORTS:
        from tasks.reporting import pictures

    mistakes, x_test = metrics.mistakes[:GALLERY], store.open_array(raw.x_test)
    names = pictures.drawable(raw.class_names)
    drawn = {
        "curves": pictures.curves(model.history, metrics.accuracy_fraction),
        "confusion": pictures.confusion(np.array(metrics.confusion), names),
        "reliability": pictures.reliability(metrics.reliability, metrics.calibration_error),
        "mistakes": pictures.gallery(
            [x_test[m.row] for m in mistakes],
            [
                pictures.caption(names[m.label], f"→ {names[m.predicted]}", f"{m.confidence:.1%}")
                for m in mistakes
            ],
            if_none=f"No mistakes on {metrics.images:,} test images.",
        ),
    }
    if suspects is not None:
        doubtful, x_train = suspects.found[:GALLERY], store.open_array(raw.x_train)
        drawn["suspects"] = pictures.gallery(
            [x_train[s.row] for s in doubtful],
            [
                pictures.caption(
                    f"{names[s.label]},", f"rather {names[s.suggested]}", f"no. {s.row}"
                )
                for s in doubtful
            ],
            if_none=f"No doubtful label among {suspects.images:,} training images.",
        )
    return _stored(drawn, store)


def _stored(drawn: Mapping[str, bytes], store: Store) -> Pictures:
    return Pictures(drawn={name: store.put_bytes(png, ".png") for name, png in drawn.items()})
