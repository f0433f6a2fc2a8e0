"""Pictures: whatever there is to draw, a PNG comes out that is neither tiny nor large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from builders import tiny_arrays
from PIL import Image

from tasks.records import CheckResult, ConfidenceBin, EpochMetrics
from tasks.reporting import pictures

EMPTY = ConfidenceBin(confidence=0.0, accuracy_fraction=0.0, images=0)
SURE = ConfidenceBin(confidence=0.97, accuracy_fraction=0.9, images=10_000)


def noise(*shape: int) -> np.ndarray:
    """What compresses worst."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def rows(images: np.ndarray) -> list[list[np.ndarray]]:
    return [list(of_class) for of_class in images]


def history(epochs: int) -> list[EpochMetrics]:
    return [
        EpochMetrics(loss=1 / epoch, accuracy_fraction=1 - 1 / (1 + epoch))
        for epoch in range(1, epochs + 1)
    ]


def confused(classes: int) -> np.ndarray:
    counts = np.random.default_rng(0).integers(0, 5, (classes, classes))
    return counts + 1000 * np.eye(classes, dtype=int)


NUMBERS = [str(number) for number in range(40)]


def samples(images: np.ndarray) -> bytes:
    return pictures.samples(rows(images), NUMBERS)


def confusion(counts: np.ndarray, names: Sequence[str] = NUMBERS) -> bytes:
    return pictures.confusion(counts, names[: len(counts)])


DRAWINGS: dict[str, Callable[[], bytes]] = {
    "samples of 10 classes": lambda: samples(noise(10, 12, 28, 28)),
    "samples of 2 classes, an image each": lambda: samples(noise(2, 1, 28, 28)),
    "samples of 40 classes": lambda: samples(noise(40, 12, 28, 28)),
    "samples with a class without images": lambda: pictures.samples(
        [*rows(noise(1, 3, 8, 6)), []], "01"
    ),
    "samples of large images": lambda: samples(noise(3, 12, 300, 200)),
    "samples of one pixel": lambda: samples(noise(3, 12, 1, 1)),
    "balance of 2 classes": lambda: pictures.balance(
        np.array([3, 900]), np.array([1, 1]), NUMBERS[:2]
    ),
    "balance of 40 classes": lambda: pictures.balance(np.arange(1, 41), np.arange(40), NUMBERS),
    "preprocessing": lambda: pictures.preprocessing(
        noise(28, 28), noise(784).astype(np.float32) / np.float32(255)
    ),
    "preprocessing of one pixel": lambda: pictures.preprocessing(noise(1, 1), np.ones(1, "f4")),
    "curves of one epoch": lambda: pictures.curves(history(1), 0.5),
    "curves of many epochs": lambda: pictures.curves(history(2000), 0.99),
    "confusion of 2 classes": lambda: confusion(confused(2)),
    "confusion of 10 classes": lambda: confusion(confused(10)),
    "confusion of 40 classes": lambda: confusion(confused(40)),
    "confusion of classes with names": lambda: confusion(
        confused(3), pictures.drawable(["T-shirt/top and more of it", "$x^2", "数字"])
    ),
    "balance of classes with names": lambda: pictures.balance(
        np.array([3, 900]), np.array([1, 1]), ["ant", "bumblebee"]
    ),
    "confusion without mistakes": lambda: confusion(np.diag([5, 7, 1])),
    "confusion with one mistake": lambda: confusion(np.array([[5, 1], [0, 7]])),
    "confusion without anything right": lambda: confusion(np.array([[0, 900], [1, 0]])),
    "reliability": lambda: pictures.reliability([EMPTY] * 5 + [SURE] * 5, 0.07),
    "reliability in one bin": lambda: pictures.reliability([*[EMPTY] * 9, SURE], 0.07),
    "gallery of 21": lambda: pictures.gallery(list(noise(21, 28, 28)), ["7 → 2\n99 %"] * 21, ""),
    "gallery of one": lambda: pictures.gallery([noise(400, 300)], ["7 → 2"], ""),
    "gallery of none": lambda: pictures.gallery([], [], "No mistakes."),
}


@pytest.mark.parametrize("what", DRAWINGS)
def test_picture_is_a_png_of_sane_size(what: str) -> None:
    content = DRAWINGS[what]()

    with Image.open(BytesIO(content)) as image:
        image.load()
        width, height = image.size
    assert "PNG" == image.format
    assert 250 <= width <= 1200
    assert 30 <= height <= 1800
    assert len(content) <= pictures.LIMIT_BYTES


