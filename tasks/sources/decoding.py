"""From encoded pictures, PNG, JPEG, BMP or GIF, to pixels of one shape.

    open_splits({"train": PictureSplit("digits/train", pieces, labels)}, reading)
    x_train: (60000, 28, 28) uint8, decoded by threads in pieces of a few MiB
    notes: "2 pictures turned upright, as the EXIF data say"

A format is recognised by content, whatever a file's name ends in. Of a GIF, and of a PNG that
moves, the first frame counts. What becomes of

a palette           the colours that it names; grey if all of it are
16 bits             the upper 8 of them
transparency        the picture as it looks on white paper
CMYK                RGB, as Pillow converts it, without a colour profile
1 bit               0 and 255
an EXIF orientation the picture is turned upright first
colour, as grey     luma: 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601)
grey, as colour     three equal channels
another size        bilinear, smoothed where it shrinks, proportions not kept

This module imports Pillow: import it inside the functions that decode.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tasks.errors import DatasetError, PipelineError, reason_of
from tasks.records import Reading
from tasks.sources.stream import CHUNK_BYTES, Picture, PictureSplit, Pieces, Stream, in_memory
from tasks.sources.verified import Opened

FORMATS = ("PNG", "JPEG", "BMP", "GIF")
THREADS = min(8, os.cpu_count() or 1)
MOST_PIXELS = 1 << 26  # of a picture: 200 MB in colour; a camera's has a third of that
MOST_BYTES = 1 << 28  # of a picture's file
HEAD_BYTES = 1 << 16
SMALL = 48 * 48  # values: to decode as few, threads wait for each other longer than they work
SURVEYED = 128  # pictures that are looked at in one go
SHOWN_SIZES = 4
PNG_START = re.compile(rb"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR.{10}", re.DOTALL)
PNG_FIELDS = slice(16, 26)  # columns, rows, bits, kind of colour
# By the kind of colour that a PNG declares, whether it is colour, and the bits that it may have.
PNG_KINDS = {
    0: (False, {1, 2, 4, 8, 16}),
    2: (True, {8, 16}),
    4: (False, {8, 16}),
    6: (True, {8, 16}),
}
GREY_WITH_ALPHA, COLOUR_WITH_ALPHA, SIXTEEN = 4, 6, 16
TURNED_PNG = re.compile(rb"eXIf|Raw profile|xmp")  # is in a PNG that may have an orientation
NOT_PLAIN = re.compile(rb"eXIf|Raw profile|xmp|tRNS")  # or a transparent colour
PALETTE_MODES = ("P", "PA")  # of Pillow
TURNED, SIDEWAYS = range(2, 9), range(5, 9)  # orientations of EXIF
REMOVE = "Replace it, or take it out of the dataset."
TRAITS = {  # what is said in the log, after the number of pictures
    "palette": "with a palette: its colours are taken",
    "16 bits": "of 16 bits: the upper 8 are taken",
    "transparency": "with transparency or an alpha channel: laid on white",
    "CMYK": "in CMYK: converted to RGB",
    "1 bit": "of 1 bit: 0 and 255",
    "turned": "turned upright, as the EXIF data say",
}


class Header(NamedTuple):
    """What a picture is like before it is decoded."""

    size: tuple[int, int]  # rows, columns
    colour: bool
    traits: tuple[str, ...] = ()  # of TRAITS


class Survey:
    """What all pictures of a dataset are like."""

    def __init__(self) -> None:
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.first: dict[tuple[int, int], str] = {}  # of each size, where
        self.colour = 0  # so many pictures are
        self.traits: Counter[str] = Counter()

    def add(self, picture: Picture) -> None:
        """Look at one more picture's header. Raises DatasetError if it is a bad one."""
        header = read_header(picture)
        self.sizes[header.size] += 1
        self.first.setdefault(header.size, picture.where)
        self.colour += header.colour
        self.traits.update(header.traits)

    def shape(self, reading: Reading) -> tuple[int, ...]:
        """(row, column) or (row, column, channel) of all. Raises DatasetError if sizes differ."""
        if reading.image_size is None and len(self.sizes) > 1:
            raise self._sizes_differ()
        size = reading.image_size or next(iter(self.sizes))
        return (*size, 3) if self.colour and not reading.grayscale else size

    def _sizes_differ(self) -> DatasetError:
        (usual, _), *_ = common = self.sizes.most_common(SHOWN_SIZES)
        shown = [f"{_by(size)} ({_pictures(n)}, as {self.first[size]})" for size, n in common]
        if len(self.sizes) > SHOWN_SIZES:
            shown.append(f"and {len(self.sizes) - SHOWN_SIZES:,} other sizes")
        return DatasetError(
            "All pictures must have the same size, in rows x columns.",
            received=shown,
            advice=f"Say to which size all are brought, as in --image-size {_by(usual, 'x')}.",
        )

    def notes(self, rows: int, columns: int, channels: int = 1) -> tuple[str, ...]:
        """What is done to the pictures so that all have this shape, for the log of the run."""
        said = [f"{_pictures(number)} {TRAITS[trait]}" for trait, number in self.traits.items()]
        pictures = self.sizes.total()
        if resized := pictures - self.sizes[rows, columns]:
            size = _by((rows, columns))
            said.append(f"{_pictures(resized)} resized to {size}, bilinear, proportions not kept")
        if channels > 1 and self.colour < pictures:
            grey = _pictures(pictures - self.colour, "grey ")
            said.append(f"{grey} beside those in colour: three equal channels")
        if self.colour and channels == 1:
            said.append(f"{_pictures(self.colour)} in colour: made grey (ITU-R BT.601 luma)")
        return tuple(said)


