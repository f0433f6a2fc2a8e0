"""What people get wrong most in images of their own, told without a profile."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from builders import Arrays, store_dataset

from tasks.cache.blobs import Store
from tasks.records import CheckResult, Moments
from tasks.settings import RunSettings
from tasks.validation.checks import examine
from tasks.validation.plausibility import (
    IN_COLOUR,
    PROFILE_SAYS_MORE,
    TINY,
    posture,
    shapes_by_class,
)

Judge = Callable[..., dict[str, CheckResult]]


def drawn(rows: slice, columns: slice, size: int = 12) -> Arrays:
    """Ten training and ten test images of ten classes: ink 201 … 220 on a background of 0."""
    images = np.zeros((20, size, size), np.uint8)
    images[:, rows, columns] = np.arange(201, 221)[:, np.newaxis, np.newaxis]
    labels = np.arange(10, dtype=np.uint8)
    return {"x_train": images[:10], "y_train": labels, "x_test": images[10:], "y_test": labels}


INSIDE = slice(4, 8), slice(5, 7)  # four rows, two columns


@pytest.fixture
def judged(store: Store) -> Judge:
    """The results of the tier by check, of the training images."""

    def judge(arrays: Arrays, **settings: str) -> dict[str, CheckResult]:
        rules = RunSettings.model_validate(settings).rules("tiny")
        checks = examine(store_dataset(arrays, store), arrays, rules).checks
        return {c.name: c for c in checks if c.tier == "plausibility" and c.subject[1:] == "_train"}

    return judge


def reasons(checks: dict[str, CheckResult]) -> set[tuple[str, str]]:
    return {(check.outcome, check.received) for check in checks.values()}


# --- measuring -------------------------------------------------------------------------------


def test_posture_is_worked_out_by_hand() -> None:
    images = drawn(*INSIDE)["x_train"][:1]

    table = posture(images, np.zeros(1, np.uint8))

    over_rows, over_columns = math.sqrt(5 / 4), 1 / 2  # of 4, 5, 6, 7 and of 5, 6
    assert {
        "flat": True,
        "bright": False,
        "border": 0,
        "ink": pytest.approx(8 * 201 / 144),
        "upright": pytest.approx((over_rows - over_columns) / (over_rows + over_columns)),
        "label": 0,
    } == table.iloc[0].to_dict()


def test_posture_is_that_of_ink_whichever_is_brighter() -> None:
    images, labels = drawn(*INSIDE)["x_train"], np.arange(10, dtype=np.uint8)

    dark, bright = posture(images, labels), posture(255 - images, labels)

    assert bright["bright"].all()
    assert dark.drop(columns="bright").equals(bright.drop(columns="bright"))


def test_noise_of_a_background_is_no_ink() -> None:
    noise = np.random.default_rng(0).integers(180, 205, (3, 12, 12), np.uint8)

    table = posture(noise, np.zeros(3, np.uint8))

    assert (True, 0, 0, 0) == tuple(table.loc[0, ["flat", "border", "ink", "upright"]])


def test_images_are_measured_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = drawn(slice(0, 9), slice(3, 4))["x_train"], np.arange(10, dtype=np.uint8)
    whole = posture(images, labels)
    monkeypatch.setattr("tasks.validation.plausibility.CHUNK_BYTES", 3 * 144)

    assert whole.equals(posture(images, labels))


def test_rows_and_columns_count_against_each_other() -> None:
    """A column, a row, a square."""
    images = np.zeros((3, 12, 12), np.uint8)
    images[0, 2:9, 5] = images[1, 5, 2:9] = images[2, 3:6, 3:6] = 255

    shapes = shapes_by_class(images, np.arange(3, dtype=np.uint8))

    assert [Moments(mean=m, spread=0) for m in (1, -1, 0)] == list(shapes)


# --- backgrounds -----------------------------------------------------------------------------


def test_ink_on_a_darker_background_passes(judged: Judge) -> None:
    assert {("passed", "")} == reasons(judged(drawn(*INSIDE)))


def test_images_with_a_brighter_background_are_found(judged: Judge) -> None:
    arrays = drawn(*INSIDE)
    arrays["x_train"][[2, 7]] = 255 - arrays["x_train"][[2, 7]]

    check = judged(arrays)["inverted"]

    assert ("failed", "warning", "2 of 10 images") == (
        check.outcome,
        check.severity,
        check.received,
    )
    assert (2, 7) == check.rows


def test_photographs_have_no_background_to_be_dark(judged: Judge) -> None:
    """Seven of twenty are as evenly bright as the sky."""
    photographs = np.random.default_rng(0).integers(0, 256, (20, 12, 12), np.uint8)
    photographs[:7, 0], photographs[:7, :, 0], photographs[:7, :, -1] = 250, 250, 250
    arrays = {
        "x_train": photographs,
        "x_test": photographs,
        "y_train": np.arange(20, dtype=np.uint8) % 2,
        "y_test": np.arange(20, dtype=np.uint8) % 2,
    }

    checks = judged(arrays)

    assert 7 == posture(photographs, arrays["y_train"])["flat"].sum()
    assert {("passed", "")} == reasons(checks)


# --- the border ------------------------------------------------------------------------------


def test_content_across_the_border_is_found(judged: Judge) -> None:
    check = judged(drawn(slice(4), slice(4)))["cut-off"]

    # 7 of 44 pixels at the border, 16 of 144 in all
    assert ("failed", "1.43") == (check.outcome, check.received)


def test_content_that_reaches_two_borders_passes(judged: Judge) -> None:
    """As Fashion-MNIST's, whose longer side fills the image: 8 of 44 pixels, 48 of 144."""
    assert "passed" == judged(drawn(slice(12), slice(4, 8)))["cut-off"].outcome