def test_same_numbers_give_the_same_picture() -> None:
    assert confusion(confused(3)) == confusion(confused(3))


def test_picture_does_not_depend_on_the_user_s_own_style(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache key could not count it."""
    usual = pictures.curves(history(3), 0.9)
    monkeypatch.setitem(mpl.rcParams, "figure.facecolor", "black")
    monkeypatch.setitem(mpl.rcParams, "font.size", 20.0)

    assert usual == pictures.curves(history(3), 0.9)


def test_picture_is_a_white_card() -> None:
    with Image.open(BytesIO(pictures.curves(history(3), 0.9))) as image:
        assert (255, 255, 255) == image.convert("RGB").getpixel((0, 0))


def test_samples_show_the_images_as_they_are() -> None:
    """Ink is white and background black, so both occur, and beside them the card's white."""
    blank, inked = np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 255, np.uint8)

    def black_part(images: np.ndarray) -> float:
        with Image.open(BytesIO(pictures.samples([list(images)], "0"))) as image:
            return float((np.asarray(image.convert("L")) == 0).mean())

    assert black_part(blank) > 0.02
    assert black_part(inked) == 0


# --- the sheet -------------------------------------------------------------------------------


def broken(subject: str, rows: range, outcome: str = "failed") -> CheckResult:
    return CheckResult.model_validate(
        {
            "tier": "rows",
            "name": "duplicates",
            "subject": subject,
            "rule": "any",
            "severity": "warning",
            "outcome": outcome,
            "rows": tuple(rows),
        }
    )


def test_sheet_is_drawn_only_of_rows_that_failed() -> None:
    checks = [broken("x_train", range(0)), broken("x_train", range(3), "passed")]

    assert pictures.offender_sheet(checks, tiny_arrays(), NUMBERS) is None


def test_sheet_shows_at_most_25_images() -> None:
    def height(rows: int) -> int:
        sheet = pictures.offender_sheet(
            [broken("x_train", range(rows)), broken("y_test", range(rows))],
            tiny_arrays(60, 60),
            NUMBERS,
        )
        assert sheet is not None
        return Image.open(BytesIO(sheet)).height

    assert height(3) < height(6) < height(15) == height(60)


def test_sheet_of_noise_fits_an_artifact() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (25, 300, 300), np.uint8)
    arrays = {"x_train": noise, "y_train": np.arange(25, dtype=np.uint8)}

    sheet = pictures.offender_sheet([broken("x_train", range(25))], arrays, NUMBERS)

    assert sheet is not None
    assert len(sheet) <= pictures.LIMIT_BYTES


def test_sheet_shows_images_of_one_check_together() -> None:
    """Each check gets its turn, so that none is left out."""
    checks = [broken("x_train", range(30)), broken("y_test", range(2))]

    shown = list(pictures._offenders(checks))

    assert 25 == len(shown)
    assert [("duplicates", "test", 0), ("duplicates", "test", 1)] == shown[-2:]
    assert [("duplicates", "train", row) for row in range(23)] == shown[:-2]


# --- names -----------------------------------------------------------------------------------


def test_names_are_short_and_in_one_line_and_a_number_where_the_font_lacks_a_letter() -> None:
    names = ["ant", "T-shirt/top and more", "a\n b", "数字", "", "Größe", "$x$"]

    drawn = pictures.drawable(names)

    assert ["ant", "T-shirt/top and…", "a b", "class 3", "class 4", "Größe", "$x$"] == drawn


def test_picture_of_other_names_is_another_and_of_a_formula_is_drawn_as_text() -> None:
    drawn = {confusion(confused(2), names) for names in (["0", "1"], ["ant", "bee"], ["$", "$x^$"])}

    assert 3 == len(drawn)


@pytest.mark.parametrize(
    ("first", "second", "below", "lines"),
    [
        ("7", "→ 2", "98.7%", "7 → 2\n98.7%"),
        ("7,", "rather 2", "no. 12", "7, rather 2\nno. 12"),
        ("Ankle boot", "→ Sneaker", "98.7%", "Ankle boot\n→ Sneaker 98.7%"),
        ("Give way", "→ Level crossing", "98.7%", "Give way\n→ Level crossing\n98.7%"),
    ],
)
def test_caption_has_lines_of_about_the_same_length(
    first: str, second: str, below: str, lines: str
) -> None:
    assert lines == pictures.caption(first, second, below)
