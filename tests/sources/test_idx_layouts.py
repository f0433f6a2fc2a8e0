"""IDX files as people have them: names, folders, zips; EMNIST and QMNIST; what is refused."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from builders import Arrays, idx_bytes, tiny_arrays

from tasks.errors import DatasetError
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.idx import IDX_FILES
from tasks.sources.stream import OpenedDataset

USUAL = tuple(IDX_FILES.values())
KAGGLE = (
    "train-images.idx3-ubyte",
    "train-labels.idx1-ubyte",
    "t10k-images.idx3-ubyte",
    "t10k-labels.idx1-ubyte",
)


def laid_out(folder: Path, names: Mapping[str, str], arrays: Arrays | None = None) -> Path:
    """Write each array's IDX file by its name below a folder, compressed if it ends so."""
    for array, name in names.items():
        content = idx_bytes((arrays or tiny_arrays())[array])
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    return folder


def zip_of(folder: Path) -> Path:
    path = folder.with_name("archive.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def opened(place: Path) -> OpenedDataset:
    return open_dataset(find_dataset(str(place), place.parent))


def read(place: Path) -> Arrays:
    return {n: np.concatenate(list(s.rows())) for n, s in opened(place).streams.items()}


def assert_tiny(place: Path) -> None:
    for name, found in read(place).items():
        np.testing.assert_array_equal(tiny_arrays()[name], found, strict=True)


def named(*names: str) -> dict[str, str]:
    return dict(zip(IDX_FILES, names, strict=True))


LAYOUTS = {
    "dots": named(*KAGGLE),
    "upper case": named(*(name.upper() for name in USUAL)),
    "mixed case, gzip": named(*(f"{name.title()}.GZ" for name in USUAL)),
    "gzip": named(*(f"{name}.gz" for name in USUAL)),
    "test instead of t10k": named(*(name.replace("t10k", "test") for name in USUAL)),
    "folders named after the file": named(*(f"{name}/{name}" for name in USUAL)),
    "folders named almost so": named(
        *(f"{folder}/{name}" for folder, name in zip(KAGGLE, USUAL, strict=True))
    ),
    "raw": named(*(f"raw/{name}" for name in USUAL)),
    "torchvision": named(*(f"FashionMNIST/raw/{name}.gz" for name in USUAL)),
    "a name before": named(*(f"k49-{name}" for name in USUAL)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_read(tmp_path: Path, layout: str) -> None:
    assert_tiny(laid_out(tmp_path / "digits", LAYOUTS[layout]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_zip_of_a_layout_is_read(tmp_path: Path, layout: str) -> None:
    assert_tiny(zip_of(laid_out(tmp_path / "digits", LAYOUTS[layout])))


def test_what_a_mac_adds_to_a_zip_is_left_alone(tmp_path: Path) -> None:
    path = zip_of(laid_out(tmp_path / "digits", named(*USUAL)))
    with zipfile.ZipFile(path, "a") as archive:
        for name in USUAL:
            archive.writestr(f"__MACOSX/._{name}", b"\0\5\x16\7")

    assert_tiny(path)


def test_raw_folder_of_torchvision_itself_is_read(tmp_path: Path) -> None:
    """As it is after a download: each file plain and compressed."""
    root = laid_out(tmp_path, {name: f"MNIST/raw/{stem}" for name, stem in IDX_FILES.items()})
    laid_out(tmp_path, {name: f"MNIST/raw/{stem}.gz" for name, stem in IDX_FILES.items()})

    source = find_dataset(str(root / "MNIST" / "raw"), tmp_path)

    assert ("mnist-local", list(USUAL)) == (source.name, [file.name for file in source.files])
    for place in (root, root / "MNIST", root / "MNIST" / "raw"):
        assert_tiny(place)


def test_copies_of_a_file_under_two_names_are_one(tmp_path: Path) -> None:
    """As in Kaggle's most downloaded copy of MNIST."""
    laid_out(tmp_path / "digits", LAYOUTS["folders named after the file"])

    assert_tiny(laid_out(tmp_path / "digits", LAYOUTS["dots"]))


@pytest.mark.parametrize("pack", [Path, zip_of], ids=["folder", "zip"])
def test_two_unlike_candidates_are_refused_by_name(
    tmp_path: Path, pack: Callable[[Path], Path]
) -> None:
    folder = laid_out(tmp_path / "digits", named(*USUAL))
    laid_out(folder, {"y_test": f"{USUAL[3]}.gz"}, {"y_test": tiny_arrays()["y_test"][::-1]})
    place = pack(folder)

    with pytest.raises(DatasetError) as caught:
        opened(place)

    assert str(caught.value).startswith("A folder or zip has the IDX files of one dataset, each ")
    assert "Received: unlike files for one array: " in str(caught.value)
    for name in (USUAL[3], f"{USUAL[3]}.gz"):
        assert (name if pack is zip_of else f"{folder / name}") in str(caught.value)


def test_two_datasets_in_one_folder_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("emnist-digits", "emnist-letters"):
        laid_out(tmp_path / "raw", named(*(f"{name}-{stem}" for stem in USUAL)))

    with pytest.raises(DatasetError, match=r"of 2 datasets: .*emnist-digits-.*, .*emnist-letters-"):
        opened(tmp_path / "raw")


def test_two_datasets_below_one_root_are_refused_by_their_places(tmp_path: Path) -> None:
    """Torchvision's root after two downloads."""
    for name, classes in (("MNIST", 3), ("KMNIST", 2)):
        files = named(*(f"{name}/raw/{stem}" for stem in USUAL))
        laid_out(tmp_path, files, tiny_arrays(classes=classes))

    with pytest.raises(DatasetError, match=r"unlike files.*/KMNIST/raw/t.*, .*/MNIST/raw/t"):
        opened(tmp_path)


def test_zip_without_an_array_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "digits", dict(list(named(*USUAL).items())[:3]))

    with pytest.raises(DatasetError, match=r"Received: no t10k-labels-idx1-ubyte \(in .*\.zip"):
        opened(zip_of(folder))


def test_files_without_a_test_split_are_opened(tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "digits", dict(list(named(*USUAL).items())[:2]))

    assert ["x_train", "y_train"] == list(opened(folder).streams)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"no zip at all"])
def test_what_is_named_zip_and_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "digits.zip").write_bytes(content)

    with pytest.raises(DatasetError, match=r"zip archive must be whole.*\(in digits\.zip\)"):
        opened(tmp_path / "digits.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_of_a_compression_that_takes_much_memory_is_refused(
    tmp_path: Path, method: int
) -> None:
    with zipfile.ZipFile(tmp_path / "digits.zip", "w", method) as archive:
        for name, stem in IDX_FILES.items():
            archive.writestr(stem, idx_bytes(tiny_arrays()[name]))

    with pytest.raises(DatasetError, match=r"compression method \d+ \(in train-images.* of digits"):
        opened(tmp_path / "digits.zip")


def test_member_of_a_zip_that_declares_more_than_there_is_is_refused(tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "digits", named(*USUAL))
    (folder / USUAL[0]).write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3))

    with pytest.raises(DatasetError, match=r"as its header declares.*train-images.* of archive\."):
        opened(zip_of(folder))


