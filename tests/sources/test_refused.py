"""Kinds of files that are refused: recognised by content or name, each with its way out."""

from __future__ import annotations

import gzip
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from builders import npy_bytes

from tasks.errors import DatasetError
from tasks.sources.refused import open_refused, refused_files

ARRAYS = {"x": np.zeros((2, 3, 3), np.uint8), "y": np.arange(2)}


class Bait:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def torch_zip(path: Path) -> None:
    """As torch.save lays one out."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("training/data.pkl", pickle.dumps(ARRAYS))
        archive.writestr("training/data/0", bytes(18))


def hdf5(path: Path, **options: int) -> None:
    with h5py.File(path, "w", **options) as file:
        for name, array in ARRAYS.items():
            file[name] = array


def refusal(path: Path) -> str:
    """Of a file that is found alone and in its folder."""
    assert refused_files(path) == [path]
    assert refused_files(path.parent) == [path]
    with pytest.raises(DatasetError) as caught:
        open_refused([path])
    return str(caught.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["data.pkl", "data_batch_1", "digits.bin"])
def test_pickle_is_recognised_by_how_it_starts(tmp_path: Path, protocol: int, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(ARRAYS, protocol=protocol))

    message = refusal(path)

    assert message.startswith("Pickles are not read: whoever reads one runs the code in it. ")
    assert f"Received: a pickle (in {path})." in message
    assert (
        f"d = pickle.loads(pathlib.Path('{path}').read_bytes(), encoding='latin1'); numpy.savez("
        in message
    )


@pytest.mark.parametrize("name", ["old.pkl", "old.PICKLE", "old.p", "model.joblib"])
def test_pickle_that_starts_like_nothing_is_recognised_by_its_name(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(ARRAYS, protocol=0))

    assert refusal(tmp_path / name).startswith("Pickles are not read")


@pytest.mark.parametrize("name", ["mnist.pkl.gz", "mnist.gz"])
def test_pickle_inside_gzip_is_told_how_to_open_both(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(pickle.dumps(ARRAYS)))

    assert f"pickle.load(gzip.open('{path}'), encoding='latin1')" in refusal(path)


@pytest.mark.parametrize("name", ["training.pt", "training.pth", "training.zip"])
def test_file_of_torch_is_refused_though_it_is_a_zip(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch_zip(path)

    message = refusal(path)

    assert message.startswith("Files of torch.save are not read: they hold pickles, ")
    assert f"d = torch.load('{path}', weights_only=True); numpy.savez(" in message


@pytest.mark.parametrize("name", ["train_32x32.mat", "train_32x32"])
def test_matlab_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    scipy.io.savemat(path, ARRAYS, appendmat=False)

    message = refusal(path)

    assert "they do not say which array is what, nor which axis is the image" in message
    assert f"d = scipy.io.loadmat('{path}'); numpy.savez(" in message


@pytest.mark.parametrize("name", ["digits.h5", "digits.hdf5", "digits"])
@pytest.mark.parametrize("userblock", [0, 512])
def test_hdf5_file_is_refused(tmp_path: Path, name: str, userblock: int) -> None:
    path = tmp_path / name
    hdf5(path, userblock_size=userblock)

    assert f"d = h5py.File('{path}'); numpy.savez(" in refusal(path)


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        (
            "pickle",
            (
                "import numpy, pathlib, pickle; "
                "d = pickle.loads(pathlib.Path({!r}).read_bytes(), encoding='latin1')"
            ),
        ),
        ("hdf5", "import h5py, numpy; d = h5py.File({!r})"),
        ("mat", "import numpy, scipy.io; d = scipy.io.loadmat({!r})"),
    ],
)
def test_line_that_is_advised_opens_the_file(tmp_path: Path, arrays: str, line: str) -> None:
    path = tmp_path / f"digits.{arrays}"
    writers = {
        "pickle": lambda: path.write_bytes(pickle.dumps(ARRAYS)),
        "hdf5": lambda: hdf5(path),
        "mat": lambda: scipy.io.savemat(path, ARRAYS, appendmat=False),
    }
    writers[arrays]()
    advised = line.format(str(path))
    opened: dict[str, Any] = {}

    assert advised in refusal(path)
    exec(advised, opened)  # noqa: S102 - what a reader of the message types

    np.testing.assert_array_equal(ARRAYS["x"], opened["d"]["x"][:])


@pytest.mark.parametrize(
    "content",
    [b"", b"P", b"\x80", b"\x1f\x8b", b"PK\x03\x04", b"label,pixel0\n", npy_bytes(ARRAYS["x"])],
)
def test_other_files_are_not_taken_for_such(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "digits").write_bytes(content)

    assert refused_files(tmp_path / "digits") == []
    assert refused_files(tmp_path) == []


def test_archives_of_arrays_are_not_taken_for_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", **ARRAYS)
    (tmp_path / "digits.csv.gz").write_bytes(gzip.compress(b"1,0,0,0,0\n"))

    assert refused_files(tmp_path / "digits.npz") == []
    assert refused_files(tmp_path / "digits.csv.gz") == []


def test_folder_of_pickles_and_documents_is_refused(tmp_path: Path) -> None:
    """CIFAR-10 as its authors publish it for Python."""
    for name in ("data_batch_1", "data_batch_2", "test_batch", "batches.meta"):
        (tmp_path / name).write_bytes(pickle.dumps(ARRAYS))
    (tmp_path / "readme.html").write_text("CIFAR-10")
    (tmp_path / ".DS_Store").write_bytes(b"")

    found = refused_files(tmp_path)

    assert [p.name for p in found] == ["batches.meta", "data_batch_1", "data_batch_2", "test_batch"]


@pytest.mark.parametrize("other", ["digits.npz", "train.csv", "7.png", "pictures/"])
def test_folder_with_other_data_is_left_to_other_readers(tmp_path: Path, other: str) -> None:
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    if other.endswith("/"):
        (tmp_path / other).mkdir()
    else:
        (tmp_path / other).write_bytes(b"")

    assert refused_files(tmp_path) == []


def test_place_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert refused_files(tmp_path / "absent") == []


def test_nothing_in_a_file_is_ever_run(tmp_path: Path) -> None:
    trace = tmp_path / "unpickled"
    path = tmp_path / "bait" / "data.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Bait(trace)))

    refusal(path)

    assert not trace.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - the bait is ours
    assert trace.exists(), "the bait does not work, so the test above shows nothing"
