"""Preprocessing, number for number what the plain recipe computes."""

from __future__ import annotations

import numpy as np
import pytest
from builders import store_dataset, tiny_arrays

from tasks.cache.blobs import Store
from tasks.errors import ValidationFailedError
from tasks.preprocess import one_hot, preprocess, scale

EVERY_PIXEL = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
EVERY_DIGIT = np.array([7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 3, 6, 8], np.uint8)


def test_every_pixel_value_is_scaled_as_by_the_plain_recipe() -> None:
    plain = EVERY_PIXEL.reshape(4, -1).astype("float32") / 255

    np.testing.assert_array_equal(plain, scale(EVERY_PIXEL), strict=True)


@pytest.mark.parametrize(("pixel", "scaled"), [(0, 0.0), (51, 0.2), (255, 1.0)])
def test_background_is_0_and_ink_is_1(pixel: int, scaled: float) -> None:
    assert np.float32(scaled) == scale(np.full((1, 1, 1), pixel, np.uint8))[0, 0]


def test_images_are_flattened_row_by_row() -> None:
    image = np.array([[[0, 255, 0], [255, 255, 0]]], np.uint8)

    assert scale(image).tolist() == [[0, 1, 0, 1, 1, 0]]


def test_labels_become_rows_of_the_identity_matrix() -> None:
    plain = np.eye(10, dtype="float32")[EVERY_DIGIT]

    np.testing.assert_array_equal(plain, one_hot(EVERY_DIGIT, classes=10), strict=True)


def test_one_hot_has_its_one_in_the_column_of_the_label() -> None:
    labels = np.array([2, 0], np.uint8)

    assert one_hot(labels, classes=4).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_labels_become_what_keras_makes_of_them() -> None:
    from tasks.learning.backend import keras  # noqa: PLC0415 - takes 3 s, only this test needs it

    rows = keras.utils.to_categorical(EVERY_DIGIT, 10)

    np.testing.assert_array_equal(rows, one_hot(EVERY_DIGIT, classes=10))


@pytest.mark.usefixtures("outside_a_run")
@pytest.mark.parametrize("chunk_bytes", [1, 7 * 4 * 4 * 5, 30 * 4 * 4 * 5, 1 << 20])
def test_stage_stores_the_whole_dataset_whatever_the_pieces(
    store: Store, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr("tasks.preprocess.CHUNK_BYTES", chunk_bytes)
    arrays = tiny_arrays(train=30, test=12, classes=3)

    ready = preprocess.fn(store_dataset(arrays, store), store)

    for split in ("train", "test"):
        np.testing.assert_array_equal(
            scale(arrays[f"x_{split}"]), store.open_array(getattr(ready, f"x_{split}"))
        )
        np.testing.assert_array_equal(
            one_hot(arrays[f"y_{split}"], classes=3),
            store.open_array(getattr(ready, f"y_{split}")),
        )


@pytest.mark.usefixtures("outside_a_run")
def test_stage_keeps_what_the_images_depict(store: Store) -> None:
    raw = store_dataset(tiny_arrays(classes=3, size=(4, 5)), store)

    ready = preprocess.fn(raw, store)

    assert (ready.name, ready.height, ready.width, ready.classes) == ("tiny", 4, 5, 3)


@pytest.mark.usefixtures("outside_a_run")
def test_stage_refuses_a_result_that_breaks_its_contract(store: Store) -> None:
    """Already scaled images, which validation would have caught, come out all but blank."""
    arrays = tiny_arrays()
    arrays["x_test"] = (arrays["x_test"] > 0).astype(np.uint8)
    raw = store_dataset(arrays, store)

    with pytest.raises(ValidationFailedError, match="1 of 16 checks failed for the preprocessed"):
        preprocess.fn(raw, store)