# --- EMNIST ----------------------------------------------------------------------------------


def emnist(folder: Path, *, mapping: str | None = None) -> Path:
    """Two letters of 2 rows and 3 columns, stored column by column, labelled 1 and 26."""
    letters = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], np.uint8)
    stored, labels = letters.transpose(0, 2, 1), np.array([1, 26], np.uint8)
    arrays = {"x_train": stored, "y_train": labels, "x_test": stored[::-1], "y_test": labels[::-1]}
    names = (
        f"emnist-letters-{split}-{content}-ubyte.gz"
        for split in ("train", "test")
        for content in ("images-idx3", "labels-idx1")
    )
    laid_out(folder, named(*names), arrays)
    if mapping is not None:
        (folder / "emnist-letters-mapping.txt").write_text(mapping)
    return folder


@pytest.mark.parametrize("pack", [Path, zip_of], ids=["folder", "zip"])
def test_emnist_is_turned_upright(tmp_path: Path, pack: Callable[[Path], Path]) -> None:
    place = pack(emnist(tmp_path / "letters"))

    arrays = read(place)

    assert [[1, 2, 3], [4, 5, 6]] == arrays["x_train"][0].tolist()
    assert [1, 26] == arrays["y_train"].tolist()
    assert (2, 2, 3) == opened(place).streams["x_test"].shape
    assert ("EMNIST: rows and columns of the images swapped",) == opened(place).notes


@pytest.mark.parametrize("pack", [Path, zip_of], ids=["folder", "zip"])
def test_names_of_emnist_are_read_from_its_mapping(
    tmp_path: Path, pack: Callable[[Path], Path]
) -> None:
    """A label, then the codes of a letter, capital and small."""
    place = pack(emnist(tmp_path / "letters", mapping="1 65 97\r\n26 90 122\n\n"))

    assert {1: "A", 26: "Z"} == opened(place).names
    assert opened(place).notes[1].startswith("EMNIST: names of the classes read from emnist-let")


@pytest.mark.parametrize("mapping", ["1\n", "one A\n", "1 -4\n", "1 1114112\n", "1 6é"])
def test_mapping_that_is_none_is_refused(tmp_path: Path, mapping: str) -> None:
    with pytest.raises(DatasetError, match=r"EMNIST's mapping has.*\(in emnist-letters-mapping\."):
        opened(emnist(tmp_path / "letters", mapping=mapping))


# --- QMNIST ----------------------------------------------------------------------------------


def qmnist(folder: Path, columns: int = 8) -> Path:
    arrays = tiny_arrays()
    names = named(*(f"qmnist-{stem}.gz" for stem in USUAL))
    laid_out(folder, {name: names[name] for name in ("x_train", "x_test")})
    for split in ("train", "t10k"):
        labels = arrays["y_train" if split == "train" else "y_test"]
        rows = np.full((len(labels), columns), 1000, ">i4")
        rows[:, 0] = labels
        header = struct.pack(">4B2I", 0, 0, 0x0C, 2, *rows.shape)
        path = folder / f"qmnist-{split.replace('t10k', 'test')}-labels-idx2-int.gz"
        path.write_bytes(gzip.compress(header + rows.tobytes()))
    return folder


@pytest.mark.parametrize("pack", [Path, zip_of], ids=["folder", "zip"])
def test_class_is_the_first_of_qmnists_columns(
    tmp_path: Path, pack: Callable[[Path], Path]
) -> None:
    place = pack(qmnist(tmp_path / "digits"))

    assert tiny_arrays()["y_train"].tolist() == read(place)["y_train"].tolist()
    first, second = opened(place).notes
    assert "QMNIST: labels (30, 8) read as (30,), the class first" == first
    assert "QMNIST: labels (12, 8) read as (12,), the class first" == second


def test_labels_of_another_width_than_qmnists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"rows of 8 numbers.*Received: shape \(30, 7\) \(in qm"):
        opened(qmnist(tmp_path / "digits", columns=7))


def test_labels_of_qmnist_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    folder = qmnist(tmp_path / "digits")
    path = folder / "qmnist-train-labels-idx2-int.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-4]))

    with pytest.raises(DatasetError, match=r"fewer than the 972 bytes declared \(in qmnist-train"):
        read(folder)
