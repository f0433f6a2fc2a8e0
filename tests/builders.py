"""What tests are made of: tiny datasets and records, source packages, runs, damage."""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib
import io
import itertools
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flows.mnist_flow import mnist_flow
from tasks.cache import keys
from tasks.cache.blobs import Store
from tasks.orchestration.account import Listener, listening
from tasks.records import DatasetRef, Metrics, RunSummary, StageRecord
from tasks.settings import RunSettings
from tasks.sources.idx import IDX_FILES
from tasks.sources.stream import Stream

Arrays = dict[str, np.ndarray]
STAGES = ["fetch", "load", "validate", "preprocess", "illustrate_data"]
STAGES += ["train", "evaluate", "illustrate", "publish"]
# What they do in a run in which nothing has changed.
UNCHANGED = dict.fromkeys(STAGES, "cached") | {"fetch": "computed", "publish": "computed"}
COUNTER = itertools.count()


def tiny_arrays(
    train: int = 30, test: int = 12, classes: int = 3, size: tuple[int, int] = (4, 5)
) -> Arrays:
    """A dataset that is easy to learn: class c has row c all ink; (image, row, column) uint8.

    The last two pixels of each image are its number, the test images counted on from the training
    images, so that no two of up to 65,000 are equal.
    """
    arrays: Arrays = {}
    for split, first, count in (("train", 0, train), ("test", train, test)):
        labels = (np.arange(count) % classes).astype(np.uint8)
        images = np.zeros((count, *size), np.uint8)
        images[np.arange(count), labels] = 255
        images[:, -1, -2:] = np.stack(np.divmod(np.arange(first, first + count), 255), axis=1)
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    return arrays


def stripes() -> Arrays:
    """The dataset of the flow's tests: 60 training and 33 test images of 3 classes, 8 x 6.

    The labels of two test images are exchanged: no model gets them right.
    """
    arrays = tiny_arrays(train=60, test=33, classes=3, size=(8, 6))
    arrays["y_test"][:2] = 1, 0
    return arrays


def plant_defects(mnist: Arrays) -> dict[tuple[str, str], tuple[int, ...]]:
    """Spoil MNIST; by check and array, the rows in which that has to be found.

    Three constant images, unlike each other; five copies of one seven; two copies under another
    label; four training images in the test split.
    """
    x, y = mnist["x_train"], mnist["y_train"]
    x[[100, 5_000, 59_999]] = np.array([0, 7, 255], np.uint8)[:, None, None]
    seven, *copies = np.flatnonzero(y == 7)[[0, 10, 20, 30, 40, 50]].tolist()
    x[copies] = x[seven]
    three, eight, one, four, two = (int(np.flatnonzero(y == n)[9]) for n in (3, 8, 1, 4, 2))
    x[eight], x[two] = x[three], x[four]
    mnist["x_test"][[5, 50, 500, 5_000]] = x[[60, 600, 6_000, one]]
    return {
        ("constant-images", "x_train"): (100, 5_000, 59_999),
        ("duplicates", "x_train"): tuple(sorted([*copies, max(three, eight), max(four, two)])),
        ("contradictions", "y_train"): tuple(sorted([three, eight, four, two])),
        ("leakage", "x_test"): (5, 50, 500, 5_000),
    }


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as an IDX file."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_folder(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write the four plain IDX files of a dataset into a new folder."""
    folder.mkdir(parents=True)
    for name, stem in IDX_FILES.items():
        (folder / stem).write_bytes(idx_bytes(arrays[name]))
    return folder


def place_idx(folder: Path, arrays: Arrays, *, zipped: bool) -> None:
    """Write the four IDX files of a dataset over what is there."""
    folder.mkdir(exist_ok=True)
    for name, stem in IDX_FILES.items():
        content = idx_bytes(arrays[name])
        if zipped:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / stem).write_bytes(content)


