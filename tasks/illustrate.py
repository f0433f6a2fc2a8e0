"""Illustrate: the pictures of a report, from the arrays and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
def illustrate_data(
    raw: DatasetRef, checked: ValidationReport, ready: DatasetRef, store: Store
) -> Pictures:
    """Draw what the data looks like: `samples`, `balance`, `preprocessing`.

    And `sheet`, if validation names images. Reads images (image, row, column) uint8 and labels
    (image,) uint8 of `raw`, and one image (pixel,) float32 of `ready`.
    """
    from tasks.reporting import pictures

    arrays = {name: store.open_array(getattr(raw, name)) for name in ARRAY_NAMES}
    x_train, y_train, _, y_test = arrays.values()
    rows = [np.flatnonzero(y_train == label)[:SAMPLES_PER_CLASS] for label in range(raw.classes)]
    train, test = (np.bincount(labels, minlength=raw.classes) for labels in (y_train, y_test))
    first = np.asarray(store.open_array(ready.x_train)[0])
    drawn = {
        "samples": pictures.samples([list(x_train[of_class]) for of_class in rows]),
        "balance": pictures.balance(train, test),
        "preprocessing": pictures.preprocessing(np.asarray(x_train[0]), first),
    }
    if sheet := pictures.offender_sheet(checked.checks, arrays):
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
    from tasks.reporting import pictures

    drawn = {
        "curves": pictures.curves(model.history, metrics.accuracy_fraction),
        "confusion": pictures.confusion(np.array(metrics.confusion)),
        "reliability": pictures.reliability(metrics.reliability, metrics.calibration_error),
        "mistakes": _gallery(
            *(store.open_array(raw.x_test), metrics.mistakes),
            "{0.label} → {0.predicted}\n{0.confidence:.1%}",
            if_none=f"No mistakes on {metrics.images:,} test images.",
        ),
    }
    if suspects is not None:
        drawn["suspects"] = _gallery(
            *(store.open_array(raw.x_train), suspects.found),
            "{0.label}, rather {0.suggested}\nno. {0.row}",
            if_none=f"No doubtful label among {suspects.images:,} training images.",
        )
    return _stored(drawn, store)


def _gallery(
    images: np.ndarray, found: Sequence[Mistake | Suspect], caption: str, if_none: str
) -> bytes:
    from tasks.reporting.pictures import gallery

    shown = found[:GALLERY]
    chosen = [np.asarray(images[each.row]) for each in shown]
    return gallery(chosen, [caption.format(each) for each in shown], if_none)


def _stored(drawn: Mapping[str, bytes], store: Store) -> Pictures:
    return Pictures(drawn={name: store.put_bytes(png, ".png") for name, png in drawn.items()})
