"""A message says what is wrong with a file, and nothing of what the file holds.

Whoever may start a run of a deployment may read its messages, and the worker may read more files.
"""

from __future__ import annotations

import gzip
import shutil
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import idx_bytes, tiny_arrays

from tasks.errors import PipelineError
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.idx import IDX_FILES
from tasks.sources.labels import read_labels
from tasks.sources.pixels import read_images
from tasks.validation.profiles import find_profile

WORD = "Zq7x"  # every piece of a secret holds it
SECRET = "".join(f"{WORD}{number:02}{end}" for number, end in enumerate(":$;, '\"\n\t={}[]\\/"))
SECRETS = {
    "text": SECRET.encode(),
    "one word": WORD.encode() * 50,
    "lines": f"{SECRET}\n".encode() * 9,
    "quoted": f"'{WORD}'\n\"{WORD}\"".encode(),
    "json": f'{{"{WORD}": ["{WORD}", {{"{WORD}": 1}}]}}'.encode(),
    "a profile with more": f'{{"name": ["{WORD}"], "{WORD}": "{WORD}"}}'.encode(),
    "not UTF-8": b"\xff\xfe\xfd" + WORD.encode() * 9,
    "table": f"{WORD},{WORD},{WORD}\n1,2,{WORD}\n".encode(),
    "labels of a table": b"\n".join(b"%s%d,1,2,3,4" % (WORD.encode(), n) for n in range(300)),
    "long label of a table": f"{WORD * 40},1,2,3,4\n".encode(),
    "pixel of a table": f"label,a1,a2,a3,a4\n1,1,2,3,{WORD}\n".encode(),
    "names of a table's pixels": f"label,{WORD}1,{WORD}3,{WORD}2,{WORD}9\n1,1,2,3,4\n".encode(),
    "quotes of a table": f'label,a1,a2,a3,a4\n1,"{WORD}",2,3,"{WORD}'.encode(),
}
HEADERS = {
    "no dict": f"'{WORD}' + {WORD}",
    "other keys": f"{{'{WORD}': 1}}",
    "shape": f"{{'descr': '|u1', 'fortran_order': False, 'shape': '{WORD}'}}",
    "dtype": f"{{'descr': '{WORD}', 'fortran_order': False, 'shape': (1,)}}",
}


def npy(header: str) -> bytes:
    """An .npy file of format 1.0 with any header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def said_of_a_dataset(place: Path) -> str:
    """All that is said while a dataset is read: the messages, and what is logged of errors."""
    notes: list[str] = []
    try:
        source = find_dataset(str(place), place.with_name("downloads"))
        opened = open_dataset(source)
        images = {name: s for name, s in opened.streams.items() if name[0] == "x"}
        for stream in read_images(images, notes.append, notes.append).values():
            list(stream.rows())
        labels = {name: s for name, s in opened.streams.items() if name[0] == "y"}
        read_labels(labels, opened.names, notes.append)
    except PipelineError as error:
        return "".join(traceback.format_exception(error))
    return pytest.fail(f"it was read: {notes}")


def with_members(folder: Path, member: bytes, ending: str = ".npz") -> Path:
    path = folder / f"digits{ending}"
    with zipfile.ZipFile(path, "w") as archive:
        for name in IDX_FILES:
            archive.writestr(f"{name}.npy", member)
    return path


def idx_with(folder: Path, part: str, content: bytes, end: str = "") -> Path:
    """A folder of IDX files, one of which holds something else."""
    for name, stem in IDX_FILES.items():
        whole = idx_bytes(tiny_arrays()[name])
        path = folder / (stem + (end if name == part else ""))
        path.write_bytes(content if name == part else whole)
    return folder


def named(name: str) -> Callable[[Path, bytes], Path]:
    def write(folder: Path, content: bytes) -> Path:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        return folder / name

    return write


def emnist_mapping(folder: Path, content: bytes) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / f"emnist-{stem}").write_bytes(idx_bytes(tiny_arrays()[name]))
    (folder / "emnist-mapping.txt").write_bytes(content)
    return folder


def picture(folder: Path, content: bytes) -> Path:
    for name in ("a", "b"):
        (folder / "train" / name).mkdir(parents=True)
        (folder / "train" / name / "1.png").write_bytes(content)
    return folder


PLACES: dict[str, Callable[[Path, bytes], Path]] = {
    **{
        name: named(name)
        for name in ("a", "a.npz", "a.zip", "a.csv", "a.csv.gz", "a.parquet", "a.pkl", "a.png")
    },
    "gzip": lambda folder, content: named("a.csv")(folder, gzip.compress(content)),
    "images of IDX": lambda folder, content: idx_with(folder, "x_train", content),
    "labels of IDX": lambda folder, content: idx_with(folder, "y_test", content),
    "labels in gzip": lambda folder, content: idx_with(folder, "y_test", content, ".gz"),
    "inflated": lambda folder, content: idx_with(folder, "x_test", gzip.compress(content), ".gz"),
    "after gzip": lambda folder, content: idx_with(
        folder, "x_test", gzip.compress(idx_bytes(tiny_arrays()["x_test"])) + content, ".gz"
    ),
    "mapping of EMNIST": emnist_mapping,
    "members of .npz": with_members,
    "picture": picture,
    "chunk of a PNG": lambda folder, content: picture(
        folder, b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\4\0\0\0\4\x08\0\0\0\0" + content
    ),
    "after a JPEG's start": lambda folder, content: picture(folder, b"\xff\xd8\xff\xe0" + content),
    "after a GIF's start": lambda folder, content: picture(folder, b"GIF89a\4\0\4\0\0\0" + content),
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_message_about_a_dataset_does_not_repeat_a_file(
    place: Callable[[Path, bytes], Path], secret: bytes, tmp_path: Path
) -> None:
    said = said_of_a_dataset(place(tmp_path, secret))
    assert WORD not in said
    assert WORD.encode().hex(" ") not in said


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_message_about_an_array_does_not_repeat_its_header(header: str, tmp_path: Path) -> None:
    assert WORD not in said_of_a_dataset(with_members(tmp_path, npy(header)))


@pytest.mark.parametrize(
    "labels",
    [
        np.array([f"{WORD}{number}" for number in range(4)]).reshape(1, 4),
        np.array([f"{WORD * 40}{number}" for number in range(2)]),
        np.array([f"{WORD}{number}" for number in range(300)]),
    ],
    ids=["two axes", "too long", "too many"],
)
def test_message_about_labels_does_not_repeat_them(labels: np.ndarray, tmp_path: Path) -> None:
    images = np.full((len(labels), 4, 4), 9, np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert WORD not in said_of_a_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize("label", [WORD * 40, ""])
def test_message_about_a_parquet_file_does_not_repeat_its_labels(
    label: str, tmp_path: Path
) -> None:
    shutil.copy(Path(__file__).parents[1] / "screenshots" / "run.png", tmp_path / "run.png")
    image = (tmp_path / "run.png").read_bytes()
    table = pa.table({"image": [{"bytes": image, "path": WORD}], "label": [label]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert WORD not in said_of_a_dataset(tmp_path / "a.parquet")


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_message_about_a_profile_does_not_repeat_the_file(secret: bytes, tmp_path: Path) -> None:
    path = tmp_path / "shadow"
    path.write_bytes(secret)
    with pytest.raises(PipelineError, match="A profile is") as error:
        find_profile(str(path), "mnist")
    assert WORD not in "".join(traceback.format_exception(error.value))