def pieces(array: np.ndarray, most: int = 2) -> Stream:
    """A stream of an array, so many rows a piece."""

    def rows() -> Iterator[np.ndarray]:
        starts = range(0, len(array), most)
        yield from (array[start : start + most] for start in starts)

    return Stream("array.npy", array.dtype, array.shape, rows)


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as numpy.save writes it."""
    content = BytesIO()
    np.save(content, array)
    return content.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "|u1", *, fortran_order: bool = False) -> bytes:
    """The header of an .npy file, whatever it claims."""
    content = BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": descr, "fortran_order": fortran_order, "shape": shape}
    )
    return content.getvalue()


def store_dataset(arrays: Mapping[str, np.ndarray], store: Store) -> DatasetRef:
    """Put four arrays into the store and describe them as `load` would; classes are numbers."""
    _, height, width, *channels = arrays["x_train"].shape
    largest = max(int(arrays[name].max()) for name in ("y_train", "y_test"))
    return DatasetRef(
        name="tiny",
        height=height,
        width=width,
        channels=3 if channels else 1,
        class_names=tuple(map(str, range(largest + 1))),
        **{name: store.put_array(array) for name, array in arrays.items()},
    )


def store_metrics(probabilities: np.ndarray, store: Store) -> Metrics:
    """Put one array into the store and name it in a record that has little else."""
    return Metrics(
        accuracy_fraction=1.0,
        accuracy_interval=(0.5, 1.0),
        loss=0.0,
        images=len(probabilities),
        per_class=(),
        confusion=(),
        calibration_error=0.0,
        reliability=(),
        mistakes=(),
        probabilities=store.put_array(probabilities),
    )


def settings_in(folder: Path) -> RunSettings:
    """Two epochs on the dataset `stripes`, with every file of the run in one folder.

    Three whole batches an epoch: a last, smaller one would be compiled too.
    """
    return RunSettings(
        dataset=str(folder / "stripes"),
        epochs=2,
        batch_size=20,
        cache_dir=folder / "cache",
        model_dir=folder / "models",
    )


@dataclass(frozen=True)
class Run:
    """A completed run: its summary, and what was heard of each stage, `publish` included."""

    summary: RunSummary
    heard: dict[str, StageRecord]

    @property
    def computed(self) -> list[str]:
        """The stages that computed, in the flow's order."""
        return [name for name in STAGES if self.heard[name].state == "computed"]


class Heard(Listener):
    """Remembers what the stages reported, and what they waited for."""

    def __init__(self) -> None:
        self.stages: dict[str, StageRecord] = {}
        self.waits: list[str] = []

    def waiting(self, text: str) -> None:
        self.waits.append(text)

    def stage_finished(self, name: str, record: StageRecord) -> None:
        self.stages[name] = record


def run_flow(settings: RunSettings) -> Run:
    """Run the whole flow in this process."""
    heard = Heard()
    with listening(heard):
        return Run(mnist_flow(settings), heard.stages)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def flip_bit(path: Path, position: int = -1) -> None:
    """Change one bit of a file, as a failing disk does."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edit_code(monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    """Let project files look edited since they were imported."""
    read = keys._read

    def changed(path: Path, *details: Any) -> Any:
        source, edited = read(path, *details), str(path).endswith(files)
        return source._replace(sha256="new") if edited else source

    monkeypatch.setattr("tasks.cache.keys._read", changed)


def sealed(text: bytes) -> bytes:
    """A text under a line with its digest, as entries are stored."""
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


class FullDisk(io.FileIO):
    """A file on a disk that has no room left."""

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class SourcePackage:
    """A small package on disk, under a name that no other test uses."""

    def __init__(self, root: Path) -> None:
        self.name = f"written_{next(COUNTER)}"
        self._folder = root / self.name

    def write(self, path: str, source: str) -> None:
        """Write a module; PACKAGE in its source stands for the package's name."""
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source.replace("PACKAGE", self.name), encoding="utf-8")
        past = next(COUNTER)  # before this process started, and no two edits at the same time
        os.utime(file, ns=(past, past))

    def load(self, module: str) -> ModuleType:
        """Import a module as a new process would, from the files as they are now."""
        for name in [name for name in sys.modules if name.partition(".")[0] == self.name]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module(f"{self.name}.{module}")
