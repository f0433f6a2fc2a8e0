"""Pictures in class folders: which layouts are taken, what becomes of each kind of picture."""

from __future__ import annotations

import os
import struct
import threading
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tasks.errors import DatasetError
from tasks.records import Reading
from tasks.sources import decoding
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.pictures import open_pictures, picture_files
from tasks.sources.stream import OpenedDataset

RAMP = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)  # 3 rows of 4: no two pixels are equal
GREY = Image.fromarray(RAMP)
COLOUR = Image.fromarray(np.stack([RAMP, RAMP + 7, 250 - RAMP], axis=2))
ORIENTATION = 0x0112


def place(root: Path, *paths: str, picture: Image.Image = GREY) -> Path:
    """Write this picture at each of these places."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / path)
    return root


def opened(root: Path, **options: Any) -> OpenedDataset:
    return open_pictures(picture_files(root), reading=Reading(**options))


def images(root: Path, split: str = "train", **options: Any) -> np.ndarray:
    return np.concatenate(list(opened(root, **options).streams[f"x_{split}"].rows()))


def labels(dataset: OpenedDataset, split: str = "train") -> list[int]:
    return np.concatenate(list(dataset.streams[f"y_{split}"].rows())).tolist()


def refusal(root: Path, **options: Any) -> str:
    """Of opening, or else of reading."""

    def read() -> None:
        for stream in opened(root, **options).streams.values():
            list(stream.rows())

    with pytest.raises(DatasetError) as caught:
        read()
    return str(caught.value)


# --- layouts ---------------------------------------------------------------------------------


def test_splits_of_class_folders_are_read(tmp_path: Path) -> None:
    for number, path in enumerate(
        ("train/0/b.png", "train/0/a.png", "train/1/a.png", "test/0/z.png", "test/1/z.png")
    ):
        place(tmp_path, path, picture=Image.new("L", (2, 2), number))

    dataset = opened(tmp_path)

    assert list(dataset.streams) == ["x_train", "y_train", "x_test", "y_test"]
    assert images(tmp_path)[:, 0, 0].tolist() == [1, 0, 2]  # by name in each class
    assert images(tmp_path, "test")[:, 0, 0].tolist() == [3, 4]
    assert (labels(dataset), labels(dataset, "test")) == ([0, 0, 1], [0, 1])
    assert dataset.names == {0: "0", 1: "1"}
    assert dataset.streams["x_train"].dtype == np.uint8
    assert dataset.streams["x_train"].shape == (3, 2, 2)
    assert dataset.notes == (
        "pictures in class folders: 2 classes, numbered in the order of names",
    )


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("valid", "validation"),
        ("val", "validation"),
        ("validation", "validation"),
        ("Validation", "validation"),
        ("test", "test"),
        ("testing", "test"),
        ("TEST", "test"),
    ],
)
@pytest.mark.parametrize("train", ["train", "training", "Train"])
def test_splits_have_their_usual_names(tmp_path: Path, train: str, folder: str, split: str) -> None:
    place(tmp_path, f"{train}/a/1.png", f"{folder}/a/1.png", f"{folder}/a/2.png")

    streams = opened(tmp_path).streams

    assert {name: stream.shape[0] for name, stream in streams.items()} == {
        **dict.fromkeys(("x_train", "y_train"), 1),
        **dict.fromkeys((f"x_{split}", f"y_{split}"), 2),
    }


def test_files_come_split_by_split_in_order(tmp_path: Path) -> None:
    place(tmp_path, "val/a/1.png", "test/a/1.png", "train/b/1.png", "train/a/2.png")

    found = [path.relative_to(tmp_path).as_posix() for path in picture_files(tmp_path)]

    assert found == ["train/a/2.png", "train/b/1.png", "val/a/1.png", "test/a/1.png"]


def test_class_folders_alone_are_training_images(tmp_path: Path) -> None:
    place(tmp_path, "cat/1.png", "ant/1.png", "ant/2.png")

    dataset = opened(tmp_path)

    assert list(dataset.streams) == ["x_train", "y_train"]
    assert labels(dataset) == [0, 0, 1]
    assert dataset.names == {0: "ant", 1: "cat"}


@pytest.mark.parametrize("split", ["train", "test", "my digits"])
def test_folder_of_a_split_alone_is_training_images(tmp_path: Path, split: str) -> None:
    place(tmp_path, f"{split}/a/1.png", f"{split}/b/1.png", "other/test/1.png")

    assert list(opened(tmp_path / split).streams) == ["x_train", "y_train"]


def test_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    place(tmp_path, "bus/1.png", "train/1.png", "train/2.png")

    dataset = opened(tmp_path)

    assert (dataset.names, labels(dataset)) == ({0: "bus", 1: "train"}, [0, 1, 1])


def test_classes_are_numbered_in_the_order_of_their_names_as_keras_has_it(tmp_path: Path) -> None:
    place(tmp_path, *(f"{number}/1.png" for number in range(12)))

    names = opened(tmp_path).names

    assert names is not None
    assert list(names.values()) == ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]


def test_name_of_a_class_is_the_same_however_its_letters_are_stored(tmp_path: Path) -> None:
    place(tmp_path, "train/caf\u00e9/1.png", "test/cafe\u0301/1.png")  # as a Mac stores it

    assert opened(tmp_path).names == {0: "café"}


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "bmp", "gif", "PNG", "JPG"])
def test_format_is_read(tmp_path: Path, ending: str) -> None:
    place(tmp_path, f"a/1.{ending}", picture=Image.new("L", (5, 3), 200))

    np.testing.assert_array_equal(np.full((1, 3, 5), 200, np.uint8), images(tmp_path))


def test_format_is_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    GREY.save(tmp_path / "a" / "1.jpg", "PNG")

    np.testing.assert_array_equal([RAMP], images(tmp_path))


def test_first_frame_of_a_gif_counts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    frames = [Image.new("L", (4, 3), level) for level in (10, 90)]
    frames[0].save(tmp_path / "a" / "1.gif", save_all=True, append_images=frames[1:])

    assert np.unique(images(tmp_path)).tolist() == [10]


def test_what_systems_leave_behind_is_passed_over_and_counted(tmp_path: Path) -> None:
    place(tmp_path, "train/a/1.png", "train/a/._1.png", "train/.ipynb_checkpoints/1.png")
    place(tmp_path, "__MACOSX/train/a/1.png")
    for name in (".DS_Store", "train/Thumbs.db", "train/a/desktop.ini"):
        (tmp_path / name).write_bytes(b"")

    dataset = opened(tmp_path / "train")

    assert dataset.streams["x_train"].shape[0] == 1
    assert dataset.notes[1:] == ("4 hidden files or folders, or a desktop's, passed over",)
    assert opened(tmp_path).streams["x_train"].shape[0] == 1


def test_other_files_are_passed_over_and_named(tmp_path: Path) -> None:
    place(tmp_path, "train/a/1.png", "test/a/1.png", "sample.png")
    for name in ("README.md", "train/labels.csv", "train/a/notes.txt"):
        (tmp_path / name).write_text("text")
    (tmp_path / "models").mkdir()

    said = opened(tmp_path).notes[1]

    assert said == (
        "README.md, sample.png, models/ and 2 more passed over: no pictures in a class folder"
    )


def test_folder_without_pictures_is_no_class(tmp_path: Path) -> None:
    place(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()

    dataset = opened(tmp_path)

    assert dataset.names == {0: "a"}
    assert dataset.notes[1:] == ("b/ passed over: no pictures in a class folder",)


@pytest.mark.parametrize("content", [(), ("1.png",), ("deep/er/a/1.png",), ("docs/readme.txt",)])
def test_other_folders_are_none(tmp_path: Path, content: tuple[str, ...]) -> None:
    for path in content:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")

    assert picture_files(tmp_path) == []


def test_file_and_missing_place_are_none(tmp_path: Path) -> None:
    place(tmp_path, "1.png")

    assert picture_files(tmp_path / "1.png") == []
    assert picture_files(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        pytest.param(
            ("train/a/1.png", "train/b/1.png", "test/a/1.png"),
            "Each split must have pictures of the same classes. "
            "Received: no pictures of b in test (in {root}).",
            id="a class that one split lacks",
        ),
        pytest.param(
            ("train/a/1.png", "train/Cat/1.png", "val/a/1.png", "val/cat/1.png"),
            "Received: no pictures of Cat in validation, no pictures of cat in train (in {root}).",
            id="classes that are spelled differently",
        ),
        pytest.param(
            ("train/a/1.png", "test/1.png", "test/2.png"),
            "Each picture of a split lies in the folder of its class. "
            "Received: 2 pictures in none, 1.png first (in {root}/test).",
            id="test pictures without classes",
        ),
        pytest.param(
            ("test/a/1.png", "val/a/1.png"),
            "A dataset of pictures in splits has a folder train. Received: test, val (in {root}).",
            id="no training pictures",
        ),
        pytest.param(
            ("train/a/1.png", "val/a/1.png", "valid/a/1.png"),
            "One folder holds a split. "
            "Received: a second folder for validation, valid (in {root}).",
            id="two folders for a split",
        ),
        pytest.param(
            ("a/1.png", "a/more/2.png"),
            "The folder of a class holds pictures and no further folders. "
            "Received: more (in {root}/a).",
            id="a folder in a class",
        ),
        pytest.param(
            ("a/1.png", "b/1.tif", "b/2.tif"),
            "Pictures must be PNG, JPEG, BMP or GIF. "
            "Received: 2 others, 1.tif first (in {root}/b).",
            id="another format",
        ),
    ],
)
def test_layout_that_would_lose_pictures_is_refused(
    tmp_path: Path, paths: tuple[str, ...], message: str
) -> None:
    place(tmp_path, *paths)

    assert message.format(root=tmp_path) in refusal(tmp_path)


def test_link_to_nothing_is_refused(tmp_path: Path) -> None:
    place(tmp_path, "a/1.png")
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "absent.png")

    assert f"a link to nothing, or a device (in {tmp_path}/a/2.png)" in refusal(tmp_path)


def test_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    place(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "2.png")

    assert f"a link to nothing, or a device (in {tmp_path}/a/2.png)" in refusal(tmp_path)


@pytest.mark.parametrize("name", [b"\xff", b"docs/\xff", b"docs/1.tif"])
def test_odd_folders_of_another_dataset_are_none(tmp_path: Path, name: bytes) -> None:
    """They are in the way of no other reader."""
    os.makedirs(os.fsencode(tmp_path) + b"/" + name)  # noqa: PTH103 - pathlib has no bytes

    assert picture_files(tmp_path) == []


def test_name_that_is_no_text_is_refused_in_letters_that_can_be_shown(tmp_path: Path) -> None:
    place(tmp_path, "a/1.png")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH102 - pathlib has no bytes

    message = refusal(tmp_path)

    assert "must be readable text in UTF-8. Received: '\\udcff'" in message
    message.encode()


# --- kinds of pictures -----------------------------------------------------------------------


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def write(root: Path, *contents: bytes) -> Path:
    """Each a picture of the one class, in this order."""
    (root / "a").mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        (root / "a" / f"{number}.png").write_bytes(content)
    return root


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(size: tuple[int, int], depth: int, kind: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG (columns, rows) byte by byte; each row starts with a filter's number, 0."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *more, pixels, chunk(b"IEND", b"")])


GREY_CASES = {
    "8 bits": (png((2, 1), 8, 0, b"\0\x01\xfe"), [1, 254], None),
    "1 bit": (png((2, 1), 1, 0, b"\0\x40"), [0, 255], "1 picture of 1 bit: 0 and 255"),
    "2 bits": (png((2, 1), 2, 0, b"\0\x90"), [170, 85], None),
    "4 bits": (png((2, 1), 4, 0, b"\0\x1f"), [17, 255], None),
    "16 bits": (
        png((2, 1), 16, 0, b"\0\x01\xff\xff\x00"),
        [1, 255],
        "1 picture of 16 bits: the upper 8 are taken",
    ),
    "alpha": (  # black at half, none and full strength: on white
        png((3, 1), 8, 4, b"\0\0\x80\0\0\0\xff"),
        [127, 255, 0],
        "1 picture with transparency or an alpha channel: laid on white",
    ),
    "16 bits, alpha": (
        png((2, 1), 16, 4, b"\0\x40\0\xff\xff\x40\0\0\0"),
        [64, 255],
        "1 picture of 16 bits: the upper 8 are taken",
    ),
    "transparent grey": (
        png((2, 1), 8, 0, b"\0\x07\x09", chunk(b"tRNS", b"\0\x07")),
        [255, 9],
        "1 picture with transparency or an alpha channel: laid on white",
    ),
    "grey palette": (
        png((2, 1), 8, 3, b"\0\x01\0", chunk(b"PLTE", bytes([50] * 3 + [90] * 3))),
        [90, 50],
        "1 picture with a palette: its colours are taken",
    ),
}


@pytest.mark.parametrize("case", GREY_CASES)
def test_grey_picture_stays_grey(tmp_path: Path, case: str) -> None:
    content, pixels, note = GREY_CASES[case]
    write(tmp_path, content)

    assert images(tmp_path).tolist() == [[pixels]]
    assert opened(tmp_path).notes[1:2] == (() if note is None else (note,))


COLOUR_CASES = {
    "8 bits": (png((1, 2), 8, 2, b"\0\x01\x02\x03\0\x04\x05\x06"), [[1, 2, 3], [4, 5, 6]]),
    "16 bits": (png((1, 1), 16, 2, b"\0\x01\xff\x02\xff\x03\xff"), [[1, 2, 3]]),
    "alpha": (png((2, 1), 8, 6, b"\0\x01\x02\x03\xff\x09\x09\x09\0"), [[1, 2, 3], [255] * 3]),
    "palette": (
        png((2, 1), 8, 3, b"\0\x01\0", chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6]))),
        [[4, 5, 6], [1, 2, 3]],
    ),
    "palette with a transparent colour": (
        png(
            *((2, 1), 8, 3, b"\0\x01\0"),
            *(chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])), chunk(b"tRNS", b"\0")),
        ),
        [[4, 5, 6], [255, 255, 255]],
    ),
}


@pytest.mark.parametrize("case", COLOUR_CASES)
def test_colours_of_a_picture_are_kept(tmp_path: Path, case: str) -> None:
    content, pixels = COLOUR_CASES[case]
    write(tmp_path, content)

    assert images(tmp_path).reshape(-1, 3).tolist() == pixels


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    write(tmp_path, encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))

    assert images(tmp_path)[0, 0, 0].tolist() == [255, 0, 0]
    assert "1 picture in CMYK: converted to RGB" in opened(tmp_path).notes
    assert np.unique(images(tmp_path, grayscale=True)).tolist() == [76]  # 0.299 x 255


def test_one_picture_in_colour_makes_all_of_them(tmp_path: Path) -> None:
    write(tmp_path, encoded(GREY), encoded(COLOUR))

    found = images(tmp_path)

    assert found.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(np.stack([RAMP] * 3, axis=2), found[0])
    np.testing.assert_array_equal(COLOUR, found[1])
    assert opened(tmp_path).notes[1] == (
        "1 grey picture beside those in colour: three equal channels"
    )


def test_colour_in_another_split_counts(tmp_path: Path) -> None:
    place(tmp_path, "train/a/1.png")
    place(tmp_path, "test/a/1.png", picture=COLOUR)

    assert opened(tmp_path).streams["x_train"].shape == (1, 3, 4, 3)


def test_grayscale_makes_all_grey_by_their_luma(tmp_path: Path) -> None:
    colours = Image.new("RGB", (3, 1))
    colours.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    write(tmp_path, encoded(colours), encoded(Image.new("L", (3, 1), 9)))

    found = images(tmp_path, grayscale=True)

    assert found.tolist() == [[[76, 150, 29]], [[9, 9, 9]]]  # 0.299, 0.587, 0.114 of 255
    assert opened(tmp_path, grayscale=True).notes[1] == (
        "1 picture in colour: made grey (ITU-R BT.601 luma)"
    )


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, RAMP),
        (2, RAMP[:, ::-1]),
        (3, RAMP[::-1, ::-1]),
        (4, RAMP[::-1]),
        (5, RAMP.T),
        (6, np.rot90(RAMP, -1)),
        (7, RAMP[::-1, ::-1].T),
        (8, np.rot90(RAMP)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_picture_is_turned_upright(
    tmp_path: Path, kind: str, orientation: int, upright: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 100} if kind == "JPEG" else {}
    write(tmp_path, encoded(GREY, kind, exif=exif, **options))

    (found,) = images(tmp_path)

    assert found.shape == upright.shape
    np.testing.assert_allclose(found.astype(int), upright, atol=3 if kind == "JPEG" else 0)
    turned = ("1 picture turned upright, as the EXIF data say",)
    assert opened(tmp_path).notes[1:] == (() if orientation == 1 else turned)


def test_orientation_after_the_pixels_of_a_large_png_counts(tmp_path: Path) -> None:
    noise = np.random.default_rng(14).integers(0, 256, (300, 400), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(Image.fromarray(noise))
    end = chunk(b"IEND", b"")
    assert content.endswith(end)
    assert len(content) > decoding.HEAD_BYTES
    write(
        tmp_path,
        content.removesuffix(end) + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + end,
    )

    np.testing.assert_array_equal([np.rot90(noise, -1)], images(tmp_path))


def test_descriptions_in_a_png_change_nothing(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Software", "a plotting library")
    write(tmp_path, encoded(GREY, pnginfo=info, dpi=(100, 100)))

    np.testing.assert_array_equal([RAMP], images(tmp_path))


# --- sizes -----------------------------------------------------------------------------------


def test_sizes_that_differ_are_one_error_that_counts_them(tmp_path: Path) -> None:
    sizes = [(28, 28)] * 3 + [(30, 28)] * 2 + [(31, 31), (32, 32), (33, 33), (34, 34)]
    write(tmp_path, *(encoded(Image.new("L", size)) for size in sizes))

    message = refusal(tmp_path)

    assert message == (
        "All pictures must have the same size, in rows x columns. Received: "
        f"28 x 28 (3 pictures, as {tmp_path}/a/0.png), "
        f"28 x 30 (2 pictures, as {tmp_path}/a/3.png), "
        f"31 x 31 (1 picture, as {tmp_path}/a/5.png), 32 x 32 (1 picture, as {tmp_path}/a/6.png), "
        "and 2 other sizes. Say to which size all are brought, as in --image-size 28x28."
    )


def test_sizes_that_differ_between_splits_are_refused(tmp_path: Path) -> None:
    place(tmp_path, "train/a/1.png")
    place(tmp_path, "test/a/1.png", picture=Image.new("L", (5, 5)))

    assert "3 x 4 (1 picture" in refusal(tmp_path)


def test_image_size_is_what_all_are_brought_to(tmp_path: Path) -> None:
    """Each pixel of the smaller picture is the mean of four equal ones of the larger."""
    large = np.repeat(np.repeat(RAMP, 2, axis=0), 2, axis=1)
    write(tmp_path, encoded(GREY), encoded(Image.fromarray(large)))

    dataset = opened(tmp_path, image_size=(3, 4))

    (same, reduced) = images(tmp_path, image_size=(3, 4))
    np.testing.assert_array_equal(RAMP, same)
    by_pillow = Image.fromarray(large).resize((4, 3), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(by_pillow, reduced)
    assert dataset.streams["x_train"].shape == (2, 3, 4)
    assert dataset.notes[1] == "1 picture resized to 3 x 4, bilinear, proportions not kept"


def test_image_size_applies_to_colour_and_palettes(tmp_path: Path) -> None:
    colours = Image.new("RGB", (6, 2), (10, 200, 30))
    write(tmp_path, encoded(colours), encoded(colours.quantize()), encoded(colours, "GIF"))

    found = images(tmp_path, image_size=(5, 7))

    assert found.shape == (3, 5, 7, 3)
    assert np.unique(found.reshape(-1, 3), axis=0).tolist() == [[10, 200, 30]]


# --- pieces and threads ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3, 4), (60, 70)], ids=["small", "large"])
def test_pieces_keep_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 20 * size[0] * size[1])
    pictures = [np.full(size, number, np.uint8) for number in range(200)]
    (tmp_path / "a").mkdir()
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number:03}.png")

    pieces = list(opened(tmp_path).streams["x_train"].rows())

    np.testing.assert_array_equal(pictures, np.concatenate(pieces))
    assert len(pieces) > 2
    assert max(piece.nbytes for piece in pieces[1:]) <= 20 * size[0] * size[1]


def decoders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("end", ["close", "error", "read"])
def test_threads_end_with_the_reader(tmp_path: Path, end: str) -> None:
    large = encoded(Image.new("L", (90, 90)))
    write(tmp_path, *[large] * 70)
    rows = iter(opened(tmp_path).streams["x_train"].rows())
    next(rows)
    assert decoders()

    if end == "close":
        rows.close()  # type: ignore[attr-defined]
    elif end == "read":
        list(rows)
    else:
        (tmp_path / "a" / "69.png").write_bytes(large[: len(large) // 2])
        (tmp_path / "a" / "9.png").write_bytes(
            large[: len(large) // 2]
        )  # comes later in the order of names
        with pytest.raises(DatasetError, match=r"a/69\.png"):
            list(rows)

    assert decoders() == []


def test_abandoned_reader_ends_its_threads(tmp_path: Path) -> None:
    write(tmp_path, *[encoded(Image.new("L", (90, 90)))] * 70)

    next(iter(opened(tmp_path).streams["x_train"].rows()))

    assert decoders() == []


def test_memory_is_that_of_a_few_pieces(tmp_path: Path) -> None:
    """50 MB of pixels, in pieces of 4."""
    write(tmp_path, *[encoded(Image.new("L", (1000, 1000), 7))] * 50)
    stream = opened(tmp_path).streams["x_train"]
    tracemalloc.start()
    for piece in stream.rows():
        assert piece.nbytes <= max(decoding.CHUNK_BYTES, decoding.THREADS * 1_000_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 30_000_000


# --- odd files -------------------------------------------------------------------------------

TEXT = "A picture must be a whole PNG, JPEG, BMP or GIF. Received: "
MOST_PIXELS = "A picture has at most 67,108,864 pixels. Received: "
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8))
ODD = {
    "empty": (b"", f"{TEXT}none of these, or damaged at its start"),
    "text": (b"not a picture", f"{TEXT}none of these"),
    "TIFF": (encoded(GREY, "TIFF"), f"{TEXT}none of these"),
    "PNG cut short": (encoded(NOISE)[:-200], f"{TEXT}image file is truncated"),
    "PNG cut in its header": (encoded(NOISE)[:20], TEXT),
    "PNG of no size": (png((0, 5), 8, 0, b""), TEXT),
    "PNG of unknown depth": (png((2, 1), 9, 0, b"\0\0\0"), TEXT),
    "PNG with a damaged header": (encoded(NOISE).replace(b"IHDR\0", b"IHDR\1"), TEXT),
    "PNG with damaged pixels": (
        encoded(NOISE).replace(b"IDATx", b"IDATX"),
        f"{TEXT}",
    ),
    "JPEG cut short": (encoded(NOISE, "JPEG")[:-500], f"{TEXT}image file is truncated"),
    "GIF cut short": (encoded(NOISE, "GIF")[:900], f"{TEXT}image file is truncated"),
    "BMP cut short": (encoded(NOISE, "BMP")[:-500], f"{TEXT}image file is truncated"),
    "GIF without a frame": (encoded(NOISE, "GIF")[:13], TEXT),
    "bomb": (png((9_000, 9_001), 8, 0, b""), f"{MOST_PIXELS}9001 x 9000"),
    "larger bomb": (png((10_000, 10_000), 8, 0, b""), f"{MOST_PIXELS}10000 x 10000"),
    "largest bomb": (png((200_000, 200_000), 8, 2, b""), f"{TEXT}Image size (40000000000 pixels)"),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_odd_file_is_refused_by_its_path(tmp_path: Path, case: str) -> None:
    content, message = ODD[case]
    write(tmp_path, encoded(NOISE), content)

    received = refusal(tmp_path, image_size=(40, 40))

    assert received.startswith(message)
    assert f"(in {tmp_path}/a/1.png). Replace it, or take it out of the dataset." in received


def test_file_of_too_many_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, encoded(NOISE))
    monkeypatch.setattr(decoding, "MOST_BYTES", 1000)

    assert "A picture's file has at most 1,000 bytes. Received: 1," in refusal(tmp_path)


def test_file_that_disappears_is_named(tmp_path: Path) -> None:
    write(tmp_path, encoded(GREY), encoded(GREY))
    stream = opened(tmp_path).streams["x_train"]
    (tmp_path / "a" / "1.png").unlink()

    with pytest.raises(DatasetError, match=r"No such file or directory \(in .*/a/1\.png\)"):
        list(stream.rows())


def test_picture_that_became_larger_is_refused(tmp_path: Path) -> None:
    write(tmp_path, encoded(GREY))
    stream = opened(tmp_path).streams["x_train"]
    write(tmp_path, encoded(Image.new("L", (9, 9))))

    with pytest.raises(DatasetError, match=r"9 x 9 pixels, where its header said 3 x 4"):
        list(stream.rows())


def test_name_of_an_only_class_counts_in_the_key(tmp_path: Path) -> None:
    contents, names = [], []
    for number, name in enumerate(("cat", "dog")):
        root = place(tmp_path / str(number), f"{name}/1.png", f"{name}/2.png")
        source = find_dataset(str(root), downloads=tmp_path, name="mine")
        contents.append(source.content())
        names.append(open_dataset(source).names)
    assert [{0: "cat"}, {0: "dog"}] == names
    assert contents[0] != contents[1]
