"""What is EMNIST's own: its images are stored column by column, and a file names its classes.

    emnist-letters-train-images-idx3-ubyte.gz     or emnist-letters-train.csv
    emnist-letters-mapping.txt                    1 65 97: label, codes of A and a

It is recognised by the names of its files. Source: G. Cohen et al., EMNIST (2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from tasks.sources.files import File, intact
from tasks.sources.stream import OpenedDataset, Stream

LONGEST_MAPPING_BYTES = 1 << 16


def is_emnist(name: str) -> bool:
    """Whether a file of that name, or a set called so, is of EMNIST."""
    return name.lower().startswith("emnist")


def upright(stored: OpenedDataset, mapping: File | None) -> OpenedDataset:
    """The images as they are seen, and the classes by their characters. Raises DatasetError."""
    images = {name: _swapped(s) for name, s in stored.streams.items() if name[0] == "x"}
    notes, names = ["EMNIST: rows and columns of the images swapped"], stored.names
    if mapping:
        names = _class_names(mapping)
        notes.append(f"EMNIST: names of the classes read from {mapping.where}")
    return replace(
        stored, streams={**stored.streams, **images}, notes=(*stored.notes, *notes), names=names
    )


def _swapped(images: Stream) -> Stream:
    count, columns, rows = images.shape
    return images.converted(partial(np.swapaxes, axis1=1, axis2=2), shape=(count, rows, columns))


def _class_names(mapping: File) -> Mapping[int, str]:
    """A line for each class: its label and the codes of its character."""
    rule = "EMNIST's mapping has a line for each class: its label and codes of characters."
    with (
        mapping.opened() as opened,
        intact(rule, mapping.where, "Download it again, or remove it."),
    ):
        lines = opened.read(LONGEST_MAPPING_BYTES).decode("ascii").splitlines()
        numbers = [[int(number) for number in line.split()] for line in lines if line.strip()]
        return {label: chr(code) for label, code, *_ in numbers}
