"""Damaged files: each is refused with a typed error or read, and neither takes much memory."""

from __future__ import annotations

import gzip
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import idx_bytes, npy_bytes, tiny_arrays

from tasks.errors import DatasetError
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.idx import IDX_FILES
from tasks.sources.labels import read_labels
from tasks.sources.pixels import read_images

MUTANTS = 60  # of each format
MOST_BYTES = 16 << 20


def idx(folder: Path) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / stem).write_bytes(idx_bytes(tiny_arrays()[name]))
    return folder


def idx_gz(folder: Path) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(tiny_arrays()[name])))
    return folder


def emnist(folder: Path) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / f"emnist-{stem}").write_bytes(idx_bytes(tiny_arrays()[name]))
    (folder / "emnist-mapping.txt").write_text("0 65\n1 66\n2 67\n")
    return folder


def qmnist(folder: Path) -> Path:
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = (tiny_arrays()[f"{axis}_{split}"] for axis in "xy")
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        rows = np.repeat(labels[:, np.newaxis], 8, axis=1)
        content = bytearray(idx_bytes(rows)[:12] + rows.astype(">i4").tobytes())
        content[2] = 0x0C
        (folder / f"{name}-labels-idx2-int").write_bytes(content)
    return folder


def zip_of_idx(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "digits.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, stem in IDX_FILES.items():
            archive.writestr(f"raw/{stem}.gz", gzip.compress(idx_bytes(tiny_arrays()[name])))
    return folder / "digits.zip"


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "digits.npz", **tiny_arrays())
    return folder / "digits.npz"


def npz_of_others(folder: Path) -> Path:
    """Not compressed, so that damage reaches the headers and values; checksums left to zipfile."""
    arrays = tiny_arrays()
    for name in ("x_train", "x_test"):
        arrays[name] = np.asfortranarray(arrays[name] / 255)[..., np.newaxis]
    text = {name: arrays[name].astype("<U2") for name in ("y_train", "y_test")}
    np.savez(folder / "digits.npz", **arrays | text)
    return folder / "digits.npz"


def kmnist(folder: Path) -> Path:
    for split in ("train", "test"):
        np.savez(folder / f"{split}-imgs.npz", tiny_arrays()[f"x_{split}"])
        np.savez(folder / f"{split}-labels.npz", tiny_arrays()[f"y_{split}"])
    return folder


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, lost, repeated or put in; or the rest cut off."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        start = draw.choice((draw.randrange(len(changed) + 1), draw.randrange(64)))
        length = draw.choice((1, 2, 4, 64))
        match draw.randrange(5):
            case 0:
                changed[start : start + length] = draw.randbytes(length)
            case 1:
                changed[start : start + length] = b""
            case 2:
                changed[start:start] = changed[start : start + length]
            case 3:
                changed[start : start + length] = draw.choice((b"\xff", b"\0", b"9")) * length
            case _ if draw.random() < 0.3:
                del changed[start:]
    return bytes(changed)


def read(place: Path) -> None:
    """All that `load` does, but the storing."""
    opened = open_dataset(find_dataset(str(place), place.parent))
    x, y = ({n: s for n, s in opened.streams.items() if n[0] == axis} for axis in "xy")
    images = read_images(x, str, str)
    read_labels(y, opened.names, str)
    for stream in images.values():
        rows = [piece.shape for piece in stream.rows()]
        assert sum(shape[0] for shape in rows) == stream.shape[0]


def outcome(place: Path) -> str:
    tracemalloc.start()
    try:
        read(place)
    except DatasetError:
        return "refused"
    else:
        return "read"
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < MOST_BYTES


FORMATS = [idx, idx_gz, emnist, qmnist, zip_of_idx, npz, npz_of_others, kmnist]


@pytest.mark.parametrize("make", FORMATS)
def test_damaged_files_are_refused_or_read(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    draw = random.Random(make.__name__)
    whole = tmp_path / "whole"
    whole.mkdir()
    place = make(whole)
    assert "read" == outcome(place)
    names = sorted(path.name for path in whole.iterdir())
    outcomes = []
    for _ in range(MUTANTS):
        damaged = tmp_path / "damaged"
        shutil.copytree(whole, damaged)
        path = damaged / draw.choice(names)
        path.write_bytes(mutated(path.read_bytes(), draw))
        outcomes.append(outcome(damaged / place.relative_to(whole)))
        shutil.rmtree(damaged)

    assert "refused" in outcomes


@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_damaged_arrays_in_a_whole_archive_are_refused_or_read(tmp_path: Path, name: str) -> None:
    """Checksums agree: what the header says is all that can be wrong."""
    draw = random.Random(name)
    arrays = {key: npy_bytes(array) for key, array in tiny_arrays().items()}
    outcomes = set()
    for _ in range(MUTANTS):
        damaged = arrays | {name: mutated(arrays[name], draw)}
        with zipfile.ZipFile(tmp_path / "digits.npz", "w") as archive:
            for key, content in damaged.items():
                archive.writestr(f"{key}.npy", content)
        outcomes.add(outcome(tmp_path / "digits.npz"))

    assert {"refused", "read"} == outcomes
