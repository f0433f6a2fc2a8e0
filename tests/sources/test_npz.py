"""Datasets in one .npz: what is read, how each broken kind is refused, what loading keeps."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import Arrays, npy_bytes, npy_header, tiny_arrays

from tasks.cache.blobs import Store
from tasks.errors import DatasetError
from tasks.load import load
from tasks.records import ARRAY_NAMES, DatasetRef
from tasks.sources.catalogue import find_dataset
from tasks.sources.npz import open_npz

WHOLE = "must be a whole zip archive"
NEXT_MEMBER = 30  # bytes of a local zip header before the member's name


def saved(path: Path, **changed: np.ndarray) -> Path:
    """The tiny dataset as numpy.savez writes it, with some arrays changed."""
    np.savez(path, **{**tiny_arrays(), **changed})
    return path


def zipped(path: Path, **members: bytes) -> Path:
    """The tiny dataset as a zip of .npy files, with the bytes of some members changed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in tiny_arrays().items():
            archive.writestr(f"{name}.npy", members.get(name, npy_bytes(array)))
    return path


def read(path: Path) -> Arrays:
    return {name: np.concatenate(list(s.rows())) for name, s in open_npz([path]).streams.items()}


def loaded(path: Path, store: Store) -> DatasetRef:
    return load.fn(find_dataset(str(path), downloads=path.parent), store)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read(tmp_path: Path, save: Callable[..., None]) -> None:
    arrays = tiny_arrays()
    save(tmp_path / "tiny.npz", **arrays)

    found = read(tmp_path / "tiny.npz")

    assert list(arrays) == list(found)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, found[name], strict=True)


def test_pieces_join_to_the_whole_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.sources.stream.CHUNK_BYTES", 7 * 4 * 5)  # 7 images of 30

    found = read(saved(tmp_path / "tiny.npz"))

    np.testing.assert_array_equal(tiny_arrays()["x_train"], found["x_train"])


def test_other_members_are_ignored(tmp_path: Path) -> None:
    path = saved(tmp_path / "tiny.npz", x_validation=np.zeros(3), x_train_small=np.zeros(3))

    assert list(open_npz([path]).streams) == ["x_train", "y_train", "x_test", "y_test"]


def test_missing_array_is_named_with_what_is_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", x_train=np.zeros(1), y_test=np.zeros(1), labels=np.zeros(1))

    with pytest.raises(DatasetError) as caught:
        open_npz([tmp_path / "tiny.npz"])

    assert "Received: no y_train, x_test, but labels, x_train, y_test (in tiny.npz)." in str(
        caught.value
    )


class Bait:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "unpickled"
    path = saved(tmp_path / "tiny.npz", x_train=np.array([Bait(trace)], dtype=object))

    with pytest.raises(
        DatasetError, match=r"plain numbers.*dtype object \(in x_train\.npy of tiny\.npz"
    ):
        read(path)

    assert not trace.exists()
    np.load(path, allow_pickle=True)["x_train"]
    assert trace.exists(), "the bait does not work, so the test above shows nothing"


@pytest.mark.parametrize(
    ("array", "received"),
    [
        (np.array([1j]), "dtype complex128"),
        (np.array(["2026-01-01"], "datetime64[D]"), "dtype datetime64[D]"),
        (np.zeros(1, [("row", "u1")]), "dtype [('row', 'u1')]"),
    ],
    ids=["complex", "dates", "records"],
)
def test_arrays_of_other_kinds_are_refused(
    tmp_path: Path, array: np.ndarray, received: str
) -> None:
    path = saved(tmp_path / "tiny.npz", x_test=array)

    with pytest.raises(DatasetError) as caught:
        open_npz([path])

    assert "Arrays must hold plain numbers; labels may be text." in str(caught.value)
    assert f"Received: {received} (in x_test.npy of tiny.npz)." in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", npy_bytes(np.zeros(3))])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tiny.npz").write_bytes(content)

    with pytest.raises(DatasetError, match=WHOLE + r".*File is not a zip file \(in tiny\.npz\)"):
        open_npz([tmp_path / "tiny.npz"])


def test_archive_cut_short_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "tiny.npz")
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(DatasetError, match=WHOLE + r".*File is not a zip file \(in tiny\.npz\)"):
        open_npz([path])


NPY = "Each member must be an .npy file of format 1.0 or 2.0. Received: "
SIZE = "A file must hold as many bytes as its header declares, and no more. Received: "
HEADER_BYTES = 128  # of the members below


