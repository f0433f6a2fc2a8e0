"""Datasets in Parquet, as Hugging Face keeps them."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.errors import DatasetError
from tasks.records import Reading
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.parquet import BATCH, open_parquet, parquet_files
from tasks.sources.stream import OpenedDataset

ENCODED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = ("ant", "bee", "cat")
FIRST, SECOND = "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"
TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"


def png(level: int, size: tuple[int, int] = (3, 2), mode: str = "L") -> bytes:
    """A picture of 2 rows and 3 columns, all of one level."""
    content = BytesIO()
    Image.new(mode, size, level).save(content, "PNG")
    return content.getvalue()


def described(names: Sequence[str] | None, image: str = "image", label: str = "label") -> Any:
    """The schema's metadata as the library datasets writes them."""
    features: dict[str, Any] = {image: {"_type": "Image"}}
    features[label] = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64"}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def shard(
    path: Path,
    labels: Sequence[Any],
    *,
    pictures: Sequence[Any] | None = None,
    kind: Any = ENCODED,
    label_kind: Any = None,
    columns: tuple[str, str] = ("image", "label"),
    metadata: Mapping[bytes, bytes] | None = None,
    **options: Any,
) -> Path:
    """Write one file: by default, the level of each picture is ten times its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = [png(10 * place) for place in range(len(labels))] if pictures is None else pictures
    if pa.types.is_struct(kind) and pictures is None:
        encoded = [{"bytes": content, "path": f"{n}.png"} for n, content in enumerate(encoded)]
    arrays = [pa.array(encoded, kind), pa.array(labels, label_kind or pa.int64())]
    table = pa.table(dict(zip(columns, arrays, strict=True)))
    metadata = described(CLASSES, *columns) if metadata is None else metadata
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)
    return path


def opened(place: Path, **options: Any) -> OpenedDataset:
    return open_parquet(parquet_files(place), reading=Reading(**options))


def read(place: Path, name: str = "x_train", **options: Any) -> np.ndarray:
    return np.concatenate(list(opened(place, **options).streams[name].rows()))


def refusal(place: Path, **options: Any) -> str:
    """Of opening, or else of reading."""

    def read_all() -> None:
        for stream in opened(place, **options).streams.values():
            list(stream.rows())

    with pytest.raises(DatasetError) as caught:
        read_all()
    return str(caught.value)


# --- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "data"])
def test_shards_of_splits_are_read_in_order(tmp_path: Path, folder: str) -> None:
    shard(tmp_path / folder / SECOND, [2, 0], pictures=[{"bytes": png(70)}, {"bytes": png(80)}])
    shard(tmp_path / folder / FIRST, [0, 1, 2])
    shard(tmp_path / folder / TEST, [1])

    dataset = opened(tmp_path)

    assert list(dataset.streams) == ["x_train", "y_train", "x_test", "y_test"]
    assert read(tmp_path)[:, 0, 0].tolist() == [0, 10, 20, 70, 80]
    assert read(tmp_path, "y_train").tolist() == [0, 1, 2, 2, 0]
    assert read(tmp_path, "y_test").tolist() == [1]
    assert dataset.streams["x_train"].shape == (5, 2, 3)
    assert dataset.streams["x_train"].dtype == np.uint8
    assert dataset.streams["x_train"].where == f"{FIRST}, {SECOND}"
    assert dataset.names == {0: "ant", 1: "bee", 2: "cat"}
    assert dataset.notes == (
        "Parquet: 2 for train, 1 for test, columns image and label, with the names of classes",
    )


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("train.parquet", "valid.parquet"),
        ("train-00000-of-00001-a09b74b3ef9c3b56.parquet", "validation-00000-of-00001.parquet"),
        ("train/0000.parquet", "validation/0000.parquet"),
        ("training/part.parquet", "val/part.parquet"),
        ("Train.PARQUET", "Val.PARQUET"),
    ],
)
def test_splits_have_their_usual_names(tmp_path: Path, train: str, validation: str) -> None:
    shard(tmp_path / train, [0, 1])
    shard(tmp_path / validation, [2])

    assert read(tmp_path, "y_train").tolist() == [0, 1]
    assert read(tmp_path, "y_validation").tolist() == [2]


@pytest.mark.parametrize("name", ["digits.parquet", TRAIN, TEST])
def test_one_file_is_training_images(tmp_path: Path, name: str) -> None:
    path = shard(tmp_path / name, [0, 1])

    assert list(opened(path).streams) == ["x_train", "y_train"]


@pytest.mark.parametrize(
    ("kind", "as_struct"),
    [
        (ENCODED, True),
        (pa.struct([("path", pa.string()), ("bytes", pa.binary())]), True),
        (pa.struct([("bytes", pa.large_binary())]), True),
        (pa.binary(), False),
        (pa.large_binary(), False),
    ],
)
@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label"), ("img", "label")])
def test_columns_are_read(
    tmp_path: Path, *, kind: Any, as_struct: bool, columns: tuple[str, str]
) -> None:
    pictures = [{"bytes": png(9)} if as_struct else png(9)]
    path = shard(tmp_path / TRAIN, [2], kind=kind, pictures=pictures, columns=columns)

    assert read(path).tolist() == [[[9, 9, 9], [9, 9, 9]]]
    assert read(path, "y_train").tolist() == [2]
    assert opened(path).names == {0: "ant", 1: "bee", 2: "cat"}
    assert f"columns {columns[0]} and {columns[1]}" in opened(path).notes[0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()])
def test_labels_of_any_width_are_read(tmp_path: Path, kind: Any) -> None:
    path = shard(tmp_path / TRAIN, [2, 0], label_kind=kind)

    np.testing.assert_array_equal(np.array([2, 0], np.int64), read(path, "y_train"), strict=True)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_labels_may_be_names(tmp_path: Path, kind: Any) -> None:
    path = shard(tmp_path / TRAIN, ["größe", "cat"], label_kind=kind, metadata={})

    assert read(path, "y_train").tolist() == ["größe", "cat"]
    assert opened(path).names is None


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="none"),
        pytest.param(described(None), id="an integer"),
        pytest.param(described(CLASSES, label="other"), id="of another column"),
        pytest.param({b"huggingface": b"{not JSON"}, id="damaged"),
        pytest.param({b"huggingface": b"[]"}, id="a list"),
        pytest.param({b"huggingface": b"\xff"}, id="no text"),
        pytest.param(described([1, 2]), id="numbers as names"),  # type: ignore[list-item]
    ],
)
def test_parquet_without_names_is_read_and_said(
    tmp_path: Path, metadata: Mapping[bytes, bytes]
) -> None:
    path = shard(tmp_path / TRAIN, [5, -3], metadata=metadata)

    assert opened(path).names is None
    assert opened(path).notes[0].endswith("which do not name the classes")
    assert read(path, "y_train").tolist() == [5, -3]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_compression_and_row_groups_change_nothing(tmp_path: Path, compression: str) -> None:
    labels = [place % 3 for place in range(3 * BATCH + 5)]
    pictures = [{"bytes": png(place % 256)} for place in range(len(labels))]
    path = shard(
        tmp_path / TRAIN, labels, pictures=pictures, compression=compression, row_group_size=100
    )

    assert read(path)[:, 1, 2].tolist() == [place % 256 for place in range(len(labels))]
    assert read(path, "y_train").tolist() == labels


def test_pictures_in_colour_and_of_other_sizes_follow_the_options(tmp_path: Path) -> None:
    pictures = [{"bytes": png(9)}, {"bytes": png(0, (6, 4), "RGB")}]
    path = shard(tmp_path / TRAIN, [0, 1], pictures=pictures)

    message = refusal(path)
    assert f"2 x 3 (1 picture, as {TRAIN}, row 0), 4 x 6 (1 picture, as {TRAIN}, row 1)" in message
    assert read(path, image_size=(2, 3)).shape == (2, 2, 3, 3)
    assert read(path, image_size=(2, 3), grayscale=True).shape == (2, 2, 3)
    assert opened(path, image_size=(2, 3)).notes[1:] == (
        "1 picture resized to 2 x 3, bilinear, proportions not kept",
        "1 grey picture beside those in colour: three equal channels",
    )


@pytest.mark.parametrize("name", ["notes.txt", "train.csv", "digits.parquet", "testament.parquet"])
def test_folders_and_files_that_are_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")

    assert parquet_files(tmp_path) == []
    assert parquet_files(tmp_path / "absent") == []


# --- refusals --------------------------------------------------------------------------------


def test_missing_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path / SECOND, [0])

    message = refusal(tmp_path)

    assert "Received: 1 of 2 for train, number 0 is missing" in message


def test_splits_without_training_files_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / TEST, [0])

    assert f"has files for training: train-….parquet. Received: {TEST}" in refusal(tmp_path)


def test_files_that_name_other_classes_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / TRAIN, [0])
    shard(tmp_path / TEST, [0], metadata=described(CLASSES[::-1]))

    assert f"Received: others in {TEST} than in {TRAIN}" in refusal(tmp_path)


ODD_COLUMNS: Mapping[str, tuple[dict[str, Any], str]] = {
    "no image": (
        {"columns": ("picture", "label")},
        "A Parquet dataset has a column image or img. Received: picture, label (in ",
    ),
    "no label": (
        {"columns": ("image", "coarse")},
        "A Parquet dataset has a column label or fine_label. Received: image, coarse (in ",
    ),
    "paths for images": (
        {"kind": pa.string(), "pictures": ["a.png"]},
        (
            "Images in Parquet are encoded pictures: bytes, or structs of bytes and path. "
            "Received: column image of string (in "
        ),
    ),
    "arrays for images": (
        {"kind": pa.list_(pa.list_(pa.uint8())), "pictures": [[[1, 2], [3, 4]]]},
        "Received: column image of list<element: list<element: uint8>> (in ",
    ),
    "structs without bytes": (
        {"kind": pa.struct([("path", pa.string())]), "pictures": [{"path": "a.png"}]},
        "Received: column image of struct<path: string> (in ",
    ),
    "fractions for labels": (
        {"label_kind": pa.float64()},
        "Labels in Parquet are integers or names. Received: column label of double (in ",
    ),
    "lists of labels": (
        {"labels": [[0, 1]], "label_kind": pa.list_(pa.int64())},
        "Labels in Parquet are integers or names. Received: column label of list",
    ),
    "no rows": ({"labels": []}, "A Parquet dataset has images, and not more than bytes."),
    "no bytes": (
        {"pictures": [{"path": "a.png", "bytes": None}]},
        (
            "Images in Parquet are encoded pictures: bytes, or structs of bytes and path. "
            f"Received: no bytes (in {TRAIN}, row 0)."
        ),
    ),
    "no picture": ({"pictures": [None]}, f"Received: no bytes (in {TRAIN}, row 0)."),
    "empty picture": (
        {"pictures": [{"bytes": b""}]},
        (
            "A picture must be a whole PNG, JPEG, BMP or GIF. "
            f"Received: none of these, or damaged at its start (in {TRAIN}, row 0)."
        ),
    ),
    "picture cut short": (
        {"pictures": [{"bytes": png(9, (90, 90))[:60]}]},
        f"Received: image file is truncated (in {TRAIN}, row 0).",
    ),
    "hidden label": (
        {"labels": [-1]},
        f"A label names a class. Received: -1 (in {TRAIN}, row 0, column label)",
    ),
    "missing label": ({"labels": [None]}, f"Received: None (in {TRAIN}, row 0, column label)"),
    "label without a name": ({"labels": [3]}, f"Received: 3 (in {TRAIN}, row 0, column label)"),
    "label beyond 64 bits": (
        {"labels": [1 << 63], "label_kind": pa.uint64(), "metadata": {}},
        f"Received: {1 << 63} (in {TRAIN}, row 0, column label)",
    ),
    "empty name": (
        {"labels": [""], "label_kind": pa.string(), "metadata": {}},
        f"A label names a class. Received: a text of 0 letters (in {TRAIN}, row 0",
    ),
    "long name": (
        {"labels": ["x" * 101], "label_kind": pa.string(), "metadata": {}},
        f"Received: a text of 101 letters (in {TRAIN}, row 0, column label)",
    ),
}


@pytest.mark.parametrize("case", ODD_COLUMNS)
def test_odd_columns_are_refused(tmp_path: Path, case: str) -> None:
    changes, message = ODD_COLUMNS[case]
    path = shard(tmp_path / TRAIN, **{"labels": [0], **changes})

    assert message in refusal(path)


def test_row_that_is_refused_is_counted_from_the_start_of_its_file(tmp_path: Path) -> None:
    rows = 2 * BATCH + 3
    pictures: list[Any] = [{"bytes": png(1)}] * rows
    pictures[-2] = {"bytes": b"nothing"}
    path = shard(tmp_path / TRAIN, [0] * rows, pictures=pictures)

    assert f"(in {TRAIN}, row {rows - 2})" in refusal(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Parquet"),
        (b"PAR1", "Parquet"),
        (b"not a Parquet file at all", "Parquet magic bytes not found"),
        (b"PAR1" + bytes(40) + b"PAR1", ""),
    ],
)
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / TRAIN
    path.write_bytes(content)

    message = refusal(path)

    assert message.startswith("A Parquet file must be whole. Received: ")
    assert reason in message
    assert f"(in {TRAIN}). Download or copy the file again." in message


def test_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / TRAIN, [0, 1, 2])
    path.write_bytes(path.read_bytes()[:-100])

    assert refusal(path).startswith("A Parquet file must be whole.")


def test_missing_pyarrow_is_told_how_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path / TRAIN, [0])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    assert refusal(path) == (
        "PyArrow reads Parquet files, and is not installed. Install PyArrow, with this project's "
        "extra: pip install 'mnist-pipeline[parquet]'."
    )


# --- bounds ----------------------------------------------------------------------------------


def test_more_rows_than_bytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """One picture, a million times, in a few kilobytes."""
    rows = 1_000_000
    dictionary = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [png(1)])
    table = pa.table({"image": dictionary.cast(pa.binary()), "label": np.zeros(rows, np.int64)})
    pq.write_table(table, tmp_path / TRAIN, compression="zstd")
    assert (tmp_path / TRAIN).stat().st_size < rows // 10

    assert "not more than bytes. Received: 1,000,000 rows" in refusal(tmp_path / TRAIN)


def test_memory_is_that_of_a_few_pieces(tmp_path: Path) -> None:
    """64 MB of encoded pictures, in groups of 100 rows, as the library datasets writes them."""
    noise = np.random.default_rng(14)
    pictures = []
    for _ in range(1000):
        content = BytesIO()
        pixels = noise.integers(0, 256, (128, 170, 3), np.uint8)
        Image.fromarray(pixels).save(content, "BMP")
        pictures.append({"bytes": content.getvalue()})
    path = shard(tmp_path / TRAIN, [0] * 1000, pictures=pictures, row_group_size=100)
    del pictures
    pool, before = pa.default_memory_pool(), pa.total_allocated_bytes()
    dataset = opened(path)
    tracemalloc.start()
    most = max(pool.bytes_allocated() for _ in dataset.streams["x_train"].rows()) - before
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 32 << 20
    assert most < 32 << 20


def test_folder_that_tells_the_split_counts_in_the_key(tmp_path: Path) -> None:
    contents, shapes = [], []
    for folder in (tmp_path / "test", tmp_path / "validation"):
        shard(folder / "train-1.parquet", [0, 1])
        shard(folder / "more.parquet", [0, 1, 2])
        source = find_dataset(str(folder), downloads=tmp_path, name="mine")
        contents.append(source.content())
        shapes.append({name: s.shape for name, s in open_dataset(source).streams.items()})
    assert ["x_test" in each for each in shapes] == [True, False]
    assert contents[0] != contents[1]
