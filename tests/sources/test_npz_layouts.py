""".npz files as people have them: keys, orders, MedMNIST, KMNIST; and what `load` makes of them."""

from __future__ import annotations

import logging
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import Arrays, npy_bytes, tiny_arrays

from tasks.cache.blobs import Store
from tasks.errors import DatasetError
from tasks.load import load
from tasks.records import ARRAY_NAMES, DatasetRef
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.npz import part_of
from tasks.sources.stream import OpenedDataset

MEDMNIST = {
    "train_images": "x_train",
    "train_labels": "y_train",
    "val_images": "x_test",
    "val_labels": "y_test",
    "test_images": "x_test",
    "test_labels": "y_test",
}


def opened(place: Path) -> OpenedDataset:
    return open_dataset(find_dataset(str(place), place.parent))


def read(place: Path) -> Arrays:
    return {n: np.concatenate(list(s.rows())) for n, s in opened(place).streams.items()}


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """What `load` logs, outside of a run."""
    logger = logging.getLogger("loading")
    monkeypatch.setattr("tasks.load.get_run_logger", lambda: logger)
    with caplog.at_level("INFO", "loading"):
        yield caplog


def loaded(place: Path, store: Store) -> DatasetRef:
    return load.fn(find_dataset(str(place), place.parent), store)


# --- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_TEST", "y_Test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("training_images", "training_labels", "test_images", "test_labels"),
        ("train-x", "train-y", "test-x", "test-y"),
    ],
)
def test_usual_keys_are_taken(tmp_path: Path, keys: tuple[str, ...]) -> None:
    arrays = tiny_arrays()

    found = read(saved(tmp_path / "t.npz", **dict(zip(keys, arrays.values(), strict=True))))

    assert list(ARRAY_NAMES) == list(found)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, found[name], strict=True)


@pytest.mark.parametrize("key", ["x", "labels", "x_train_small", "train_train", "x_y", "arr_0"])
def test_other_keys_stand_for_nothing(key: str) -> None:
    assert part_of(key) == ""


def test_two_keys_for_one_array_are_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.npz", **tiny_arrays(), train_images=tiny_arrays()["x_train"])

    with pytest.raises(DatasetError, match=r"x_train and train_images, which both stand for x_tra"):
        opened(path)


def test_archive_is_known_by_its_members_whatever_its_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.npz", **tiny_arrays()).rename(tmp_path / "t.bin")

    assert "npz" == find_dataset(str(path), tmp_path).kind


def test_arrays_in_fortran_order_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.sources.stream.CHUNK_BYTES", 7 * 4 * 5)  # 7 images of 30
    arrays = tiny_arrays()
    fortran = {name: np.asfortranarray(arrays[name]) for name in ("x_train", "x_test")}
    path = saved(tmp_path / "t.npz", **arrays | fortran)

    for name, found in read(path).items():
        np.testing.assert_array_equal(arrays[name], found, strict=True)


def test_fortran_order_needs_memory_for_chunks(tmp_path: Path) -> None:
    images = np.asfortranarray(np.arange(40_000 * 784, dtype=np.uint32).reshape(-1, 28, 28) % 251)
    labels = np.zeros(40_000, np.uint8)
    path = saved(tmp_path / "t.npz", x_train=images.astype("u1", order="F"), y_train=labels)
    (stream, _) = opened(path).streams.values()
    tracemalloc.start()
    rows = sum(len(piece) for piece in stream.rows())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 40_000 == rows
    assert peak_bytes < 14 << 20  # of 30 MiB


# --- MedMNIST --------------------------------------------------------------------------------


def medmnist(path: Path, **changed: np.ndarray) -> Path:
    arrays = tiny_arrays()
    members = {key: arrays[name] for key, name in MEDMNIST.items()}
    labels = {key: array[:, np.newaxis] for key, array in members.items() if "labels" in key}
    return saved(path, **{**members, **labels, **changed})


def test_medmnist_is_loaded_and_its_log_says_how(
    tmp_path: Path, store: Store, logged: pytest.LogCaptureFixture
) -> None:
    dataset = loaded(medmnist(tmp_path / "pathmnist.npz"), store)

    held_out = store.open_array(dataset.y_train)[-dataset.validation_images :]
    assert 12 == len(held_out)
    assert tiny_arrays()["y_train"].tolist() == store.open_array(dataset.y_train)[:30].tolist()
    assert logged.messages[1:] == [
        "MedMNIST: labels (30, 1) read as 30",
        "MedMNIST: labels (12, 1) read as 12",
        "MedMNIST: labels (12, 1) read as 12",
        "pathmnist: 30 training, 12 validation and 12 test images of 4 x 5 pixels, 3 classes",
    ]
    assert logged.messages[0].startswith("MedMNIST: read train_images as x_train, train_labels")


def test_validation_split_is_opened(tmp_path: Path) -> None:
    streams = opened(medmnist(tmp_path / "pathmnist.npz")).streams

    assert [*ARRAY_NAMES, "x_validation", "y_validation"] == list(streams)


@pytest.mark.usefixtures("outside_a_run")
def test_multi_label_targets_are_refused_by_name(tmp_path: Path, store: Store) -> None:
    """MedMNIST's chest: an image may have several of fourteen findings, or none."""
    findings = np.zeros((30, 14), np.uint8)
    findings[3, [2, 5]] = 1

    with pytest.raises(DatasetError, match=r"ChestMNIST.*shape \(30, 14\), rows with 0 … 2 ones"):
        loaded(medmnist(tmp_path / "chestmnist.npz", train_labels=findings), store)


