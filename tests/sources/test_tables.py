"""Datasets in CSV tables: which layouts are taken, and how each odd line is refused."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.errors import DatasetError
from tasks.sources import tables
from tasks.sources.stream import OpenedDataset
from tasks.sources.tables import open_tables, table_files

# Two images of 2 x 2, the labels 7 and 3.
LINES = ["7,0,1,2,3", "3,4,50,6,255"]
IMAGES = [[[0, 1], [2, 3]], [[4, 50], [6, 255]]]
HEADER = "label,pixel0,pixel1,pixel2,pixel3"


def table(folder: Path, *lines: str, name: str = "train.csv", end: str = "\n") -> Path:
    path = folder / name
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
    return path


def opened(place: Path) -> OpenedDataset:
    return open_tables(table_files(place))


def read(place: Path, name: str = "x_train") -> list[Any]:
    return np.concatenate(list(opened(place).streams[name].rows())).tolist()


def refusal(path: Path) -> str:
    """Of opening, or else of reading."""

    def read_all() -> None:
        for stream in opened(path).streams.values():
            list(stream.rows())

    with pytest.raises(DatasetError) as caught:
        read_all()
    return str(caught.value)


# --- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("label,pixel0,pixel1,pixel2,pixel3", id="counted from 0"),
        pytest.param("label,pixel1,pixel2,pixel3,pixel4", id="counted from 1"),
        pytest.param("label,1x1,1x2,2x1,2x2", id="rows and columns from 1"),
        pytest.param("label,0x0,0x1,1x0,1x1", id="rows and columns from 0"),
        pytest.param("label,0,1,2,3", id="numbers"),
        pytest.param("label,a,b,c,d", id="names of no meaning"),
        pytest.param('"label","pixel0","pixel1","pixel2","pixel3"', id="quoted"),
        pytest.param(" Label , P_0 , P_1 , P_2 , P_3 ", id="capitals and spaces"),
        pytest.param("class,pixel0,pixel1,pixel2,pixel3", id="class"),
    ],
)
@pytest.mark.parametrize("name", ["digits.csv", "digits.csv.gz", "DIGITS.CSV"])
def test_table_with_a_header_is_read(tmp_path: Path, header: str, name: str) -> None:
    path = table(tmp_path, header, *LINES, name=name)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))

    dataset = opened(path)

    assert list(dataset.streams) == ["x_train", "y_train"]
    assert (read(path), read(path, "y_train")) == (IMAGES, [7, 3])
    assert dataset.streams["x_train"].dtype == np.uint8
    assert dataset.streams["x_train"].shape == (2, 2, 2)
    assert dataset.names is None
    assert dataset.notes == (f"CSV: {name}, a header, the label first, commas between fields",)


def test_table_without_a_header_is_read(tmp_path: Path) -> None:
    path = table(tmp_path, *LINES)

    assert (read(path), read(path, "y_train")) == (IMAGES, [7, 3])
    assert opened(path).notes == (
        "CSV: train.csv, no header, the label first, commas between fields",
    )


def test_label_may_be_named_and_last(tmp_path: Path) -> None:
    path = table(tmp_path, "pixel1,pixel2,pixel3,pixel4,class", "0,1,2,3,7", "4,50,6,255,3")

    assert (read(path), read(path, "y_train")) == (IMAGES, [7, 3])
    assert "the label last" in opened(path).notes[0]


def test_header_says_rows_and_columns(tmp_path: Path) -> None:
    path = table(tmp_path, "label,1x1,1x2,1x3,2x1,2x2,2x3", "7,1,2,3,4,5,6")

    assert read(path) == [[[1, 2, 3], [4, 5, 6]]]


def test_table_as_pandas_writes_it_is_read(tmp_path: Path) -> None:
    """An independent writer, with as many pixels as MNIST."""
    rng = np.random.default_rng(14)
    pixels = rng.integers(0, 256, (300, 784), np.uint8)
    labels = rng.integers(0, 10, 300)
    frame = pd.DataFrame(pixels, columns=[f"pixel{n}" for n in range(784)])
    frame.insert(0, "label", labels)
    frame.to_csv(tmp_path / "train.csv.gz", index=False)

    assert read(tmp_path / "train.csv.gz") == pixels.reshape(-1, 28, 28).tolist()
    assert read(tmp_path / "train.csv.gz", "y_train") == labels.tolist()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("7", "3"), [7, 3]),
        (("-1", "+3"), [-1, 3]),
        (("7.0", "3.00"), [7, 3]),
        (("7.000000000000000000e+00", "3.0e+00"), [7, 3]),
        (("cat", "ant"), ["cat", "ant"]),
        (("7", "ant"), ["7", "ant"]),
        (('"a, b"', '"say ""c"""'), ["a, b", 'say "c"']),
        ((" 7 ", "größe"), ["7", "größe"]),
        (('"7"', "7"), [7, 7]),
        (("7.5", "3"), ["7.5", "3"]),
    ],
)
def test_labels_are_whole_numbers_or_names(
    tmp_path: Path, labels: tuple[str, ...], expected: list[Any]
) -> None:
    path = table(tmp_path, *(f"{label},0,0,0,0" for label in labels))

    assert read(path, "y_train") == expected


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("mnist_train.csv", "mnist_test.csv"),
        ("train.csv.gz", "test.csv"),
        ("fashion-mnist_train.csv", "fashion-mnist_test.csv"),
        ("letters-train.csv", "letters-test.csv"),
        ("Sign_MNIST_Train.CSV", "Sign_MNIST_Test.CSV"),
        ("training.csv", "testing.csv"),
    ],
)
def test_folder_of_training_and_test_tables_is_read(tmp_path: Path, train: str, test: str) -> None:
    table(tmp_path, LINES[0], name=train)
    table(tmp_path, LINES[1], name=test)

    dataset = opened(tmp_path)

    assert list(dataset.streams) == ["x_train", "y_train", "x_test", "y_test"]
    assert (read(tmp_path), read(tmp_path, "x_test")) == (IMAGES[:1], IMAGES[1:])
    assert (read(tmp_path, "y_train"), read(tmp_path, "y_test")) == ([7], [3])


