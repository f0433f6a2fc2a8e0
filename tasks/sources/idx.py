"""The IDX format of the MNIST files, plain or gzip, in a folder or a zip; EMNIST's and QMNIST's.

    00 00 08 03   two zero bytes, 0x08 = unsigned byte, 3 dimensions
    00 00 ea 60   60000 images      (big-endian 32-bit sizes)
    00 00 00 1c   28 rows
    00 00 00 1c   28 columns
    …             60000 x 28 x 28 bytes, nothing after them

Sources: http://yann.lecun.com/exdb/mnist/ ("FILE FORMATS FOR THE MNIST DATABASE"); C. Yadav,
L. Bottou, Cold Case: the Lost MNIST Digits (2019): QMNIST's labels are rows of 8 big-endian 32-bit
integers, the class first. EMNIST: see emnist.py.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tasks.errors import DatasetError
from tasks.sources.emnist import is_emnist, upright
from tasks.sources.files import File, file_at, files_in_zip
from tasks.sources.splits import missing_arrays
from tasks.sources.stream import OpenedDataset, StoredArray, Stream
from tasks.sources.verified import Opener, open_unverified

IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
# The usual names: train-images.idx3-ubyte.gz, emnist-letters-test-labels-idx1-ubyte …
NAME = re.compile(
    r"((?P<set>[a-z0-9][a-z0-9_.-]*)[-_.])?(?P<split>train|test|t10k)[-_.]"
    r"(?P<content>images|labels)[-_.]idx[1-3][-_.](ubyte|int)(\.gz)?",
    re.IGNORECASE,
)
IDX_MAGIC = re.compile(rb"\0\0[\x08-\x0e][\1-\x08]")
QMNIST_MAGIC, QMNIST_COLUMNS, QMNIST_DTYPE = bytes([0, 0, 0x0C, 2]), 8, np.dtype(">i4")


def idx_files(place: Path) -> list[Path]:
    """The IDX files at a place, one for each array that is there, or a zip that holds some.

    In a folder, in its sub-folders that are named after the file in them, and the same in `raw`
    and in `<Name>/raw`. Raises DatasetError for several datasets in one folder.
    """
    if place.is_file():
        ending = place.suffix.lower()
        zipped = ending == ".zip" or (ending != ".npz" and zipfile.is_zipfile(place))
        return [place] if zipped and _parts(files_in_zip(place)) else []
    folders = [place, place / "raw", *sorted(place.glob("*/raw"))]  # torchvision's
    parts = _parts(file_at(path) for folder in folders for path in _named_files(folder))
    chosen = [_one_of(candidates) for candidates in parts.values()]
    mappings = [file.path.with_name(_mapping_of(file)) for file in chosen[:1]]
    return [file.path for file in chosen] + [path for path in mappings if path.is_file()]


def open_idx_files(files: list[Path], opener: Opener = open_unverified) -> OpenedDataset:
    """The arrays of these files, or of those in a zip.

    Raises DatasetError if one is missing, if two are candidates for one array, and as `open_idx`.
    """
    zipped = len(files) == 1 and not NAME.fullmatch(files[0].name)
    listed = files_in_zip(files[0], opener) if zipped else [file_at(p, opener) for p in files]
    found = {part: _one_of(candidates) for part, candidates in _parts(listed).items()}
    if missing := [IDX_FILES[part] for part in missing_arrays(found)]:
        raise DatasetError(
            f"A dataset folder holds {', '.join(IDX_FILES.values())}, each plain or .gz.",
            received=f"no {', '.join(missing)}",
            where=files[0] if zipped else files[0].parent,
            advice="Add what is missing.",
        )
    streams = {part: open_idx(file, 3 if part[0] == "x" else 1) for part, file in found.items()}
    notes = [
        f"QMNIST: labels {(*stream.shape, QMNIST_COLUMNS)} read as {stream.shape}, the class first"
        for stream in streams.values()
        if stream.dtype == QMNIST_DTYPE
    ]
    opened = OpenedDataset(streams, tuple(notes))
    if not is_emnist(_set_of(found["x_train"])):
        return opened
    mapping = _mapping_of(found["x_train"])
    return upright(opened, next((file for file in listed if file.name.lower() == mapping), None))


def open_idx(file: File, dimensions: int) -> Stream:
    """Check an IDX file's header against its size, before anything is allocated.

    What gzip hides about the size shows while `rows()` inflates. Of QMNIST's labels the stream has
    the classes. Raises DatasetError.
    """
    file = file.inflated()
    magic, axes = bytes([0, 0, 0x08, dimensions]), dimensions
    with file.opened() as opened:
        header = opened.read(4)
        if dimensions == 1 and header == QMNIST_MAGIC:
            magic, axes = QMNIST_MAGIC, 2
        header += opened.read(4 * axes)
    if header[:4] != magic or len(header) < 4 + 4 * axes:
        kind = "integers" if magic == QMNIST_MAGIC else "bytes"
        raise DatasetError(
            f"An IDX file of {axes}-dimensional {kind} starts with {magic.hex(' ')} "
            f"and {4 * axes} bytes of sizes.",
            received=_start(header),
            where=file.where,
            advice="Check that the file is what its name says.",
        )
    shape = struct.unpack(f">{axes}I", header[4:])
    if magic == QMNIST_MAGIC:
        return _classes_of_qmnist(StoredArray(file, QMNIST_DTYPE, shape, len(header)).stream())
    return StoredArray(file, np.dtype(np.uint8), shape, len(header)).stream()


def _start(header: bytes) -> str:
    """What a file starts with, if it is an IDX file: of others nothing is told."""
    if IDX_MAGIC.match(header):
        return f"{header[:4].hex(' ')} and {len(header) - 4} bytes"
    return "another start" if header else "an empty file"


def _classes_of_qmnist(stored: Stream) -> Stream:
    if stored.shape[1] != QMNIST_COLUMNS:
        raise DatasetError(
            f"QMNIST's labels are rows of {QMNIST_COLUMNS} numbers, the class first.",
            received=f"shape {stored.shape}",
            where=stored.where,
            advice="Save the classes alone, as 1-dimensional bytes.",
        )
    return stored.first_column()


def _named_files(folder: Path) -> Iterator[Path]:
    """Those named as IDX files, also in a folder of such a name, as some programs unpack a .gz."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if NAME.fullmatch(path.name):
                within = sorted(path.iterdir()) if path.is_dir() else [path]
                yield from (file for file in within if NAME.fullmatch(file.name) and file.is_file())


