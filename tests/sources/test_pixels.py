"""Pixels as people store them: what bytes come out, what is said of it, what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from builders import pieces

from tasks.errors import DatasetError
from tasks.sources.pixels import read_images
from tasks.sources.stream import Stream


def of(*values: float, dtype: str = "f8") -> np.ndarray:
    """Images of one pixel each."""
    return np.array(values, dtype).reshape(-1, 1, 1)


def read(train: np.ndarray, test: np.ndarray | None = None) -> tuple[list[int], list[str]]:
    """The pixels of the training images, and what was said, warnings after a `!`."""
    said: list[str] = []
    streams = {"x_train": pieces(train), "x_test": pieces(train if test is None else test)}
    images = read_images(streams, said.append, lambda text: said.append(f"! {text}"))
    found = list(images["x_train"].rows())
    assert all(piece.dtype == np.uint8 for piece in found)
    assert images["x_train"].shape == np.concatenate(found).shape
    return np.concatenate(found).ravel().tolist(), said


@pytest.mark.parametrize("dtype", ["|i1", "<i2", ">i4", "<u8", ">u2", "<f2", ">f4", "<f8"])
def test_whole_numbers_that_fit_become_bytes(dtype: str) -> None:
    pixels, said = read(of(0, 2, 127, dtype=dtype))

    assert [0, 2, 127] == pixels
    assert 1 == len(said)
    assert f"pixels {np.dtype(dtype)}, 0" in said[0]
    assert said[0].endswith(", read as uint8")


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "longdouble"])
def test_bytes_that_were_divided_by_255_come_back(dtype: str) -> None:
    whole = np.arange(256)

    pixels, said = read((whole / 255).astype(dtype).reshape(-1, 1, 1))

    assert whole.tolist() == pixels
    assert ["pixels in [0, 1] (0.0 … 1.0, not all whole) multiplied by 255"] == said


def test_pixels_in_the_unit_range_are_rounded() -> None:
    assert [0, 64, 128, 178] == read(of(0, 0.25, 0.5, 0.7))[0]


@pytest.mark.parametrize("dtype", ["|u1", "|b1", "<i8", "<f4"])
def test_zeros_and_ones_are_multiplied_with_a_warning(dtype: str) -> None:
    expected = ([0, 255, 255], ["! pixels are 0 and 1 only: multiplied by 255"])

    assert expected == read(of(0, 1, 1, dtype=dtype))


def test_bytes_stay_as_they_are_and_only_some_are_looked_at() -> None:
    looked_at = []

    def rows() -> Iterator[np.ndarray]:
        for piece in (of(0, 255, dtype="|u1"), of(3, dtype="|u1")):
            looked_at.append(len(piece))
            yield piece

    stream = Stream("array.npy", np.dtype(np.uint8), (3, 1, 1), rows)

    images = read_images({"x_train": stream}, pytest.fail, pytest.fail)

    assert images["x_train"] is stream
    assert [2] == looked_at


def test_blank_images_stay_blank() -> None:
    """Validation says what is wrong with them."""
    assert [0, 0] == read(of(0, 0, dtype="|u1"))[0]


def test_single_channel_is_dropped() -> None:
    pixels, said = read(np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1))

    assert list(range(6)) == pixels
    assert "x_train (1, 2, 3, 1) read as (1, 2, 3): its one channel is dropped" == said[0]


RULE = "Pixels must be whole numbers from 0 to 255, or lie in [0, 1]. Received: "


@pytest.mark.parametrize(
    ("images", "message", "advice"),
    [
        (of(-1, 1), f"{RULE}float64, -1.0 … 1.0 (in array.npy).", "Shift and divide"),
        (of(0, 300, dtype="<i2"), f"{RULE}int16, 0 … 300 (in array.npy).", "Divide by"),
        (of(0, 65535, dtype="<u2"), f"{RULE}uint16, 0 … 65535", "Divide by"),
        (of(0, 2.5), f"{RULE}float64, 0.0 … 2.5, not all whole", "Round them"),
        (of(0, np.nan), f"{RULE}float64, nan … nan, not all whole", "Replace what is no number"),
        (of(np.nan, 0), f"{RULE}float64, nan … nan, not all whole", "Replace what is no number"),
        (of(0, np.inf), f"{RULE}float64, 0.0 … inf", "Divide by"),
        (np.array([[["a"]]]), "x_train must hold numbers. Received: <U1 (in", "Save the pixels"),
        (np.zeros((2, 784)), "x_train must have the axes (image, row, column), and", "Reshape"),
        (np.zeros((2, 1, 4, 5)), "x_train must have the axes (image, row, column), and", "Reshape"),
        (np.zeros((2, 4, 5, 4)), "x_train must have the axes (image, row, column), and", "Reshape"),
    ],
)
def test_what_are_no_pixels_is_refused(images: np.ndarray, message: str, advice: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read(images)

    assert str(caught.value).startswith(message)
    assert advice in str(caught.value)


def test_splits_of_unlike_scales_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"must have one scale.*0\.0 … 200\.0, .*0\.5 … 0\.5, n"):
        read(of(0, 200), of(0.5))


def test_colour_is_kept_or_made_grey() -> None:
    primary = np.zeros((3, 1, 1, 3), np.uint8)
    primary[range(3), 0, 0, range(3)] = 255
    stream = pieces(primary)

    kept = read_images({"x_train": stream}, pytest.fail, pytest.fail)["x_train"]
    grey = read_images({"x_train": stream}, str, pytest.fail, grayscale=True)["x_train"]

    np.testing.assert_array_equal(primary, np.concatenate(list(kept.rows())))
    assert (3, 1, 1) == grey.shape
    assert [76, 150, 29] == np.concatenate(list(grey.rows())).ravel().tolist()  # as Pillow has it