@pytest.mark.usefixtures("outside_a_run")
def test_colour_in_one_split_alone_is_refused(tmp_path: Path, store: Store) -> None:
    colour = np.full((30, 4, 5, 3), 9, np.uint8)

    with pytest.raises(DatasetError, match=r"height, width and channels.*\(4, 5, 3\) and \(4, 5\)"):
        loaded(medmnist(tmp_path / "bloodmnist.npz", train_images=colour), store)


# --- KMNIST ----------------------------------------------------------------------------------


def kmnist(folder: Path) -> Path:
    folder.mkdir()
    arrays = tiny_arrays()
    for split in ("train", "test"):
        np.savez_compressed(folder / f"kmnist-{split}-imgs.npz", arrays[f"x_{split}"])
        np.savez_compressed(folder / f"kmnist-{split}-labels.npz", arrays[f"y_{split}"])
    return folder


def test_folder_of_kmnist_is_read(tmp_path: Path) -> None:
    for name, found in read(kmnist(tmp_path / "kuzushiji")).items():
        np.testing.assert_array_equal(tiny_arrays()[name], found, strict=True)


def test_folder_of_kmnist_without_a_file_is_refused(tmp_path: Path) -> None:
    folder = kmnist(tmp_path / "kuzushiji")
    (folder / "kmnist-train-labels.npz").unlink()

    with pytest.raises(DatasetError, match=r"Received: no y_train, but kmnist-test-imgs\.npz, kmn"):
        opened(folder)


def test_folder_of_two_datasets_is_refused(tmp_path: Path) -> None:
    folder = kmnist(tmp_path / "kuzushiji")
    np.savez(folder / "k49-test-imgs.npz", tiny_arrays()["x_test"])

    with pytest.raises(DatasetError, match=r"k49-test-imgs\.npz and kmnist-test-imgs\.npz, which"):
        opened(folder)


def test_file_of_several_arrays_in_a_folder_is_refused(tmp_path: Path) -> None:
    folder = kmnist(tmp_path / "kuzushiji")
    np.savez(folder / "kmnist-test-imgs.npz", **tiny_arrays())

    with pytest.raises(DatasetError, match=r"one array in each.*4 arrays \(in kmnist-test-imgs"):
        opened(folder)


# --- loading ---------------------------------------------------------------------------------


def test_letters_as_labels_are_the_names_of_the_classes(
    tmp_path: Path, store: Store, logged: pytest.LogCaptureFixture
) -> None:
    arrays = tiny_arrays()
    names = np.array(["cat", "ant", "bee"])
    for split in ("y_train", "y_test"):
        arrays[split] = names[arrays[split]]

    dataset = loaded(saved(tmp_path / "t.npz", **arrays), store)

    assert ("ant", "bee", "cat") == dataset.class_names
    assert [2, 0, 1] == store.open_array(dataset.y_train)[:3].tolist()
    assert "labels ant, bee, cat read as 0 … 2, their names kept" == logged.messages[0]


def test_two_valued_pixels_are_multiplied_with_a_warning(
    tmp_path: Path, store: Store, logged: pytest.LogCaptureFixture
) -> None:
    arrays = tiny_arrays()
    two = {name: (arrays[name] > 99).astype(np.uint8) for name in ("x_train", "x_test")}

    dataset = loaded(saved(tmp_path / "t.npz", **arrays | two), store)

    assert {0, 255} == set(store.open_array(dataset.x_test).ravel().tolist())
    (warning,) = [record for record in logged.records if record.levelname == "WARNING"]
    assert "pixels are 0 and 1 only: multiplied by 255" == warning.getMessage()


@pytest.mark.usefixtures("outside_a_run")
def test_same_images_in_any_form_are_the_same_dataset(tmp_path: Path, store: Store) -> None:
    """Bytes, floats in [0, 1], a channel axis, Fortran order; labels as numbers or one-hot."""
    arrays = tiny_arrays()
    one_hot = {n: np.eye(3, dtype=np.float32)[arrays[n]] for n in ("y_train", "y_test")}
    floats = {n: np.float32(arrays[n]) / np.float32(255) for n in ("x_train", "x_test")}
    channels = {n: np.asfortranarray(arrays[n][..., np.newaxis]) for n in ("x_train", "x_test")}
    forms = [arrays, arrays | one_hot, arrays | floats, arrays | channels]

    digests = {
        loaded(saved(tmp_path / f"{number}.npz", **form), store).digest
        for number, form in enumerate(forms)
    }

    assert 1 == len(digests)


@pytest.mark.usefixtures("outside_a_run")
def test_dataset_without_test_images_is_refused(tmp_path: Path, store: Store) -> None:
    arrays = tiny_arrays()
    path = saved(tmp_path / "t.npz", x_train=arrays["x_train"], y_train=arrays["y_train"])

    with pytest.raises(DatasetError, match=rf"Received: no x_test, y_test \(in {path}\)"):
        loaded(path, store)


def test_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.npz", **tiny_arrays())
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("x_test.npy", npy_bytes(tiny_arrays()["x_test"]))

    with pytest.raises(DatasetError, match=r"x_test and x_test, which both stand for x_test"):
        opened(path)
