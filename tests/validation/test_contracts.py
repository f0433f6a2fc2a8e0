"""The contracts of the arrays: what passes, and that each rule can fail and names itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from builders import Arrays, store_dataset, tiny_arrays

from tasks.cache.blobs import Store
from tasks.errors import ValidationFailedError
from tasks.preprocess import one_hot, scale
from tasks.records import CheckResult, DatasetRef, ValidationReport
from tasks.validation.contracts import raw_arrays, ready_arrays, stored_arrays
from tasks.validation.rules import check, require_passed

Change = Callable[[np.ndarray], np.ndarray]
Failure = tuple[str, str, str]  # subject, rule, received

SPAN = "pixels span more than 0 and 1 (0 = background … 255 = ink, not already scaled)"
UNIT_RANGE = "pixels lie in [0, 1] and reach beyond 1/255"
TWO_CLASSES = "training images are of at least two classes"
ONE_HOT = "each row is one 1 among zeros"


@pytest.fixture
def dataset(store: Store) -> DatasetRef:
    """30 training and 12 test images of 4 x 5 pixels in 3 classes."""
    return store_dataset(tiny_arrays(), store)


def preprocessed() -> Arrays:
    """The tiny dataset as preprocessed."""
    return {
        name: scale(array) if name.startswith("x") else one_hot(array, classes=3)
        for name, array in tiny_arrays().items()
    }


def check_raw(dataset: DatasetRef, arrays: Arrays) -> tuple[CheckResult, ...]:
    return check("structure", raw_arrays(dataset, arrays), arrays.__getitem__, {})


def check_ready(dataset: DatasetRef, arrays: Arrays) -> tuple[CheckResult, ...]:
    return check("structure", ready_arrays(dataset, arrays), arrays.__getitem__, {})


def failures(checks: tuple[CheckResult, ...]) -> list[Failure]:
    return [(c.subject, c.rule, c.received) for c in checks if c.outcome == "failed"]


def test_sound_dataset_passes_every_check_as_loaded(dataset: DatasetRef) -> None:
    checks = check_raw(dataset, tiny_arrays())

    assert [(check.subject, check.rule) for check in checks] == [
        ("x_train", "axes are (image, row, column)"),
        ("x_train", "sizes are image 30, row 4, column 5"),
        ("x_train", "dtype is uint8"),
        ("x_train", SPAN),
        ("y_train", "axes are (image)"),
        ("y_train", "sizes are image 30"),
        ("y_train", "dtype is uint8"),
        ("y_train", TWO_CLASSES),
        ("x_test", "axes are (image, row, column)"),
        ("x_test", "sizes are image 12, row 4, column 5"),
        ("x_test", "dtype is uint8"),
        ("x_test", SPAN),
        ("y_test", "axes are (image)"),
        ("y_test", "sizes are image 12"),
        ("y_test", "dtype is uint8"),
    ]
    assert failures(checks) == []


def test_sound_dataset_passes_every_check_as_preprocessed(dataset: DatasetRef) -> None:
    checks = check_ready(dataset, preprocessed())

    assert [(check.subject, check.rule) for check in checks[:8]] == [
        ("x_train", "axes are (image, pixel)"),
        ("x_train", "sizes are image 30, pixel 20"),
        ("x_train", "dtype is float32"),
        ("x_train", UNIT_RANGE),
        ("y_train", "axes are (image, class)"),
        ("y_train", "sizes are image 30, class 3"),
        ("y_train", "dtype is float32"),
        ("y_train", ONE_HOT),
    ]
    assert failures(checks) == []


def with_value(value: float, *index: int) -> Change:
    """A change of one number, by default the very first."""

    def change(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed[index or (0,) * array.ndim] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("subject", "change", "rule", "received"),
    [
        ("x_train", lambda x: (x > 0).astype(np.uint8), SPAN, "0 … 1"),
        ("x_test", np.zeros_like, SPAN, "0 … 0"),
        ("x_test", lambda x: np.full_like(x, 255), SPAN, "255 … 255"),
        ("x_train", lambda x: x.astype(np.float32), "dtype is uint8", "float32"),
        ("x_test", lambda x: x.astype(np.int64), "dtype is uint8", "int64"),
        ("y_test", lambda y: y.astype(np.int64), "dtype is uint8", "int64"),
        (
            "x_test",
            lambda x: x[:, :, :4],
            "sizes are image 12, row 4, column 5",
            "(12, 4, 4)",
        ),
        ("y_train", lambda y: np.full_like(y, 2), TWO_CLASSES, "only class 2"),
    ],
    ids=[
        "already scaled pixels",
        "blank images",
        "inked images",
        "float pixels",
        "wide pixels",
        "wide labels",
        "another image size",
        "one class",
    ],
)
def test_broken_rule_of_the_loaded_arrays_is_named(
    dataset: DatasetRef, subject: str, change: Change, rule: str, received: str
) -> None:
    arrays = tiny_arrays()
    arrays[subject] = change(arrays[subject])

    assert [(subject, rule, received)] == failures(check_raw(dataset, arrays))


@pytest.mark.parametrize(
    ("subject", "change", "rule", "received"),
    [
        ("x_train", with_value(1.5), UNIT_RANGE, "0.0 … 1.5"),
        ("x_train", with_value(-0.5), UNIT_RANGE, "-0.5 … 1.0"),
        ("x_test", with_value(np.nan), UNIT_RANGE, "nan … nan"),
        ("x_test", np.zeros_like, UNIT_RANGE, "0.0 … 0.0"),
        ("x_test", lambda x: x.astype(np.float64), "dtype is float32", "float64"),
        ("x_test", lambda x: x[:, 1:], "sizes are image 12, pixel 20", "(12, 19)"),
        ("y_train", with_value(1, 0, 1), ONE_HOT, "row sums 1.0 … 2.0, values 0.0 … 1.0"),
        ("y_train", with_value(0), ONE_HOT, "row sums 0.0 … 1.0, values 0.0 … 1.0"),
        (
            "y_test",
            lambda y: np.where(np.arange(12)[:, None] == 5, np.float32([0.5, 0.5, 0]), y),
            ONE_HOT,
            "row sums 1.0 … 1.0, values 0.0 … 1.0",
        ),
        (
            "y_test",
            lambda y: np.where(np.arange(12)[:, None] == 5, np.float32([2, -1, 0]), y),
            ONE_HOT,
            "row sums 1.0 … 1.0, values -1.0 … 2.0",
        ),
        ("y_test", lambda y: y[:, :2], "sizes are image 12, class 3", "(12, 2)"),
    ],
    ids=[
        "pixel above 1",
        "pixel below 0",
        "no number",
        "scaled to nothing",
        "double precision",
        "a pixel too few",
        "two classes",
        "no class",
        "halves",
        "2 and -1",
        "a class too few",
    ],
)
def test_broken_rule_of_the_preprocessed_arrays_is_named(
    dataset: DatasetRef, subject: str, change: Change, rule: str, received: str
) -> None:
    arrays = preprocessed()
    arrays[subject] = change(arrays[subject])

    assert (subject, rule, received) in failures(check_ready(dataset, arrays))


def test_pixels_that_were_scaled_twice_are_refused(dataset: DatasetRef) -> None:
    arrays = preprocessed()
    arrays["x_train"] /= np.float32(255)

    (failure,) = failures(check_ready(dataset, arrays))

    assert failure[:2] == ("x_train", UNIT_RANGE)


def test_flat_images_break_the_axes_and_the_sizes(dataset: DatasetRef) -> None:
    arrays = tiny_arrays()
    arrays["x_train"] = arrays["x_train"].reshape(30, 20)

    assert failures(check_raw(dataset, arrays)) == [
        ("x_train", "axes are (image, row, column)", "2 axes"),
        ("x_train", "sizes are image 30, row 4, column 5", "(30, 20)"),
    ]


def test_missing_label_shows_on_images_and_labels(dataset: DatasetRef) -> None:
    arrays = tiny_arrays()
    arrays["y_train"] = arrays["y_train"][:-1]

    assert failures(check_raw(dataset, arrays)) == [
        ("x_train", "sizes are image 29, row 4, column 5", "(30, 4, 5)"),
        ("y_train", "sizes are image 30", "(29,)"),
    ]


def test_every_failure_is_reported_not_only_the_first(dataset: DatasetRef) -> None:
    arrays = tiny_arrays()
    arrays["x_train"] = (arrays["x_train"] > 0).astype(np.float32)
    arrays["y_train"] = np.zeros_like(arrays["y_train"])

    assert failures(check_raw(dataset, arrays)) == [
        ("x_train", "dtype is uint8", "float32"),
        ("x_train", SPAN, "0.0 … 1.0"),
        ("y_train", TWO_CLASSES, "only class 0"),
    ]


def test_empty_split_fails_and_says_its_shape(dataset: DatasetRef) -> None:
    arrays = preprocessed()
    arrays["x_test"] = arrays["x_test"][:0]

    assert ("x_test", UNIT_RANGE, "shape (0, 20)") in failures(check_ready(dataset, arrays))


def test_labels_without_a_class_axis_fail(dataset: DatasetRef) -> None:
    arrays = preprocessed()
    arrays["y_test"] = arrays["y_test"].argmax(axis=1).astype(np.float32)

    assert ("y_test", "axes are (image, class)", "1 axes") in failures(check_ready(dataset, arrays))


@pytest.mark.parametrize(
    ("change", "received"),
    [
        (lambda x: x[1:], "uint8 (29, 4, 5)"),
        (lambda x: x.astype(np.float32), "float32 (30, 4, 5)"),
    ],
    ids=["an image less", "another dtype"],
)
def test_array_unlike_its_record_is_not_intact(
    dataset: DatasetRef, change: Change, received: str
) -> None:
    arrays = tiny_arrays()
    arrays["x_train"] = change(arrays["x_train"])

    checks = check("files", stored_arrays(dataset), arrays.__getitem__, {})

    assert [("x_train", "checksum and header agree with the bytes", received)] == failures(checks)


def test_memory_maps_are_checked_like_arrays(dataset: DatasetRef, store: Store) -> None:
    mapped = {name: store.open_array(getattr(dataset, name)) for name in tiny_arrays()}

    assert failures(check_raw(dataset, mapped)) == []


def result(subject: str, rule: str, outcome: str, **found: object) -> CheckResult:
    return CheckResult.model_validate(
        {
            "tier": "structure",
            "name": "any",
            "subject": subject,
            "rule": rule,
            "severity": "error",
            "outcome": outcome,
            **found,
        }
    )


PASSED = result("x_test", "dtype is uint8", "passed")
SKIPPED = result("x_test", "no image occurs again in its split", "skipped")
WARNED = result("x_train", "no image is blank", "failed", severity="warning")


def test_report_without_errors_lets_the_run_go_on() -> None:
    require_passed(ValidationReport(checks=(PASSED, SKIPPED, WARNED)), "digits")


def test_failures_are_listed_one_a_line_with_their_rows() -> None:
    report = ValidationReport(
        checks=(
            result("x_train", "dtype is uint8", "failed", received="float32"),
            *(PASSED, SKIPPED, WARNED),
            result(
                *("y_test", "labels are known", "failed"),
                received="labels 9: 3 of 12 images",
                rows=(2, 5),
                failing=3,
            ),
        )
    )

    with pytest.raises(ValidationFailedError) as caught:
        require_passed(report, "digits")

    assert str(caught.value) == (
        "2 of 4 checks failed for digits:\n"
        "  x_train: dtype is uint8. Received: float32.\n"
        "  y_test: labels are known. Received: labels 9: 3 of 12 images in rows 2, 5, ….\n"
        " Fix the dataset and run again; nothing was trained."
    )
