"""Pixels as people store them, to uint8 images, 0 … 255, grey or in colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tasks.errors import DatasetError
from tasks.sources.stream import Stream

UINT8 = np.dtype(np.uint8)
BRIGHTEST = 255
COLOURS = 3
LUMINANCE = np.array([0.299, 0.587, 0.114])
WHOLE_OR_UNIT = "Pixels must be whole numbers from 0 to 255, or lie in [0, 1]."
Say = Callable[[str], object]


class _Values(NamedTuple):
    """What the values of some images are like."""

    lowest: Any
    highest: Any
    whole: bool

    @property
    def unit(self) -> bool:
        return bool(self.lowest >= 0 and self.highest <= 1)

    @property
    def fit(self) -> bool:
        return self.unit or (self.whole and self.lowest >= 0 and self.highest <= BRIGHTEST)


def read_images(
    streams: Mapping[str, Stream], note: Say, warn: Say, *, grayscale: bool = False
) -> dict[str, Stream]:
    """The images of each split as (image, row, column[, channel]) uint8, 0 … 255.

    A single channel axis is dropped, three are kept, or made grey with `grayscale`; whole numbers
    of any dtype are cast; what lies in [0, 1] is multiplied by 255. `note` is told of it, `warn`
    that pixels are 0 and 1 only. Raises DatasetError for other shapes and values.
    """
    images = {name: _with_known_axes(name, stream, note) for name, stream in streams.items()}
    if not _are_plain(images):
        images = _scaled(images, note, warn)
    return {n: _grey(stream, note) for n, stream in images.items()} if grayscale else images


def _scaled(images: Mapping[str, Stream], note: Say, warn: Say) -> dict[str, Stream]:
    """What fits into bytes, or [0, 1], as bytes. Raises DatasetError for anything else."""
    found = {name: _values(stream) for name, stream in images.items()}
    for name, values in found.items():
        if not values.fit:
            raise DatasetError(
                WHOLE_OR_UNIT,
                received=f"{images[name].dtype}, {_shown(values)}",
                where=images[name].where,
                advice=_advice(values),
            )
    together = _Values(
        min(values.lowest for values in found.values()),
        max(values.highest for values in found.values()),
        all(values.whole for values in found.values()),
    )
    if not together.fit:
        raise DatasetError(
            "The images of all splits must have one scale, 0 … 255 or [0, 1].",
            received=[f"{images[name].where} {_shown(values)}" for name, values in found.items()],
            advice="Multiply those in [0, 1] by 255.",
        )
    scaled = together.unit and together.highest > 0
    if scaled and together.whole:
        warn("pixels are 0 and 1 only: multiplied by 255")
    elif scaled:
        note(f"pixels in [0, 1] ({_shown(together)}) multiplied by 255")
    else:
        dtypes = ", ".join(sorted({str(stream.dtype) for stream in images.values()}))
        note(f"pixels {dtypes}, {_shown(together)}, read as uint8")
    convert = partial(_as_bytes, factor=BRIGHTEST if scaled else 1)
    return {name: stream.converted(convert, UINT8) for name, stream in images.items()}


def _with_known_axes(name: str, stream: Stream, note: Say) -> Stream:
    shape = stream.shape
    channels = shape[3] if len(shape) == 4 else None  # noqa: PLR2004 - axes
    if channels == 1:
        note(f"{name} {shape} read as {shape[:3]}: its one channel is dropped")
        return stream.converted(partial(np.squeeze, axis=3), shape=shape[:3])
    if len(shape) != 3 and channels != COLOURS:  # noqa: PLR2004 - axes
        raise DatasetError(
            f"{name} must have the axes (image, row, column), and perhaps one or three channels.",
            received=f"shape {shape}",
            where=stream.where,
            advice="Reshape the array, for instance images.reshape(len(images), rows, columns).",
        )
    if stream.dtype.kind not in "buif":
        rule, advice = f"{name} must hold numbers.", "Save the pixels, and not their names."
        raise DatasetError(rule, received=stream.dtype, where=stream.where, advice=advice)
    return stream


def _grey(stream: Stream, note: Say) -> Stream:
    if len(stream.shape) == 3:  # noqa: PLR2004 - axes
        return stream
    note(f"{stream.where}: colour made grey")
    return stream.converted(_luminance, shape=stream.shape[:3])


def _luminance(piece: np.ndarray) -> np.ndarray:
    """Of ITU-R BT.601, as Pillow has it, rounded."""
    grey: np.ndarray = np.rint(piece @ LUMINANCE).astype(np.uint8)
    return grey


def _are_plain(images: Mapping[str, Stream]) -> bool:
    """Whether all of it is bytes, some of them beyond 0 and 1: those are met soon."""
    return all(stream.dtype == UINT8 for stream in images.values()) and any(
        piece.max() > 1 for stream in images.values() for piece in stream.rows()
    )


def _values(stream: Stream) -> _Values:
    lowest, highest, whole = [], [], True
    for piece in stream.rows():
        lowest.append(piece.min())
        highest.append(piece.max())
        whole = whole and (piece.dtype.kind != "f" or bool((np.rint(piece) == piece).all()))
    return _Values(np.min(lowest).item(), np.max(highest).item(), whole)  # NaN stays NaN


def _advice(values: _Values) -> str:
    if values.lowest < 0:
        return "Shift and divide: (images - images.min()) / (images.max() - images.min())."
    if values.highest > BRIGHTEST:
        return "Divide by what stands for full ink, images / images.max() for instance."
    if values.lowest >= 0:
        return "Round them: images.round()."
    return "Replace what is no number: numpy.nan_to_num(images)."


def _shown(values: _Values) -> str:
    return f"{values.lowest} … {values.highest}{'' if values.whole else ', not all whole'}"


def _as_bytes(piece: np.ndarray, factor: int) -> np.ndarray:
    """Multiply and round to bytes."""
    whole = piece if piece.dtype.kind in "bui" else np.rint(piece * factor)
    pixels: np.ndarray = whole.astype(np.uint8)
    return pixels if whole is not piece else pixels * np.uint8(factor)
