"""Kinds of files that are refused, each with the reason and what to do instead.

They are recognised by how they start, or else by their names, and never opened further:

    80 04 95 …                  a pickle of protocol 4, also inside gzip
    50 4b 03 04 … data.pkl      a zip of pickles, as torch.save writes it
    "MATLAB 5.0 MAT-file"       a .mat file; from 7.3 on it is HDF5
    89 48 44 46 0d 0a 1a 0a     HDF5
"""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from tasks.errors import DatasetError
from tasks.sources.files import GZIP_MAGIC, UNREADABLE

HEAD_BYTES = 1024
MOST_FILES = 1000  # of a folder
ZIP_MAGIC = b"PK\x03\x04"
PICKLE = re.compile(rb"\x80[\x02-\x05]")
MATLAB = re.compile(b"MATLAB ")
# After 512 bytes of a user's own, too; other places are for what nobody writes.
HDF5 = re.compile(rb"(.{512})?\x89HDF\r\n\x1a\n", re.DOTALL)
TORCH_PICKLE = "data.pkl"
DOCUMENTS = ("", ".html", ".json", ".md", ".pdf", ".txt", ".yaml", ".yml")


class Refusal(NamedTuple):
    """Why a kind of file is not read, and the Python that exports it; {} is the file's path."""

    name: str
    endings: tuple[str, ...]
    reason: str
    export: str


SAVE = "numpy.savez('dataset.npz', x_train=…, y_train=…, x_test=…, y_test=…)"
PICKLES = Refusal(
    "a pickle",
    (".pkl", ".pickle", ".p", ".joblib", ".pkl.gz", ".pickle.gz"),
    "Pickles are not read: whoever reads one runs the code in it.",
    "import numpy, pathlib, pickle; "
    f"d = pickle.loads(pathlib.Path({{!r}}).read_bytes(), encoding='latin1'); {SAVE}",
)
ZIPPED_PICKLES = PICKLES._replace(
    name="a pickle inside gzip",
    export="import gzip, numpy, pickle; d = pickle.load(gzip.open({!r}), encoding='latin1'); "
    + SAVE,
)
TORCH = Refusal(
    "a file of torch.save",
    (".pt", ".pth"),
    "Files of torch.save are not read: they hold pickles, and whoever reads one runs its code.",
    f"import numpy, torch; d = torch.load({{!r}}, weights_only=True); {SAVE}",
)
MAT = Refusal(
    "a MATLAB file",
    (".mat",),
    "MATLAB files are not read: they do not say which array is what, nor which axis is the image.",
    f"import numpy, scipy.io; d = scipy.io.loadmat({{!r}}); {SAVE}",
)
H5 = Refusal(
    "an HDF5 file",
    (".h5", ".hdf5", ".hdf"),
    "HDF5 files are not read: they do not say which array is what, nor which axis is the image.",
    f"import h5py, numpy; d = h5py.File({{!r}}); {SAVE}",
)
KINDS = (ZIPPED_PICKLES, PICKLES, TORCH, MAT, H5)


def refused_files(place: Path) -> list[Path]:
    """A file of such a kind, or those of a folder that has no others but documents; empty: none."""
    if place.is_file():
        return [place] if _kind_of(place) else []
    paths = sorted(place.iterdir()) if place.is_dir() else []
    paths = [path for path in paths if not path.name.startswith(".")]
    if len(paths) > MOST_FILES or not all(path.is_file() for path in paths):
        return []
    refused = [path for path in paths if _kind_of(path)]
    others = [path for path in paths if path not in refused]
    return refused if all(path.suffix.lower() in DOCUMENTS for path in others) else []


def open_refused(files: Sequence[Path]) -> NoReturn:
    """Raise DatasetError: why the first of these files is not read, and how to export it."""
    path = files[0]
    kind = _kind_of(path) or PICKLES
    raise DatasetError(
        kind.reason,
        received=kind.name,
        where=path,
        advice="If you trust where it comes from, export its arrays in Python, and pass the file "
        f"that this makes: {kind.export.format(str(path))}",
    )


def _kind_of(path: Path) -> Refusal | None:
    """By how a file starts, or else by its name."""
    with suppress(*UNREADABLE):
        if kind := _by_content(path):
            return kind
    endings = "".join(path.suffixes[-2:]).lower(), path.suffix.lower()
    return next((kind for end in endings for kind in KINDS if end in kind.endings), None)


def _by_content(path: Path) -> Refusal | None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(GZIP_MAGIC):
        with gzip.open(path) as inflated:
            return ZIPPED_PICKLES if PICKLE.match(inflated.read(2)) else None
    if head.startswith(ZIP_MAGIC):
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).name for name in archive.namelist()]
        return TORCH if TORCH_PICKLE in names else None
    starts = {PICKLES: PICKLE, MAT: MATLAB, H5: HDF5}
    return next((kind for kind, start in starts.items() if start.match(head)), None)
