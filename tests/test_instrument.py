"""Calls of ours are checked in these tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from builders import SourcePackage
from instrument import has_shapes
from jaxtyping import TypeCheckError

from tasks.cache.blobs import sha256_of_file
from tasks.learning.scores import reliability

SHOWS_IMAGES = """
from __future__ import annotations
from tasks.learning.training import Images

def show(images: Images | None) -> None: ...
def count(images: int) -> int: ...
"""


def test_array_of_another_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        reliability(np.full((3, 2), 0.5, np.float32), np.zeros((3, 1), np.int64))


def test_arrays_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        reliability(np.full((3, 2), 0.5, np.float32), np.zeros(4, np.int64))


def test_argument_of_another_type_is_refused_where_there_are_no_shapes() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        sha256_of_file(3)  # type: ignore[arg-type]


def test_shape_of_another_module_is_seen_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = SourcePackage(tmp_path)
    package.write("__init__.py", "")
    package.write("shown.py", SHOWS_IMAGES)
    shown = package.load("shown")

    assert has_shapes(shown.show)
    assert not has_shapes(shown.count)
