"""Datasets in one `.npz`, as numpy.savez writes them, or in a folder of four.

    x_train, y_train, x_test, y_test                        Keras
    train_images, train_labels, val_images, …               MedMNIST, which has a validation split
    kmnist-train-imgs.npz, kmnist-train-labels.npz, …       KMNIST: an array in each, `arr_0`

The archive is a zip of `.npy` files. Names, dtypes and declared sizes are checked against
the archive's directory before an array is read, and arrays of objects (pickles) never are.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np

from tasks import PARSING
from tasks.errors import DatasetError
from tasks.records import ARRAY_NAMES
from tasks.sources.files import UNREADABLE, File, files_in_zip, intact
from tasks.sources.splits import SPLIT_WORDS, missing_arrays
from tasks.sources.stream import OpenedDataset, StoredArray, Stream
from tasks.sources.verified import Opener, open_unverified

WHOLE = "An .npz dataset must be a whole zip archive of arrays that are plain or deflated."
SAVE_AGAIN = "Copy it again, or save it with numpy.savez or numpy.savez_compressed."
SAVE_ALL = "Save it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…)."
MAX_HEADER_BYTES = 12 + 10_000  # NumPy's own limit on a header, and what stands before it
HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
AXES = {"x": "x", "images": "x", "imgs": "x", "y": "y", "labels": "y"}
MEDMNIST = {
    f"{split}_{axis}" for split in ("train", "val", "test") for axis in ("images", "labels")
}


def npz_files(place: Path) -> list[Path]:
    """The file at a place, if it is an .npz, by its name or its members."""
    if place.suffix.lower() == ".npz" and place.is_file():
        return [place]
    members: list[str] = []
    with suppress(*UNREADABLE), zipfile.ZipFile(place) as archive:
        members = archive.namelist()
    return [place] if any(name.endswith(".npy") for name in members) else []


def npz_folder_files(place: Path) -> list[Path]:
    """The .npz files in a folder that are named as KMNIST's: each is an array of one dataset."""
    paths = sorted(place.glob("*.npz")) if place.is_dir() else []
    return [path for path in paths if part_of(path.stem, prefixed=True)]


def part_of(name: str, *, prefixed: bool = False) -> str:
    """Which array a name stands for, `x_train` say; empty if for none.

    It consists of two words, one for the axis and one for the split, in any case.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    pair = words[-2:] if prefixed else words
    axes, splits = (
        [known[word] for word in pair if word in known] for known in (AXES, SPLIT_WORDS)
    )
    return f"{axes[0]}_{splits[0]}" if len(pair) == 2 and axes and splits else ""  # noqa: PLR2004


def open_npz(files: Sequence[Path], opener: Opener = open_unverified) -> OpenedDataset:
    """Check an archive's arrays against its directory, before anything is allocated.

    What only a checksum knows shows while `rows()` inflates. Raises DatasetError.
    """
    (path,) = files
    members = [(file.name.removesuffix(".npy"), file) for file in _within(path, opener)]
    parts = _parts([(key, part_of(key), file) for key, file in members], path.name)
    what = "MedMNIST" if MEDMNIST.issubset(key for key, _ in members) else "npz"
    return _opened_parts(parts, what)


def open_npz_folder(files: Sequence[Path], opener: Opener = open_unverified) -> OpenedDataset:
    """Check four archives of one array each, as `open_npz`. Raises DatasetError."""
    named = []
    for path in files:
        members = _within(path, opener)
        if len(members) != 1:
            raise DatasetError(
                "A folder of .npz files has one array in each, as KMNIST's.",
                received=f"{len(members)} arrays",
                where=path.name,
                advice="Pass the file itself if it holds the whole dataset.",
            )
        named.append((path.name, part_of(path.stem, prefixed=True), members[0]))
    return _opened_parts(_parts(named, str(files[0].parent)), "KMNIST")


def _within(path: Path, opener: Opener) -> list[File]:
    members = files_in_zip(path, opener, WHOLE, SAVE_AGAIN)
    return [replace(member, rule=WHOLE, advice=SAVE_AGAIN) for member in members]


def _parts(named: list[tuple[str, str, File]], where: str) -> dict[str, tuple[str, File]]:
    """By array its own name and file. Raises DatasetError if one is missing or there twice."""
    parts: dict[str, tuple[str, File]] = {}
    for name, part, file in named:
        if part in parts:
            raise DatasetError(
                "Each array of a dataset is there once.",
                received=f"{parts[part][0]} and {name}, which both stand for {part}",
                where=where,
                advice="Keep one of them.",
            )
        if part:
            parts[part] = name, file
    if missing := missing_arrays(parts):
        there = ", ".join(sorted(name for name, _, _ in named)) or "nothing"
        raise DatasetError(
            f"An .npz dataset holds {', '.join(ARRAY_NAMES)}.",
            received=f"no {', '.join(missing)}, but {there}",
            where=where,
            advice=SAVE_ALL,
        )
    validation = ("x_validation", "y_validation")
    known = (*ARRAY_NAMES, *(validation if parts.keys() >= set(validation) else ()))
    return {name: parts[name] for name in known if name in parts}


def _opened_parts(parts: dict[str, tuple[str, File]], what: str) -> OpenedDataset:
    streams = {part: _open_member(file) for part, (_, file) in parts.items()}
    renamed = [f"{name} as {part}" for part, (name, _) in parts.items() if name != part]
    notes = [f"{what}: read {', '.join(renamed)}"] if renamed else []
    for part, stream in streams.items():
        if part[0] == "y" and len(stream.shape) == 2 and stream.shape[1] == 1:  # noqa: PLR2004
            streams[part] = stream.first_column()
            notes.append(f"{what}: labels {stream.shape} read as {stream.shape[0]}")
    return OpenedDataset(streams, tuple(notes))


def _open_member(file: File) -> Stream:
    with file.opened() as opened:
        # A bounded piece: NumPy reads as many bytes as the header claims to have, up to 4 GiB.
        header = BytesIO(opened.read(MAX_HEADER_BYTES))
    with intact("Each member must be an .npy file of format 1.0 or 2.0.", file.where, SAVE_AGAIN):
        version = np.lib.format.read_magic(header)
        with PARSING:
            shape, fortran_order, dtype = HEADER_READERS[version](header)
    if dtype.kind not in "buifUS" or not dtype.itemsize:
        raise DatasetError(
            "Arrays must hold plain numbers; labels may be text.",
            received=f"dtype {dtype}",
            where=file.where,
            advice="Save the array with a whole or real dtype, or text, not as objects.",
        )
    stored = StoredArray(file, dtype, shape, header.tell())
    return stored.stream(fortran_order=fortran_order)