@pytest.mark.parametrize(
    ("member", "message"),
    [
        pytest.param(b"", f"{NPY}EOF: reading magic string", id="empty"),
        pytest.param(b"JPEG of a seven", f"{NPY}the magic string is not correct", id="magic"),
        pytest.param(b"\x93NUMPY\x03\x00", f"{NPY}(3, 0)", id="another format version"),
        pytest.param(npy_header((2,))[:20], f"{NPY}EOF: reading array header", id="header"),
        pytest.param(
            npy_header((3, 4, 5)) + bytes(2 * 4 * 5),
            f"{SIZE}{HEADER_BYTES + 40} bytes, not {HEADER_BYTES + 60}",
            id="shape larger than the member",
        ),
        pytest.param(
            npy_header((1, 4, 5)) + bytes(2 * 4 * 5),
            f"{SIZE}{HEADER_BYTES + 40} bytes, not {HEADER_BYTES + 20}",
            id="shape smaller than the member",
        ),
        pytest.param(
            npy_header((2**32 - 1,) * 3) + bytes(40),
            f"{SIZE}{HEADER_BYTES + 40} bytes, not {HEADER_BYTES + (2**32 - 1) ** 3}",
            id="impossible shape",
        ),
        pytest.param(
            npy_header((2, -4, -4)) + bytes(32),
            "Every dimension must be at least 1. Received: (2, -4, -4)",
            id="negative sizes",
        ),
        pytest.param(
            npy_header((0, 4, 5)),
            "Every dimension must be at least 1. Received: (0, 4, 5)",
            id="no images",
        ),
        pytest.param(
            npy_header((-2, -4, 5), fortran_order=True) + bytes(40),
            "Every dimension must be at least 1. Received: (-2, -4, 5)",
            id="negative sizes in Fortran order",
        ),
        pytest.param(
            npy_header((2,), "<U0"),
            "Arrays must hold plain numbers; labels may be text. Received: dtype <U0",
            id="text of no letters",
        ),
    ],
)
def test_broken_member_is_refused_by_name(tmp_path: Path, member: bytes, message: str) -> None:
    path = zipped(tmp_path / "tiny.npz", x_test=member)

    with pytest.raises(DatasetError) as caught:
        open_npz([path])

    assert str(caught.value).startswith(message)
    assert "(in x_test.npy of tiny.npz)." in str(caught.value)


def test_member_that_fails_its_checksum_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "tiny.npz")
    values = tiny_arrays()["x_train"].tobytes()
    path.write_bytes(path.read_bytes().replace(values, bytes(len(values))))

    with pytest.raises(DatasetError, match=WHOLE + r".*Bad CRC-32.*\(in x_train\.npy of tiny\."):
        read(path)


def test_member_that_does_not_inflate_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "tiny.npz")
    content = bytearray(path.read_bytes())
    name_bytes, extra_bytes = struct.unpack("<HH", content[26:30])
    content[NEXT_MEMBER + name_bytes + extra_bytes] = 0xFF  # a block type that deflate lacks
    path.write_bytes(content)

    with pytest.raises(DatasetError, match=WHOLE + r".*invalid block type \(in x_.* of tiny\."):
        open_npz([path])


def test_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "tiny.npz")
    content = path.read_bytes()
    for flags, signature in ((6, b"PK\x03\x04"), (8, b"PK\x01\x02")):  # of each header
        parts = content.split(signature)
        parts[1:] = [part[: flags - 4] + b"\x01" + part[flags - 3 :] for part in parts[1:]]
        content = signature.join(parts)
    path.write_bytes(content)

    with pytest.raises(DatasetError, match=WHOLE + r".*is encrypted.*\(in x_.* of tiny\.npz\)"):
        open_npz([path])


def deflate_bomb(claimed_bytes: int) -> bytes:
    """An archive that promises far more, in directory and header, than can be inflated."""
    content = BytesIO()
    header = npy_header((claimed_bytes, 1, 1))
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in tiny_arrays().items():
            archive.writestr(f"{name}.npy", header if name == "x_train" else npy_bytes(array))
        archive.getinfo("x_train.npy").file_size = len(header) + claimed_bytes
    return content.getvalue()


def test_claim_that_deflate_cannot_keep_is_refused_before_anything_is_allocated(
    tmp_path: Path,
) -> None:
    (tmp_path / "bomb.npz").write_bytes(deflate_bomb(claimed_bytes=1 << 30))
    tracemalloc.start()
    try:
        with pytest.raises(
            DatasetError, match=r"compressed bytes, too few for .* \(in x_train\.npy of b"
        ):
            open_npz([tmp_path / "bomb.npz"])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 1 << 20


