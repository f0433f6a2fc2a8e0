"""Datasets in one `.npz`: x_train, y_train, x_test, y_test, as numpy.savez writes them.

The archive is a zip of `.npy` files. Names, dtypes and declared sizes are checked against
the archive's directory before an array is read, and arrays of objects (pickles) never are.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np

from tasks import PARSING
from tasks.errors import DatasetError
from tasks.records import ARRAY_NAMES
from tasks.sources.stream import ArrayStream, Read, intact

WHOLE = "An .npz dataset must be a whole zip archive of arrays that are plain or deflated."
SAVE_AGAIN = "Copy it again, or save it with numpy.savez or numpy.savez_compressed."
MAX_HEADER_BYTES = 12 + 10_000  # NumPy's own limit on a header, and what stands before it
HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_npz(path: Path) -> dict[str, ArrayStream]:
    """Check an archive's four arrays against its directory, before anything is allocated.

    What only a checksum knows shows while `rows()` inflates. Raises DatasetError.
    """
    with intact(WHOLE, path.name, SAVE_AGAIN), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if missing := [name for name in ARRAY_NAMES if name not in members]:
        raise DatasetError(
            f"An .npz dataset holds {', '.join(ARRAY_NAMES)}.",
            received=f"no {', '.join(missing)}, but {', '.join(sorted(members)) or 'nothing'}",
            where=path.name,
            advice="Save it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…).",
        )
    return {name: _open_member(path, members[name]) for name in ARRAY_NAMES}


def _open_member(path: Path, info: zipfile.ZipInfo) -> ArrayStream:
    where = f"{info.filename} of {path.name}"
    with intact(WHOLE, where, SAVE_AGAIN):
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"compression method {info.compress_type}")
    opened = partial(_opened, path, info.filename)
    with opened() as read:
        # A bounded piece: NumPy reads as many bytes as the header claims to have, up to 4 GiB.
        header = BytesIO(read(MAX_HEADER_BYTES))
    with intact("Each member must be an .npy file of format 1.0 or 2.0.", where, SAVE_AGAIN):
        version = np.lib.format.read_magic(header)
        with PARSING:
            shape, fortran_order, dtype = HEADER_READERS[version](header)
    if dtype.kind not in "uif" or fortran_order:
        raise DatasetError(
            "Arrays must hold plain numbers in C order.",
            received=f"dtype {dtype}" + (" in Fortran order" if fortran_order else ""),
            where=where,
            advice="Save numpy.ascontiguousarray(array) of a whole or real dtype.",
        )
    sizes_bytes = info.file_size, info.compress_size
    return ArrayStream(where, dtype, shape, header.tell(), opened, *sizes_bytes)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Read]:
    with (
        intact(WHOLE, path.name, SAVE_AGAIN),
        zipfile.ZipFile(path) as archive,
        archive.open(name) as member,
    ):
        yield member.read
