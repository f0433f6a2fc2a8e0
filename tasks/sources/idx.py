"""The IDX format of the MNIST files, plain or gzip.

    00 00 08 03   two zero bytes, 0x08 = unsigned byte, 3 dimensions
    00 00 ea 60   60000 images      (big-endian 32-bit sizes)
    00 00 00 1c   28 rows
    00 00 00 1c   28 columns
    …             60000 x 28 x 28 bytes, nothing after them

Source: http://yann.lecun.com/exdb/mnist/ ("FILE FORMATS FOR THE MNIST DATABASE").
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from tasks.errors import DatasetError
from tasks.sources.stream import AGAIN, ArrayStream, Read, intact

IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
GZIP_MAGIC = b"\x1f\x8b"


def idx_files(folder: Path) -> list[Path]:
    """The IDX files in a folder, one for each array that is there: plain, or else gzip."""
    paths = [folder / f"{stem}{end}" for end in (".gz", "") for stem in IDX_FILES.values()]
    return list({path.name.removesuffix(".gz"): path for path in paths if path.is_file()}.values())


def open_idx_folder(*files: Path) -> dict[str, ArrayStream]:
    """The four arrays of a folder. Raises DatasetError if one is missing, and as `open_idx`."""
    found = {path.name.removesuffix(".gz"): path for path in files}
    if missing := [stem for stem in IDX_FILES.values() if stem not in found]:
        raise DatasetError(
            f"A dataset folder holds {', '.join(IDX_FILES.values())}, each plain or .gz.",
            received=f"no {', '.join(missing)}",
            where=files[0].parent,
            advice="Add what is missing.",
        )
    return {n: open_idx(found[stem], 3 if n[0] == "x" else 1) for n, stem in IDX_FILES.items()}


def open_idx(path: Path, dimensions: int) -> ArrayStream:
    """Check an IDX file's header against its size, before anything is allocated.

    Gzip is recognised by its first bytes, not by the name; what it hides about the size shows
    while `rows()` inflates. Raises DatasetError.
    """
    with _opened(path, zipped=False) as read:
        zipped = read(len(GZIP_MAGIC)) == GZIP_MAGIC
    opened = partial(_opened, path, zipped=zipped)
    magic, sizes_bytes = bytes([0, 0, 0x08, dimensions]), 4 * dimensions
    with opened() as read:
        header = read(4 + sizes_bytes)
    if header[:4] != magic or len(header) < 4 + sizes_bytes:
        raise DatasetError(
            f"An IDX file of {dimensions}-dimensional bytes starts with {magic.hex(' ')} "
            f"and {sizes_bytes} bytes of sizes.",
            received=header.hex(" ") or "an empty file",
            where=path.name,
            advice="Check that the file is what its name says.",
        )
    shape, dtype = struct.unpack(f">{dimensions}I", header[4:]), np.dtype(np.uint8)
    stored_bytes = path.stat().st_size
    size_bytes = None if zipped else stored_bytes
    return ArrayStream(path.name, dtype, shape, len(header), opened, size_bytes, stored_bytes)


@contextmanager
def _opened(path: Path, *, zipped: bool) -> Iterator[Read]:
    rule = "A file must be readable and, if it is compressed, inflate without error."
    opening = gzip.open if zipped else open
    with intact(rule, path.name, AGAIN), opening(path, "rb") as file:
        yield file.read
