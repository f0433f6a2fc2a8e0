"""What is EMNIST's own: its images are stored column by column, and a file names its classes.

    emnist-letters-train-images-idx3-ubyte.gz     or emnist-letters-train.csv
    emnist-letters-mapping.txt                    1 65 97: label, codes of A and a

It is recognised by the names of its files. Source: G. Cohen et al., EMNIST (2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from tasks.sources.archive import File
from tasks.sources.stream import Converted, Stream, intact

SWAPPED = "EMNIST: rows and columns of the images swapped"
LONGEST_MAPPING_BYTES = 1 << 16


def is_emnist(name: str) -> bool:
    """Whether a file of that name, or a set called so, is of EMNIST."""
    return name.lower().startswith("emnist")


def transposed(images: Stream) -> Converted:
    """The images upright."""
    count, columns, rows = images.shape
    swap = partial(np.swapaxes, axis1=1, axis2=2)
    return Converted(images, swap, images.dtype, (count, rows, columns))


def names_read(file: File) -> str:
    """What is said of it in the log."""
    return f"EMNIST: names of the classes read from {file.where}"


def class_names(file: File) -> Mapping[int, str]:
    """Of a mapping: a line for each class, its label and the codes of its character."""
    rule = "EMNIST's mapping has a line for each class: its label and codes of characters."
    with intact(rule, file.where, "Download it again, or remove it."), file.opened() as opened:
        lines = opened.read(LONGEST_MAPPING_BYTES).decode("ascii").splitlines()
        numbers = [[int(number) for number in line.split()] for line in lines if line.strip()]
        return {label: chr(code) for label, code, *_ in numbers}