def open_splits(
    splits: Mapping[str, PictureSplit], reading: Reading
) -> tuple[dict[str, Stream], tuple[str, ...]]:
    """Look at the header of each picture: the streams, and what is done to the pictures.

    x_… are (image, row, column[, channel]) uint8 of the size that `reading` asks for. Without one
    all must have the same. If one is in colour, all are, unless they are to be grey. Raises
    DatasetError if sizes differ, or a file is no picture.
    """
    found = Survey()
    for split in splits.values():
        for pictures in split.pieces(SURVEYED):
            for picture in pictures:
                found.add(picture)
    shape, resize = found.shape(reading), reading.image_size is not None
    streams: dict[str, Stream] = {}
    for name, (where, pieces, labels) in splits.items():
        rows = partial(_decoded, pieces, shape, resize=resize)
        streams[f"x_{name}"] = Stream(where, np.dtype(np.uint8), (len(labels), *shape), rows)
        streams[f"y_{name}"] = in_memory(where, labels)
    return streams, found.notes(*shape)


def _decoded(pieces: Pieces, shape: tuple[int, ...], *, resize: bool) -> Iterator[np.ndarray]:
    """Decode consecutive pieces, in order. Raises DatasetError, which names the picture.

    The threads end with it, also when nobody asks for the next piece.
    """
    values = math.prod(shape)
    count = THREADS if resize or values > SMALL else 1
    into = partial(_decode_all, resize=resize)
    with ThreadPoolExecutor(count, thread_name_prefix="decode") as threads:
        for pictures in pieces(max(count, CHUNK_BYTES // values)):
            piece = np.empty((len(pictures), *shape), np.uint8)
            share = math.ceil(len(pictures) / count)
            shares = [slice(n, n + share) for n in range(0, len(pictures), share)]
            parts = [pictures[share] for share in shares]
            list(threads.map(into, parts, [piece[share] for share in shares]))
            yield piece


def _decode_all(pictures: Sequence[Picture], pixels: np.ndarray, *, resize: bool) -> None:
    for picture, of_picture in zip(pictures, pixels, strict=True):
        of_picture[...] = decode(picture, of_picture.shape, resize=resize)


def read_header(picture: Picture) -> Header:
    """A picture's size once it is upright, and whether it is colour. Raises DatasetError."""
    with _decodable(picture.where), picture.opened() as file:
        content = file.read(HEAD_BYTES)
        if PNG_START.match(content) and len(content) == HEAD_BYTES:
            content = _whole(file, picture.where)  # what turns it can come last
        return _plain_png(content) or _any_header(content, file, picture.where)


def _plain_png(content: bytes) -> Header | None:
    """Most PNGs say it in their first bytes: a fifth of Pillow's time."""
    if not PNG_START.match(content) or NOT_PLAIN.search(content):
        return None
    columns, rows, depth, kind = struct.unpack(">IIBB", content[PNG_FIELDS])
    colour, depths = PNG_KINDS.get(kind, (False, set()))
    if depth not in depths or not 0 < rows * columns <= MOST_PIXELS:
        return None
    traits = {
        "16 bits": depth == SIXTEEN,
        "1 bit": depth == 1,
        "transparency": kind in (GREY_WITH_ALPHA, COLOUR_WITH_ALPHA),
    }
    return Header((rows, columns), colour, tuple(filter(traits.get, traits)))


def _any_header(content: bytes, file: Opened, where: str) -> Header:
    file.seek(0)
    depth, kind = content[PNG_FIELDS][-2:] if PNG_START.match(content) else (0, None)
    with Image.open(file, formats=FORMATS) as image:
        _check_pixels(image, where)
        # Asked for its EXIF data, Pillow decodes a PNG.
        exif = image.getexif() if _may_be_turned(content) else {}
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        traits = {
            "palette": image.mode in PALETTE_MODES,
            "16 bits": depth == SIXTEEN,
            "transparency": _transparent(image),
            "CMYK": image.mode == "CMYK",
            "1 bit": image.mode == "1",
            "turned": orientation in TURNED,
        }
        grey = Image.getmodebase(image.mode) == "L" or kind == GREY_WITH_ALPHA
        colour = not (_grey_palette(image) if image.mode in PALETTE_MODES else grey)
        size = (image.width, image.height) if orientation in SIDEWAYS else image.size[::-1]
    return Header(size, colour, tuple(filter(traits.get, traits)))


def decode(picture: Picture, shape: tuple[int, ...], *, resize: bool) -> np.ndarray:
    """A picture's pixels, uint8 (row, column) or (row, column, channel). Raises DatasetError."""
    rows, columns, *channels = shape
    with _decodable(picture.where):
        with picture.opened() as file:
            content = _whole(file, picture.where)
        image: Any = Image.open(BytesIO(content), formats=FORMATS)
        _check_pixels(image, picture.where)
        if _may_be_turned(content):
            ImageOps.exif_transpose(image, in_place=True)
        if not resize and image.size != (columns, rows):
            raise ValueError(f"{_by(image.size[::-1])} pixels, where its header said {_by(shape)}")
        image = _converted(image, "RGB" if channels else "L")
        if image.size != (columns, rows):
            image = image.resize((columns, rows), Image.Resampling.BILINEAR)
        return np.asarray(image)


def _whole(file: Opened, where: str) -> bytes:
    size_bytes = file.seek(0, os.SEEK_END)
    if size_bytes > MOST_BYTES:
        raise DatasetError(
            f"A picture's file has at most {MOST_BYTES:,} bytes.",
            received=f"{size_bytes:,} bytes",
            where=where,
            advice=REMOVE,
        )
    file.seek(0)
    return file.read()


def _may_be_turned(content: bytes) -> bool:
    return not PNG_START.match(content) or TURNED_PNG.search(content) is not None


def _converted(image: Any, mode: str) -> Any:
    """To the mode L or RGB, as the table at the top says."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif _transparent(image):
        ink = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", ink.size, "white"), ink)
    if image.mode not in ("1", "L", "P", "RGB"):
        image = image.convert("RGB")  # what else there is has no way of its own to grey
    return image if image.mode == mode else image.convert(mode)


def _transparent(image: Any) -> bool:
    return image.has_transparency_data and not image.mode.startswith("I;16")


def _grey_palette(image: Any) -> bool:
    red, green, blue = (image.getpalette()[channel::3] for channel in range(3))
    return bool(red == green == blue)


def _check_pixels(image: Any, where: str) -> None:
    """Before anything is decoded: a few bytes can promise gigabytes of pixels."""
    if image.width * image.height > MOST_PIXELS:
        raise DatasetError(
            f"A picture has at most {MOST_PIXELS:,} pixels.",
            received=_by(image.size[::-1]),
            where=where,
            advice=REMOVE,
        )


@contextmanager
def _decodable(where: str) -> Iterator[None]:
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's parsers raise what they happen to
        reason = reason_of(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "none of these, or damaged at its start"
        raise DatasetError(
            f"A picture must be a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
            received=reason,
            where=where,
            advice=REMOVE,
        ) from None


def _pictures(number: int, kind: str = "") -> str:
    return f"{number:,} {kind}picture{'' if number == 1 else 's'}"


def _by(size: tuple[int, ...], sign: str = " x ") -> str:
    return f"{size[0]}{sign}{size[1]}"