@pytest.mark.parametrize("name", ["valid.csv", "digits_val.csv", "validation.csv.gz"])
def test_validation_table_is_a_split(tmp_path: Path, name: str) -> None:
    table(tmp_path, *LINES)
    table(tmp_path, LINES[1], name=name)

    assert read(tmp_path, "y_validation") == [3]


def test_other_tables_of_a_folder_are_named_in_the_log(tmp_path: Path) -> None:
    table(tmp_path, *LINES)
    for name in ("sample_submission.csv", "latest.csv", "values.csv"):
        table(tmp_path, "ImageId,Label", name=name)

    assert opened(tmp_path).notes[1:] == (
        "beside them and not read: latest.csv, sample_submission.csv, values.csv",
    )


def emnist(folder: Path) -> list[Path]:
    """As Kaggle has it: no header, letters counted from 1, stored column by column."""
    return [table(folder, *LINES, name=f"emnist-letters-{s}.csv") for s in ("train", "test")]


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    emnist(tmp_path)

    for split in ("train", "test"):
        assert [[[0, 2], [1, 3]], [[4, 6], [50, 255]]] == read(tmp_path, f"x_{split}")
        assert [7, 3] == read(tmp_path, f"y_{split}")
    assert "EMNIST: rows and columns of the images swapped" == opened(tmp_path).notes[-1]


def test_emnist_is_recognised_by_the_name_of_a_single_table(tmp_path: Path) -> None:
    path = table(tmp_path, *LINES, name="EMNIST-Digits-train.csv")

    assert [[0, 2], [1, 3]] == read(path)[0]


def test_names_of_emnist_are_read_from_the_mapping_beside_it(tmp_path: Path) -> None:
    train, _ = emnist(tmp_path)
    (tmp_path / "emnist-letters-mapping.txt").write_text("3 67 99\n7 71 103\n")

    for place in (tmp_path, train):
        assert {3: "C", 7: "G"} == opened(place).names
        assert [[0, 2], [1, 3]] == read(place)[0]


def test_tables_of_other_names_are_taken_as_they_are(tmp_path: Path) -> None:
    path = table(tmp_path, *LINES, name="not-emnist-train.csv")

    assert IMAGES == read(path)


