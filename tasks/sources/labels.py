"""Labels as people store them, to 0 … classes - 1 with their names.

[[3], [7], [3]]        0, 1, 0       "3", "7"
["cat", "ant"]         1, 0          "ant", "cat"
[[0, 1], [1, 0]]       1, 0          "0", "1"        one-hot
[True, False]          1, 0          "False", "True"
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

from tasks.errors import DatasetError
from tasks.sources.files import intact
from tasks.sources.stream import Stream

MOST_CLASSES = 256  # a label is a uint8
LONGEST_NAME = 100
LARGEST_WHOLE = 2**53  # beyond it a float64 is not one number
SHOWN = 5  # labels in a message

Labels = UInt8[np.ndarray, " image"]
Note = Callable[[str], object]


def read_labels(
    streams: Mapping[str, Stream], names: Mapping[int, str] | None, note: Note
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """The labels of each split as numbers of classes, and the names of the classes.

    The classes are the labels of all the splits, sorted. `names` by label; others are their own
    names. `note` is told of what the labels were. Raises DatasetError for what are no labels.
    """
    known: dict[int | str, int] = {}  # labels by their first occurrence
    met = {name: _numbered(name, stream, known) for name, stream in streams.items()}
    if len({isinstance(label, str) for label in known}) > 1:
        raise DatasetError(
            "Labels must be all numbers or all text.",
            received=[f"{stream.dtype} in {stream.where}" for stream in streams.values()],
            advice="Save them alike.",
        )
    classes = sorted(known)
    rank = np.empty(len(classes), np.uint8)
    rank[[known[label] for label in classes]] = np.arange(len(classes))
    class_names = tuple(_name(label, names, streams) for label in classes)
    if any(len(stream.shape) > 1 for stream in streams.values()):
        note(
            f"labels {', '.join(str(s.shape) for s in streams.values())}: one-hot, read as classes"
        )
    if classes != list(range(len(classes))):
        shown = ", ".join(class_names[:SHOWN]) + (", …" if len(class_names) > SHOWN else "")
        note(f"labels {shown} read as 0 … {len(classes) - 1}, their names kept")
    return {name: rank[numbers] for name, numbers in met.items()}, class_names


def _numbered(name: str, stream: Stream, known: dict[int | str, int]) -> Labels:
    """The numbers of a split's labels in the order of their first occurrence."""
    if not 1 <= len(stream.shape) <= 2:  # noqa: PLR2004 - axes
        raise DatasetError(
            f"{name} must have the axes (image), or (image, class) if it is one-hot.",
            received=f"shape {stream.shape}",
            where=stream.where,
            advice="Save one label for each image.",
        )
    numbers = np.empty(stream.shape[0], np.uint8)
    done = 0
    for piece in stream.rows():
        with intact("Labels that are text must be Unicode.", stream.where, "Save them again."):
            found, inverse = np.unique(_labels(piece, stream), return_inverse=True)
            if found.dtype.kind == "U":
                np.char.encode(found, "utf-8")  # raises ValueError for halves of a character
        labels: list[int | str] = found.tolist()
        for label in labels:
            known.setdefault(label, len(known))
        if len(known) > MOST_CLASSES:
            raise DatasetError(
                f"A dataset has at most {MOST_CLASSES} classes.",
                received=f"{len(known)} or more labels",
                where=stream.where,
                advice="Check that these are labels, and not measurements or numbers of images.",
            )
        codes = np.array([known[label] for label in labels], np.uint8)
        numbers[done : done + len(piece)] = codes[inverse]
        done += len(piece)
    return numbers


def _labels(piece: np.ndarray, stream: Stream) -> np.ndarray:
    """A label for each image: whole numbers, truth values or text."""
    if piece.ndim > 1:
        return _of_one_hot(piece, stream)
    if piece.dtype.kind == "S":
        return np.char.decode(piece, "utf-8")
    if piece.dtype.kind == "f":
        return _of_floats(piece.astype(np.float64), stream)
    if piece.dtype.kind == "U" and _code_points(piece).max() > sys.maxunicode:
        raise ValueError("a character beyond U+10FFFF")  # str would be a SystemError
    return piece


def _code_points(texts: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(texts).view(np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder))


def _of_floats(piece: np.ndarray, stream: Stream) -> np.ndarray:
    if not (np.abs(piece) < LARGEST_WHOLE).all() or (piece % 1).any():
        raise DatasetError(
            "Labels must be whole numbers, truth values or text.",
            received=f"{stream.dtype}, {piece.min()} … {piece.max()}",
            where=stream.where,
            advice="Save the number or the name of each image's class.",
        )
    return piece.astype(np.int64)


def _of_one_hot(piece: np.ndarray, stream: Stream) -> np.ndarray:
    ones = piece == 1
    counts = ones.sum(axis=1)
    if piece.dtype.kind not in "buif" or not (ones | (piece == 0)).all():
        raise DatasetError(
            "Labels with two axes must be one-hot: a 1 in the column of the class, 0 elsewhere.",
            received=f"shape {stream.shape}, {stream.dtype}",
            where=stream.where,
            advice="Save one label for each image, for instance labels.argmax(axis=1).",
        )
    if not (counts == 1).all():
        raise DatasetError(
            "An image must have one label; multi-label targets, as of MedMNIST's ChestMNIST, "
            "cannot be trained.",
            received=f"shape {stream.shape}, rows with {counts.min()} … {counts.max()} ones",
            where=stream.where,
            advice="Choose one column as the label, for instance labels[:, 0].",
        )
    classes: np.ndarray = ones.argmax(axis=1)
    return classes


def _name(label: int | str, names: Mapping[int, str] | None, streams: Mapping[str, Stream]) -> str:
    name = str(label) if isinstance(label, str) else (names or {}).get(label, str(label))
    if len(name) > LONGEST_NAME:
        raise DatasetError(
            f"The name of a class has at most {LONGEST_NAME} letters.",
            received=f"{len(name)} letters",
            where=" and ".join(stream.where for stream in streams.values()),
            advice="Check that these are the names of classes, or shorten them.",
        )
    return name