@pytest.mark.usefixtures("outside_a_run")
@pytest.mark.parametrize("dtype", ["|i1", "<i8", ">i4", "<u8"])
def test_whole_number_labels_become_uint8(tmp_path: Path, store: Store, dtype: str) -> None:
    labels = tiny_arrays()["y_train"]

    dataset = loaded(saved(tmp_path / "tiny.npz", y_train=labels.astype(dtype)), store)

    np.testing.assert_array_equal(labels, store.open_array(dataset.y_train), strict=True)


@pytest.mark.usefixtures("outside_a_run")
def test_sizes_and_classes_come_from_the_data(tmp_path: Path, store: Store) -> None:
    np.savez(tmp_path / "tiny.npz", **tiny_arrays(classes=4, size=(6, 7)))

    dataset = loaded(tmp_path / "tiny.npz", store)

    assert (dataset.height, dataset.width, dataset.classes) == (6, 7, 4)


@pytest.mark.usefixtures("outside_a_run")
@pytest.mark.parametrize(
    ("changed", "rule", "received"),
    [
        (
            {"y_train": np.zeros(29, np.uint8)},
            "Image and label counts must match.",
            "30 images, 29 labels (in x_train.npy of tiny.npz and y_train.npy of tiny.npz)",
        ),
        (
            {"x_test": np.zeros((12, 20), np.uint8)},
            "x_test must have the axes (image, row, column), and perhaps one or three channels.",
            "shape (12, 20) (in x_test.npy of tiny.npz)",
        ),
        (
            {"x_test": np.full((12, 4, 5, 3), 9, np.uint8)},
            "Training and test images must have the same height, width and channels.",
            "(4, 5) and (4, 5, 3) (in x_train.npy of tiny.npz and x_test.npy of tiny.npz)",
        ),
        (
            {"y_test": np.zeros((12, 3, 1), np.uint8)},
            "y_test must have the axes (image), or (image, class) if it is one-hot.",
            "shape (12, 3, 1) (in y_test.npy of tiny.npz)",
        ),
        (
            {"x_test": np.zeros((12, 5, 4), np.uint8)},
            "Training and test images must have the same height, width and channels.",
            "(4, 5) and (5, 4) (in x_train.npy of tiny.npz and x_test.npy of tiny.npz)",
        ),
        (
            {"x_test": np.zeros((0, 4, 5), np.uint8), "y_test": np.zeros(0, np.uint8)},
            "Every dimension must be at least 1.",
            "(0, 4, 5) (in x_test.npy of tiny.npz)",
        ),
    ],
    ids=[
        "counts differ",
        "flat",
        "colour",
        "three axes of labels",
        "sizes differ",
        "no test images",
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(
    tmp_path: Path, store: Store, changed: Arrays, rule: str, received: str
) -> None:
    path = saved(tmp_path / "tiny.npz", **changed)

    with pytest.raises(DatasetError) as caught:
        loaded(path, store)

    assert str(caught.value).startswith(f"{rule} Received: {received}. ")


@pytest.mark.usefixtures("outside_a_run")
def test_refused_labels_leave_no_half_written_array(tmp_path: Path, store: Store) -> None:
    path = saved(tmp_path / "tiny.npz", y_train=np.full(30, 0.5))

    with pytest.raises(DatasetError, match="Labels must be whole numbers"):
        loaded(path, store)

    assert list(store.blobs.glob("*.partial")) == []


@pytest.mark.parametrize(
    "header",
    [b"{'descr': '|u1', 'fortran_order'(False", b"{[]: 1}", b"  {'descr': '|u1'"],
    ids=["unbalanced", "unhashable", "indented"],
)
def test_member_with_a_damaged_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "damaged.npz"
    padded = header.ljust(118) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ARRAY_NAMES:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00\x77\x00" + padded)
    with pytest.raises(DatasetError, match=r"must be an \.npy file.*x_train\.npy of damaged\.npz"):
        open_npz([path])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_numpy_never_writes_is_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "other.npz"
    with zipfile.ZipFile(path, "w", compression=method) as archive:
        for name, array in tiny_arrays().items():
            archive.writestr(f"{name}.npy", npy_bytes(array))
    with pytest.raises(DatasetError, match=WHOLE + r".*compression method"):
        open_npz([path])


def test_header_that_claims_gigabytes_is_refused_without_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "claims.npz"
    claims = b"\x93NUMPY\x02\x00" + (1 << 28).to_bytes(4, "little")
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name in ARRAY_NAMES:
            archive.writestr(f"{name}.npy", claims + bytes(1 << 26))
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"must be an \.npy file.*EOF: reading array header"):
        open_npz([path])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 << 20