def test_two_tables_for_one_split_are_refused(tmp_path: Path) -> None:
    table(tmp_path, *LINES)
    table(tmp_path, *LINES, name="train.csv.gz")

    message = refusal(tmp_path)

    assert message.startswith("One file holds the train images. ")
    assert f"Received: train.csv, train.csv.gz (in {tmp_path})." in message


@pytest.mark.parametrize("name", ["digits.txt", "digits.csv.zip", "csv", ".csv", "test.csv"])
def test_folders_and_files_that_are_no_tables_are_none(tmp_path: Path, name: str) -> None:
    path = table(tmp_path, *LINES, name=name)

    assert table_files(tmp_path) == []
    assert table_files(tmp_path / "absent") == []
    assert table_files(path) == ([path] if name == "test.csv" else [])


# --- ways to write the same ------------------------------------------------------------------

SAME = {
    "CRLF": "\r\n".join([HEADER, *LINES, ""]).encode(),
    "no newline at the end": "\n".join([HEADER, *LINES]).encode(),
    "empty lines": "\n".join(["", HEADER, "", *LINES, "", " ", ""]).encode(),
    "UTF-8 byte order mark": "\n".join([HEADER, *LINES]).encode("utf-8-sig"),
    "byte order mark, no header": "\n".join(LINES).encode("utf-8-sig"),
    "byte order mark inside gzip": gzip.compress("\n".join(LINES).encode("utf-8-sig")),
    "semicolons": "\n".join([HEADER, *LINES]).replace(",", ";").encode(),
    "tabs": "\n".join([HEADER, *LINES]).replace(",", "\t").encode(),
    "quoted numbers": b'"7","0","1","2","3"\n"3","4","50","6","255"\n',
    "spaces": b"7, 0, 1,2 ,3\n3,4,50,6,255\n",
    "whole floats": b"7.0,0.0,1.0,2.0,3\n3.0,4.0,5e1,6.0,2.55e2\n",
    "zeros in front": b"7,000,001,002,003\n3,004,050,006,255\n",
    "two gzip members": gzip.compress(b"7,0,1,2,3\n") + gzip.compress(b"3,4,50,6,255\n"),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_written_in_another_way_is_read(tmp_path: Path, case: str) -> None:
    path = tmp_path / "digits.csv"
    path.write_bytes(SAME[case])

    assert (read(path), read(path, "y_train")) == (IMAGES, [7, 3])


def test_separator_is_said(tmp_path: Path) -> None:
    path = table(tmp_path, *(line.replace(",", ";") for line in LINES))

    assert opened(path).notes[0].endswith("semicolons between fields")


# --- odd lines -------------------------------------------------------------------------------

PIXELS = "Pixels in a table must be whole numbers from 0 to 255. Received: "
FIELDS = "Each line of a table must have as many fields as its first. Received: "
ODD = {
    "short row": ("3,4,5,6", f"{FIELDS}4 fields, not 5 (in train.csv, line 3)."),
    "long row": ("3,4,5,6,7,8", f"{FIELDS}6 fields, not 5 (in train.csv, line 3)."),
    "separator at the end": ("3,4,5,6,7,", f"{FIELDS}6 fields, not 5 (in train.csv, line 3)."),
    "short row with a quoted label": (
        '"a, b",4,5,6',
        f"{FIELDS}4 fields, not 5 (in train.csv, line 3).",
    ),
    "256": ("3,4,5,6,256", f"{PIXELS}'256' (in train.csv, line 3, pixel 4)."),
    "-1": ("3,4,-1,6,7", f"{PIXELS}'-1' (in train.csv, line 3, pixel 2)."),
    "1.5": ("3,1.5,5,6,7", f"{PIXELS}'1.5' (in train.csv, line 3, pixel 1)."),
    "1.00000001": ("3,1.00000001,5,6,7", f"{PIXELS}'1.00000001' (in train.csv, line 3, pixel 1)."),
    "fractions": ("3,0.1,0.2,0.3,0.4", f"{PIXELS}'0.1' (in train.csv, line 3, pixel 1)."),
    "empty cell": ("3,4,,6,7", f"{PIXELS}an empty cell (in train.csv, line 3, pixel 2)."),
    "text": ("3,4,5,ink,7", f"{PIXELS}text (in train.csv, line 3, pixel 3)."),
    "nan": ("3,4,5,nan,7", f"{PIXELS}'nan' (in train.csv, line 3, pixel 3)."),
    "infinity": ("3,4,5,inf,7", f"{PIXELS}'inf' (in train.csv, line 3, pixel 3)."),
    "truth value": ("3,4,True,6,7", f"{PIXELS}text (in train.csv, line 3, pixel 2)."),
    "hexadecimal": ("3,4,0x10,6,7", f"{PIXELS}text (in train.csv, line 3, pixel 2)."),
    "underscore": ("3,4,1_0,6,7", f"{PIXELS}text (in train.csv, line 3, pixel 2)."),
    "another script's digit": ("3,4,٣,6,7", f"{PIXELS}text (in train.csv, line 3, pixel 2)."),
    "beyond 64 bits": (f"3,4,{10**30},6,7", f"{PIXELS}'{10**19}'"),
    "no label": (",4,5,6,7", "A label has 1 to 100 letters. Received: an empty cell (in train.c"),
    "long label": (f"{'x' * 101},4,5,6,7", "A label has 1 to 100 letters. Received: 101 let"),
    "header again": (HEADER, f"{PIXELS}text (in train.csv, line 3, pixel 1)."),
    "open quote": ('"3,4,5,6,7', f"{FIELDS}1 fields, not 5 (in train.csv, line 3)."),
    "comment": ("# end", f"{FIELDS}1 fields, not 5 (in train.csv, line 3)."),
    "only separators": (",,,,", "A label has 1 to 100 letters. Received: an empty cell"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_line_is_refused_by_its_number(tmp_path: Path, case: str) -> None:
    line, message = ODD[case]
    path = table(tmp_path, HEADER, LINES[0], line, LINES[1])

    received = refusal(path)

    assert received.startswith(message)
    assert "line 3" in received


def test_numbers_of_lines_count_empty_ones_and_the_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "FIRST_BYTES", 1)
    monkeypatch.setattr(tables, "TEXT_BYTES", 25)  # some lines at a time
    path = table(tmp_path, "", HEADER, "", *LINES * 5, "", "", "7,0,1,2,256", *LINES)

    assert "Received: '256' (in train.csv, line 16, pixel 4)." in refusal(path)


TABLES = {
    "empty": (b"", "A table has images, a line each. Received: an empty file (in train.csv)."),
    "header only": (
        f"{HEADER}\n".encode(),
        "A table has images, a line each. Received: a header only (in train.csv).",
    ),
    "UTF-16": (HEADER.encode("utf-16"), "A table must be text in UTF-8. Received: UTF-16"),
    "Latin-1 label": (b"gr\xf6\xdfe,0,0,0,0\n", "A table must be text in UTF-8"),
    "Latin-1 label below": (b"7,0,0,0,0\ngr\xf6\xdfe,0,0,0,0\n", "A table must be text in UTF-8."),
    "gzip cut short": (
        gzip.compress(random.Random(0).randbytes(9).hex().encode() * 99)[:-9],
        "A file must be readable and, if it is compressed, inflate without error.",
    ),
    "gzip with a damaged checksum": (
        gzip.compress(b"7,0,0,0,0\n")[:-8] + bytes(8),
        (
            "A file must be readable and, if it is compressed, inflate without error. "
            "Received: CRC check failed"
        ),
    ),
    "not square": (
        b"7,0,0,0,0,0\n",
        (
            "Images in a table are square, unless its header says rows x columns: "
            "label,1x1,1x2,…. Received: 5 pixels and a label in a line (in train.csv, line 1)."
        ),
    ),
    "not square, with a header": (
        b"label,p0,p1,p2,p3,p4\n7,0,0,0,0,0\n",
        "Received: 5 pixels and a label in a line (in train.csv, line 1). Name the columns",
    ),
    "one column": (b"7\n3\n", "Received: 0 pixels and a label in a line"),
    "a label alone": (b"label\n7\n", "Received: 0 pixels and a label in a line"),
    "labels without pixels": (b"id,label\n1,7\n", "Received: 1 pixels and a label in a line"),
    "pixels out of order": (
        b"label,pixel0,pixel2,pixel1,pixel3\n7,0,0,0,0\n",
        (
            "The pixels of a table must come row by row, with none left out. "
            "Received: 0, 2, 1, 3, … (in train.csv, line 1)."
        ),
    ),
    "pixels column by column": (
        b"label,1x1,2x1,1x2,2x2\n7,0,0,0,0\n",
        "The pixels of a table must come row by row",
    ),
    "pixels left out": (
        b"label,1x1,1x2,2x1,3x1\n7,0,0,0,0\n",
        "The pixels of a table must come row by row",
    ),
    "pixels far apart": (
        b"label,0x0,0x1,1x0,999999x999999\n7,0,0,0,0\n",
        "The pixels of a table must come row by row",
    ),
    "index in front": (
        b",label,pixel0,pixel1,pixel2,pixel3\n0,7,0,0,0,0\n",
        (
            "The first column of a table, or the last, is named label, labels, class, target, "
            "digit, letter or y. Received: a header of 6 names"
        ),
    ),
    "something else": (b"name,price\nshoe,12\n", "The first column of a table, or the last, is"),
}


@pytest.mark.parametrize("case", TABLES)
def test_odd_table_is_refused(tmp_path: Path, case: str) -> None:
    content, message = TABLES[case]
    path = tmp_path / "train.csv"
    path.write_bytes(content)

    assert message in refusal(path)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(("pixel0,pixel1,pixel2,pixel3", "0,1,2,3"), id="Digit Recognizer"),
        pytest.param(("id,pixel0,pixel1,pixel2,pixel3", "0,0,1,2,3"), id="numbered images"),
        pytest.param(("1x1,1x2,2x1,2x2", "0,1,2,3"), id="rows and columns"),
        pytest.param(("0,1,2,3", "4,5,6,7"), id="no header"),
    ],
)
def test_test_table_without_labels_is_refused_with_what_it_is_good_for(
    tmp_path: Path, lines: tuple[str, ...]
) -> None:
    """Kaggle's test.csv, beside its train.csv."""
    table(tmp_path, HEADER, *LINES)
    table(tmp_path, *lines, name="test.csv")

    message = refusal(tmp_path)

    assert "(in test.csv, line 1)" in message
    assert "it is good for a submission, as Kaggle's test.csv is, but nothing can be" in message
    assert "--test-fraction" in message


