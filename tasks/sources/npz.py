"""Datasets in one `.npz`: x_train, y_train, x_test, y_test, as numpy.savez writes them.

The archive is a zip of `.npy` files. Names, dtypes and declared sizes are checked against
the archive's directory before an array is read, and arrays of objects (pickles) never are.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import (
    DatasetError,
)
from tasks.records import ARRAY_NAMES
from tasks.sources.stream import (
    AGAIN,
    DEFLATE_MAX_RATIO,
    ArrayStream,
    Readable,
    read_rows,
    trailing,
    truncated,
)

SAVE_AGAIN = "Save it again with numpy.savez or numpy.savez_compressed."
PLAIN_OR_DEFLATED = "The arrays of an .npz dataset must be plain or deflated."
NUMERIC_KINDS = "uif"
MAX_HEADER_BYTES = 12 + 10_000  # NumPy's own limit on a header, and what stands before it
HEADER_ERRORS = (
    *(ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError),
    *(MemoryError, RecursionError),  # how the parser refuses deep nesting
)
HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_npz(path: Path) -> dict[str, ArrayStream]:
    """Check an archive's four arrays against its directory, before anything is allocated.

    Raises:
        DatasetError: not a zip archive that can be read, or a member is not an `.npy` file.
        DatasetError: one of the four arrays is not in it.
        DatasetError: objects, text, or Fortran order.
        DatasetError, DatasetError: a member's size and header disagree.
        DatasetError: a member does not inflate to what the archive promised.
    """
    with _opened(path) as archive:
        found = {info.filename: info for info in archive.infolist()}
        missing = [name for name in ARRAY_NAMES if f"{name}.npy" not in found]
        if missing:
            raise DatasetError(
                f"An .npz dataset holds {', '.join(ARRAY_NAMES)}.",
                received=f"no {', '.join(missing)}, but {', '.join(sorted(found)) or 'nothing'}",
                where=path.name,
                advice="Save it with numpy.savez(path, x_train=…, y_train=…, x_test=…, y_test=…).",
            )
        return {name: _open_member(archive, found[f"{name}.npy"], path) for name in ARRAY_NAMES}


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> ArrayStream:
    where = f"{info.filename} of {path.name}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DatasetError(
            PLAIN_OR_DEFLATED,
            received=f"compression method {info.compress_type}",
            where=where,
            advice=SAVE_AGAIN,
        )
    with archive.open(info) as member:
        dtype, shape, header_bytes = _read_header(member, where)
    values_bytes, declared_bytes = info.file_size - header_bytes, math.prod(shape) * dtype.itemsize
    if values_bytes < declared_bytes or info.file_size > info.compress_size * DEFLATE_MAX_RATIO:
        raise truncated(
            f"{values_bytes} bytes, {info.compress_size} compressed; not {declared_bytes}", where
        )
    if values_bytes > declared_bytes:
        raise trailing(f"{values_bytes} bytes, not {declared_bytes}", where)

    def rows() -> Iterator[np.ndarray]:
        with _opened(path) as reopened, reopened.open(info.filename) as member:
            member.read(header_bytes)
            yield from read_rows(member.read, dtype, shape, where)

    return ArrayStream(where, dtype, shape, rows)


def _read_header(member: Readable, where: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    # From a bounded piece: NumPy reads as many bytes as the header claims to have, up to 4 GiB.
    header = BytesIO(member.read(MAX_HEADER_BYTES))
    try:
        version = np.lib.format.read_magic(header)
        shape, fortran_order, dtype = HEADER_READERS[version](header)
    except HEADER_ERRORS as error:
        raise DatasetError(
            "Each member must be an .npy file of format 1.0 or 2.0.",
            received=error,
            where=where,
            advice="Save it again with numpy.savez.",
        ) from error
    if any(size < 0 for size in shape):
        raise DatasetError(
            "Sizes of an array must not be negative.", received=shape, where=where, advice=AGAIN
        )
    if dtype.hasobject or dtype.kind not in NUMERIC_KINDS or fortran_order:
        raise DatasetError(
            "Arrays must hold plain numbers in C order.",
            received=f"dtype {dtype}" + (" in Fortran order" if fortran_order else ""),
            where=where,
            advice="Save numpy.ascontiguousarray(array) of a whole or real dtype.",
        )
    return dtype, shape, header.tell()


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        if "CRC" in str(error):
            raise _corrupt(error, path) from error
        raise DatasetError(
            "An .npz dataset must be a zip archive.", received=error, where=path.name, advice=AGAIN
        ) from error
    except (zlib.error, EOFError) as error:
        raise _corrupt(error, path) from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown method
        raise DatasetError(
            PLAIN_OR_DEFLATED, received=error, where=path.name, advice=SAVE_AGAIN
        ) from error
    except (OSError, UnicodeDecodeError) as error:  # offsets and names in a damaged directory
        raise DatasetError(
            "An .npz dataset must be a zip archive.", received=error, where=path.name, advice=AGAIN
        ) from error


def _corrupt(error: Exception, path: Path) -> DatasetError:
    return DatasetError(
        "An archive's members must inflate to what its directory says.",
        received=error,
        where=path.name,
        advice=AGAIN,
    )
