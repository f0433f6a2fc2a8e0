"""Pictures that are not decoded yet, and labels that are in memory already."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple

import numpy as np

from tasks.sources.stream import CHUNK_BYTES

LONGEST_LABEL = 100  # letters
WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?(e\+?00)?", re.IGNORECASE | re.ASCII)  # 7, 7.0, 7.00e+00


class Picture(NamedTuple):
    """A picture that is not decoded yet: where it is, for messages, and how its bytes open."""

    where: str
    opened: Callable[[], BufferedReader | BytesIO]


@dataclass(frozen=True)
class LabelStream:
    """A stream of labels (image,): class numbers, or the names of classes (kind U)."""

    where: str
    values: np.ndarray

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the labels."""
        return self.values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(image,)."""
        return self.values.shape

    def rows(self) -> Iterator[np.ndarray]:
        """Consecutive pieces."""
        most = max(1, CHUNK_BYTES // self.dtype.itemsize)
        for start in range(0, len(self.values), most):
            yield self.values[start : start + most]


def numbers_or_names(texts: Sequence[str]) -> np.ndarray:
    """Labels that were written as text: int64 if each is a whole number, else as they are (U)."""
    if all(map(WHOLE.fullmatch, texts)):
        return np.array([int(re.split("[.eE]", text)[0]) for text in texts], np.int64)
    return np.array(texts, np.str_)
