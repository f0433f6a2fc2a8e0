"""Load, validate and preprocess need memory for chunks, not for the dataset."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import store_dataset, tiny_arrays, write_idx_folder

import tasks.validation.checks  # noqa: F401 - what importing it takes is not counted
from tasks.cache.blobs import Store
from tasks.load import load
from tasks.preprocess import preprocess
from tasks.settings import RunSettings
from tasks.sources.catalogue import find_dataset
from tasks.validate import validate

MEBIBYTE = 1 << 20
IMAGES = tiny_arrays(train=12_000, test=100, size=(28, 28))  # 9 MiB; 36 MiB as float32
RULES = RunSettings().rules("mnist")
CHUNK_BYTES = MEBIBYTE
ALLOWED_BYTES = 6 * MEBIBYTE

pytestmark = pytest.mark.usefixtures("outside_a_run")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.preprocess.CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr("tasks.sources.stream.CHUNK_BYTES", CHUNK_BYTES)


def peak_bytes(action: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_loading_needs_memory_for_chunks(store: Store, tmp_path: Path) -> None:
    source = find_dataset(str(write_idx_folder(tmp_path / "stripes", IMAGES)), tmp_path)
    assert peak_bytes(lambda: load.fn(source, store)) < ALLOWED_BYTES


def test_validating_needs_memory_for_chunks(store: Store) -> None:
    raw = store_dataset(IMAGES, store)
    assert peak_bytes(lambda: validate.fn(raw, RULES, store)) < ALLOWED_BYTES


def test_preprocessing_needs_memory_for_chunks(store: Store) -> None:
    raw = store_dataset(IMAGES, store)
    assert peak_bytes(lambda: preprocess.fn(raw, store)) < ALLOWED_BYTES


def test_one_hot_labels_need_memory_for_chunks(store: Store) -> None:
    """40,000 labels of 250 classes are 38 MiB as float32."""
    labels = (np.arange(40_000) % 250).astype(np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (40_000, 2, 2), np.uint8)
    few = slice(250)
    arrays = {"x_train": images, "y_train": labels, "x_test": images[few], "y_test": labels[few]}
    raw = store_dataset(arrays, store)
    assert peak_bytes(lambda: preprocess.fn(raw, store)) < ALLOWED_BYTES