def _parts(files: Iterable[File]) -> dict[str, list[File]]:
    """The candidates for each array, in the order of the arrays. Raises DatasetError for sets."""
    parts: dict[str, list[File]] = {}
    sets: dict[str, File] = {}
    for file in files:
        if name := NAME.fullmatch(file.name):
            axis = "x" if name["content"].lower() == "images" else "y"
            split = "train" if name["split"].lower() == "train" else "test"  # t10k
            parts.setdefault(f"{axis}_{split}", []).append(file)
            sets.setdefault(_set_of(file), file)
    if len(sets) > 1:
        raise _several(f"IDX files of {len(sets)} datasets", list(sets.values()))
    return {part: parts[part] for part in IDX_FILES if part in parts}


def _set_of(file: File) -> str:
    name = NAME.fullmatch(file.name)
    return (name["set"] or "").lower() if name else ""


def _one_of(candidates: list[File]) -> File:
    """The one candidate for an array, or the first plain one of several with equal content."""
    if len(candidates) > 1 and len(set(map(_digest, candidates))) > 1:
        raise _several("unlike files for one array", candidates)
    return min(candidates, key=lambda file: file.name.lower().endswith(".gz"))


def _several(what: str, files: list[File]) -> DatasetError:
    places = [str(file.path) if file.name == file.path.name else file.where for file in files]
    return DatasetError(
        "A folder or zip has the IDX files of one dataset, each array once.",
        received=f"{what}: {', '.join(places)}",
        advice="Put the files that are meant into a folder of their own, and pass that.",
    )


def _digest(file: File) -> bytes:
    """Of the content, inflated: that of X and X.gz is equal."""
    with file.inflated().opened() as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _mapping_of(file: File) -> str:
    return f"{_set_of(file)}-mapping.txt"