def test_misplaced_label_is_told_how_to_move(tmp_path: Path) -> None:
    path = table(tmp_path, "id,label,pixel0,pixel1,pixel2,pixel3", "1,7,0,0,0,0")

    assert refusal(path).endswith(
        "Move that column to the front: t.insert(0, 'label', t.pop('label')) in pandas."
    )


def test_column_of_too_many_labels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_LABELS", 3)
    path = table(tmp_path, *(f"{number},0,0,0,0" for number in range(5)))

    assert "more than 3 different labels (in train.csv, line 4)" in refusal(path)


# --- bounds ----------------------------------------------------------------------------------


def test_line_without_end_is_refused_before_it_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MB of zeros in a file of 64 KB."""
    monkeypatch.setattr(tables, "MOST_LINE_BYTES", 1 << 20)
    path = tmp_path / "train.csv"
    path.write_bytes(gzip.compress(b"0," * (32 << 20), compresslevel=1))
    tracemalloc.start()
    message = refusal(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "A line of a table has fewer than 1,048,576 bytes." in message
    assert "(in train.csv, line 1)" in message
    assert peak_bytes < 8 << 20


def test_memory_is_that_of_a_few_pieces(tmp_path: Path) -> None:
    """A table of 40 MB."""
    line = "7," + ",".join(["200"] * 784)
    path = table(tmp_path, *[line] * 13_000)
    dataset = opened(path)
    tracemalloc.start()
    images = sum(len(piece) for piece in dataset.streams["x_train"].rows())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert images == 13_000
    assert peak_bytes < 5 * tables.TEXT_BYTES


def test_first_piece_is_small(tmp_path: Path) -> None:
    """Whoever only looks at some images parses few."""
    line = "7," + ",".join(["200"] * 784)
    path = table(tmp_path, *[line] * 500)

    first, *_ = opened(path).streams["x_train"].rows()

    assert len(first) < 30