# --- rows and columns ------------------------------------------------------------------------


def digits() -> Arrays:
    """Each of a digit's usual shape, nearly: rows and columns by the shipped profile's figures."""
    arrays = drawn(slice(0), slice(0), size=40)
    for shape, *images in zip(
        RunSettings().rules("tiny").shipped.upright,
        arrays["x_train"],
        arrays["x_test"],
        strict=True,
    ):
        columns = round(20 * (1 - shape.mean) / (1 + shape.mean))
        for number, image in enumerate(images):
            image[10:30, 10 : 10 + columns] = 200 + shape.mean * 50 + number
    return arrays


def test_upright_digits_pass(judged: Judge) -> None:
    assert {("passed", "")} == reasons(judged(digits()))


def test_digits_whose_rows_are_columns_are_told(judged: Judge) -> None:
    arrays = digits()
    arrays |= {name: arrays[name].swapaxes(1, 2) for name in ("x_train", "x_test")}

    check = judged(arrays)["transposed"]

    assert ("failed", "warning") == (check.outcome, check.severity)
    assert check.received.endswith(" as they are, 0.11 swapped")  # columns are whole


def test_other_shapes_are_not_taken_for_swapped_digits(judged: Judge) -> None:
    """Lying bars, which would rather stand: but then they are no digits either."""
    assert "passed" == judged(drawn(slice(5, 6), slice(2, 10)))["transposed"].outcome


def test_other_classes_are_not_compared_with_digits(judged: Judge) -> None:
    arrays = drawn(*INSIDE)
    arrays |= {name: arrays[name] % 9 for name in ("y_train", "y_test")}

    assert {"inverted", "cut-off"} == judged(arrays).keys()


# --- what is not judged ----------------------------------------------------------------------


def test_nothing_is_said_beside_a_profile(judged: Judge) -> None:
    assert {("skipped", PROFILE_SAYS_MORE)} == reasons(judged(drawn(*INSIDE), profile="mnist"))


def test_nothing_is_said_of_tiny_images(judged: Judge) -> None:
    assert {("skipped", TINY)} == reasons(judged(drawn(*INSIDE, size=11)))


def test_nothing_is_said_of_colour(judged: Judge) -> None:
    arrays = drawn(*INSIDE)
    colour = {n: np.repeat(arrays[n][..., np.newaxis], 3, axis=3) for n in ("x_train", "x_test")}

    assert {("skipped", IN_COLOUR)} == reasons(judged(arrays | colour))
