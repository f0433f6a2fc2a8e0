"""From encoded pictures, PNG, JPEG, BMP or GIF, to pixels of one shape.

    survey([pictures])    Survey(sizes={(28, 28): 60000}, colour=0, traits={"turned upright": 2}, …)
    PictureStream(…)      (60000, 28, 28) uint8, decoded by threads in pieces of a few MiB

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader, BytesIO
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tasks.errors import DatasetError, PipelineError, reason_of
from tasks.sources.examples import Picture
from tasks.sources.stream import CHUNK_BYTES

FORMATS = ("PNG", "JPEG", "BMP", "GIF")
THREADS = min(8, os.cpu_count() or 1)
MOST_PIXELS = 1 << 26  # of a picture: 200 MB in colour; a camera's has a third of that
MOST_BYTES = 1 << 28  # of a picture's file
HEAD_BYTES = 1 << 16
SMALL = 48 * 48  # values: to decode as few, threads wait for each other longer than they work
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


@dataclass
class Survey:
    """What all pictures of a dataset are like."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    first: dict[tuple[int, int], str] = field(default_factory=dict)  # of each size, where
    colour: int = 0  # so many pictures are
    traits: Counter[str] = field(default_factory=Counter)

    def add(self, picture: Picture, header: Header) -> None:
        """Count one more."""
        self.sizes[header.size] += 1
        self.first.setdefault(header.size, picture.where)
        self.colour += header.colour
        self.traits.update(header.traits)

    def shape(self, image_size: tuple[int, int] | None, *, grayscale: bool) -> tuple[int, ...]:
        """(row, column) or (row, column, channel) of all. Raises DatasetError if sizes differ."""
        if image_size is None and len(self.sizes) > 1:
            raise self._sizes_differ()
        size = image_size or next(iter(self.sizes))
        return (*size, 3) if self.colour and not grayscale else size

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

    def notes(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """What is done to the pictures so that all have this shape, for the log of the run."""
        said = [f"{_pictures(number)} {TRAITS[trait]}" for trait, number in self.traits.items()]
        pictures, resized = self.sizes.total(), self.sizes.total() - self.sizes[shape[0], shape[1]]
        if resized:
            size = _by((shape[0], shape[1]))
            said.append(f"{_pictures(resized)} resized to {size}, bilinear, proportions not kept")
        colour = len(shape) == len(("row", "column", "channel"))
        if colour and self.colour < pictures:
            grey = _pictures(pictures - self.colour, "grey ")
            said.append(f"{grey} beside those in colour: three equal channels")
        if self.colour and not colour:
            said.append(f"{_pictures(self.colour)} in colour: made grey (ITU-R BT.601 luma)")
        return tuple(said)


@dataclass(frozen=True)
class PictureStream:
    """A stream of pictures of one shape, (row, column) or (row, column, channel) each."""

    where: str
    shape: tuple[int, ...]
    resize: bool
    pieces: Callable[[int], Iterable[Sequence[Picture]]]  # of at most so many pictures

    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    def rows(self) -> Iterator[np.ndarray]:
        """Decode consecutive pieces, in order. Raises DatasetError, which names the picture.

        The threads end with it, also when nobody asks for the next piece.
        """
        shape, values = self.shape[1:], math.prod(self.shape[1:])
        count = THREADS if self.resize or values > SMALL else 1
        into = partial(_decode_all, resize=self.resize)
        with ThreadPoolExecutor(count, thread_name_prefix="decode") as threads:
            for pictures in self.pieces(max(count, CHUNK_BYTES // values)):
                piece = np.empty((len(pictures), *shape), np.uint8)
                share = math.ceil(len(pictures) / count)
                shares = [slice(n, n + share) for n in range(0, len(pictures), share)]
                parts = [pictures[share] for share in shares]
                list(threads.map(into, parts, [piece[share] for share in shares]))
                yield piece


def survey(pictures: Iterable[Picture]) -> Survey:
    """Look at the header of every picture. Raises DatasetError, which names the first bad one."""
    found = Survey()
    for picture in pictures:
        found.add(picture, read_header(picture))
    return found


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
    traits = [
        *(["16 bits"] if depth == SIXTEEN else []),
        *(["1 bit"] if depth == 1 else []),
        *(["transparency"] if kind in (GREY_WITH_ALPHA, COLOUR_WITH_ALPHA) else []),
    ]
    return Header((rows, columns), colour, tuple(traits))


def _any_header(content: bytes, file: BufferedReader | BytesIO, where: str) -> Header:
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
    return Header(size, colour, tuple(name for name, has in traits.items() if has))


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


def _whole(file: BufferedReader | BytesIO, where: str) -> bytes:
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
