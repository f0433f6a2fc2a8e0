"""Illustrate: which pictures are drawn, of what, and when they are drawn again."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from builders import store_dataset, tiny_arrays
from PIL import Image

from tasks.cache.blobs import Store
from tasks.cache.keys import content_of
from tasks.illustrate import illustrate, illustrate_data
from tasks.learning.scores import score
from tasks.records import (
    BlobRef,
    CheckResult,
    DatasetRef,
    EpochMetrics,
    Metrics,
    ModelRef,
    Pictures,
    Suspect,
    Suspects,
    ValidationReport,
)

NOTHING_FAILED = ValidationReport(checks=())
DUPLICATE = CheckResult(
    tier="rows",
    name="duplicates",
    subject="x_train",
    rule="no image occurs again in its split",
    severity="warning",
    outcome="failed",
    rows=(21,),
    failing=1,
)
ON_DATA = {"samples", "balance", "preprocessing"}
OF_MODEL = {"curves", "confusion", "reliability", "mistakes"}


def model(**changes: Any) -> ModelRef:
    trained = ModelRef(
        keras_file=BlobRef(sha256=64 * "b", size_bytes=9, suffix=".keras"),
        weights_sha256=64 * "c",
        parameters=50_890,
        history=(EpochMetrics(loss=0.5, accuracy_fraction=0.75),),
    )
    return trained.model_copy(update=changes)


@pytest.fixture
def raw(store: Store) -> DatasetRef:
    return store_dataset(tiny_arrays(), store)


@pytest.fixture
def ready(store: Store) -> DatasetRef:
    arrays = tiny_arrays()
    images = {
        n: (arrays[n].reshape(-1, 20) / 255).astype(np.float32) for n in ("x_train", "x_test")
    }
    described = store_dataset(tiny_arrays(), store)
    return described.model_copy(update={n: store.put_array(images[n]) for n in images})


@pytest.fixture
def metrics(store: Store) -> Metrics:
    """Four test images, the last of which is taken for another class."""
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
    return score(probabilities, np.array([0, 1, 2, 0]), store.put_array(probabilities))


def width(pictures: Pictures, name: str, store: Store) -> int:
    with Image.open(BytesIO(store.require(pictures.stored_files()[name]).read_bytes())) as image:
        return image.width


def test_data_is_drawn_without_a_model(raw: DatasetRef, ready: DatasetRef, store: Store) -> None:
    drawn = illustrate_data.fn(raw, NOTHING_FAILED, ready, store)

    assert ON_DATA == set(drawn.stored_files())
    assert {960} == {width(drawn, name, store) for name in ON_DATA}  # 6 inches of 160 dots


def test_images_that_validation_names_are_drawn(
    raw: DatasetRef, ready: DatasetRef, store: Store
) -> None:
    drawn = illustrate_data.fn(raw, ValidationReport(checks=(DUPLICATE,)), ready, store)

    assert {*ON_DATA, "sheet"} == set(drawn.stored_files())


def test_model_is_drawn_without_what_the_data_looks_like(
    raw: DatasetRef, metrics: Metrics, store: Store
) -> None:
    drawn = illustrate.fn(model(), metrics, None, raw, store)

    assert OF_MODEL == set(drawn.stored_files())


def test_doubtful_labels_are_drawn_where_they_were_looked_for(
    raw: DatasetRef, metrics: Metrics, store: Store
) -> None:
    suspects = Suspects(found=(Suspect(row=3, label=0, suggested=2, quality=0.1),), images=30)

    drawn = illustrate.fn(model(), metrics, suspects, raw, store)

    assert {*OF_MODEL, "suspects"} == set(drawn.stored_files())


@pytest.mark.parametrize(
    "changes",
    [
        {"history": (EpochMetrics(loss=0.25, accuracy_fraction=0.75),)},
        {"history": ()},
        {"parameters": 3},
        {"weights_sha256": 64 * "d"},
    ],
)
def test_everything_that_is_shown_of_a_model_counts_in_a_key(changes: dict[str, Any]) -> None:
    """The same weights with another history have other curves."""
    assert content_of(model()) != content_of(model(**changes))


def test_file_of_a_model_does_not_count_in_a_key() -> None:
    """Two saves of one model differ by their date."""
    other = BlobRef(sha256=64 * "e", size_bytes=8, suffix=".keras")

    assert content_of(model()) == content_of(model(keras_file=other))
