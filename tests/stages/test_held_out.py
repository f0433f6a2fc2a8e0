"""Images held out of the training: not trained on, evaluated after each epoch, and patience."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from trainings import PLAN, dataset, noise

from tasks.cache.blobs import Store
from tasks.cache.keys import content_of
from tasks.errors import ModelError
from tasks.learning.network import build_model
from tasks.learning.training import BestEpoch
from tasks.records import DatasetRef, ModelRef
from tasks.train import held_out_rows, train

pytestmark = pytest.mark.usefixtures("outside_a_run", "default_threads")

IMAGES, LABELS = noise(60, 48, 3)
HELD_OUT = PLAN.model_copy(update={"validation_fraction": 0.2})


def ready(store: Store, images: np.ndarray = IMAGES, validation: int = 0) -> DatasetRef:
    arrays = {"x_train": store.put_array(images), "y_train": store.put_array(LABELS)}
    return dataset(8, 6, 3).model_copy(update={**arrays, "validation_images": validation})


def trained(store: Store, images: np.ndarray = IMAGES, **options: Any) -> ModelRef:
    plan = HELD_OUT.model_copy(update=options)
    return train.fn(ready(store, images), plan, store)


def test_held_out_images_are_drawn_by_class(store: Store) -> None:
    rows = held_out_rows(LABELS, ready(store), HELD_OUT)

    of_all, of_held_out = LABELS.sum(axis=0), LABELS[rows].sum(axis=0)
    np.testing.assert_array_equal(np.rint(0.2 * of_all), of_held_out)


def test_weights_do_not_depend_on_what_is_held_out(store: Store) -> None:
    rows = held_out_rows(LABELS, ready(store), HELD_OUT)
    other = IMAGES.copy()
    other[rows] = 0

    ours, others = trained(store), trained(store, other)

    assert ours.weights_sha256 == others.weights_sha256
    assert [e.loss for e in ours.history] == [e.loss for e in others.history]
    assert [e.validation_loss for e in ours.history] != [e.validation_loss for e in others.history]


def test_datasets_own_validation_images_are_the_last_ones(store: Store) -> None:
    rows = held_out_rows(LABELS, ready(store, validation=12), PLAN)

    assert list(range(48, 60)) == rows.tolist()


def test_patience_goes_back_to_the_best_epoch(store: Store) -> None:
    """Noise cannot be learned: what is held out is met worse and worse."""
    patient = trained(store, epochs=60, patience=2, learning_rate=0.02)

    losses = [epoch.validation_loss or 0 for epoch in patient.history]
    best = 1 + int(np.argmin(losses))
    assert best + 2 == len(losses) < 60
    shorter = trained(store, epochs=best, learning_rate=0.02)
    assert shorter.weights_sha256 == patient.weights_sha256
    # Equal weights of another training, whose curves are others.
    assert content_of(shorter) != content_of(patient)


def test_nothing_is_held_out_unless_asked_for(store: Store) -> None:
    model = train.fn(ready(store), PLAN, store)

    assert model.history[0].validation_loss is None


@pytest.mark.parametrize(
    ("validation", "options", "message"),
    [
        (0, {"patience": 2, "validation_fraction": 0}, "--patience needs validation images"),
        (12, {}, "only where the dataset has none of its own"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    store: Store, validation: int, options: dict[str, Any], message: str
) -> None:
    plan = HELD_OUT.model_copy(update=options)

    with pytest.raises(ModelError, match=message):
        train.fn(ready(store, validation=validation), plan, store)


@pytest.mark.parametrize(
    ("losses", "stops_after", "best"),
    [
        ([3, 2, 1, 2, 2], 5, 3),
        ([1, 2, 3], 3, 1),
        ([3, float("nan"), 2, float("nan"), 4], 5, 3),
        ([2, 2, 2], 3, 1),  # of equal ones the first
    ],
)
def test_best_epoch_is_that_of_the_lowest_loss(
    losses: list[float], stops_after: int, best: int
) -> None:
    model = build_model(PLAN, dataset(8, 6, 3))
    watching = BestEpoch(model, patience=2)
    for epoch, loss in enumerate(losses):
        assert not watching.exhausted
        for variable in model.variables:
            variable.assign(np.full(variable.shape, epoch + 1))
        watching.on_epoch_end(epoch, {"val_loss": float(loss)})

    assert watching.exhausted
    assert stops_after == len(losses)
    watching.go_back()
    assert {best} == {int(value) for v in model.variables for value in np.unique(v.numpy())}
