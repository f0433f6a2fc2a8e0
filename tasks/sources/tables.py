"""Datasets in CSV tables, plain or gzip: a line an image, its label first, or named and last.

    label,pixel0,pixel1,…,pixel783     pixels counted from 0 or 1, square images
    label,1x1,1x2,…,28x28              rows x columns, from 0 or 1
    7,0,0,…,0                          no header, square images

One file has training images only; in a folder the names tell: `*train*.csv`, `*test*.csv`, and
`valid`, `val` or `validation`. Pixels are whole numbers from 0 to 255; 7.0 counts as 7. Labels
are whole numbers, or names. Fields are separated by commas, semicolons or tabs, the text is
UTF-8 with or without a byte order mark, lines end in any usual way, and empty ones are passed
over. Whatever else does not fit is an error that names the line. EMNIST: see emnist.py.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from io import BufferedReader, BytesIO
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.errors import DatasetError
from tasks.sources.emnist import is_emnist, upright
from tasks.sources.files import AGAIN, File, file_at, intact
from tasks.sources.labels import LONGEST_NAME
from tasks.sources.stream import OpenedDataset, Stream, in_memory
from tasks.sources.verified import Opener, open_unverified

TABLE = re.compile(r".+\.csv(\.gz)?", re.IGNORECASE)
EMNIST = re.compile(r"(emnist.*-)(train|test)\.csv(\.gz)?", re.IGNORECASE)
SPLIT_NAMES = {  # in file names
    "train": re.compile(r"train", re.IGNORECASE),
    "validation": re.compile(r"(?<![a-z])(val|valid|validation)(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"(?<![a-z])test|mnisttest", re.IGNORECASE),
}
LABEL_NAMES = ("label", "labels", "class", "target", "digit", "letter", "y")
ROW_BY_COLUMN = re.compile(r"\D*(\d{1,6})x(\d{1,6})", re.ASCII)
NUMBERED = re.compile(r"\D*(\d{1,9})", re.ASCII)
WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?(e\+?00)?", re.IGNORECASE | re.ASCII)  # 7, 7.0, 7.00e+00
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
FIRST_BYTES = 1 << 16  # of the first piece: whoever only looks at some images parses few
TEXT_BYTES = 4 << 20  # that are parsed at a time: some 2,000 images of MNIST
BUFFER_BYTES = 1 << 18
MOST_LINE_BYTES = 16 << 20
MOST_LABELS = 1 << 16  # different ones
FEWEST_PIXELS = 4
BRIGHTEST = 255
SHOWN = 5  # columns in one message
SUBMISSION = (
    "Without labels it is good for a submission, as Kaggle's test.csv is, but nothing can be "
    "learned from it or measured on it: pass the training file alone, and let --test-fraction "
    "cut test images from that."
)
UTF_8 = "A table must be text in UTF-8."
SAVE_SO = "Save it in that encoding."
CORRECT = "Correct that line, or delete it."


class Form(NamedTuple):
    """How the lines of a table are to be read."""

    separator: str
    fields: int
    label: int  # its place: 0 or -1
    size: tuple[int, int]  # rows, columns
    header: bool

    @property
    def pixels(self) -> slice:
        """The places of all fields but the label."""
        return slice(1, None) if self.label == 0 else slice(None, -1)


def table_files(place: Path) -> list[Path]:
    """A CSV file, or those of a folder: the training file and others if named so; empty: none.

    After them EMNIST's mapping, if it is there. Raises DatasetError if two files claim to be the
    same split.
    """
    if place.is_file():
        return _with_mapping([place]) if TABLE.fullmatch(place.name) else []
    found: dict[str, Path] = {}
    for path in _tables_in(place) if place.is_dir() else ():
        split = _split_of(path)
        if split in found:
            raise DatasetError(
                f"One file holds the {split} images.",
                received=[found[split].name, path.name],
                where=place,
                advice="Take one of them away, or pass the file that you mean.",
            )
        if split:
            found[split] = path
    tables = [found[split] for split in SPLIT_NAMES if split in found]
    return _with_mapping(tables) if "train" in found else []


def open_tables(files: Sequence[Path], opener: Opener = open_unverified) -> OpenedDataset:
    """Read the labels, and check that each line has as many fields as it must have.

    x_… are (image, row, column) uint8, y_… (image,) int64 or text. Raises DatasetError for a
    table that is none, or has no labels; for pixels that are none, `rows()` does.
    """
    streams: dict[str, Stream] = {}
    notes = []
    tables = [path for path in files if TABLE.fullmatch(path.name)]
    for path in tables:
        split = _split_of(path) if len(tables) > 1 else "train"
        form, streams[f"x_{split}"], streams[f"y_{split}"] = _surveyed(file_at(path, opener))
        notes.append(
            f"CSV: {path.name}, {'a' if form.header else 'no'} header, the label "
            f"{'last' if form.label else 'first'}, {SEPARATORS[form.separator]} between fields"
        )
    opened = OpenedDataset(streams, tuple(notes))
    if is_emnist(tables[0].name):
        mappings = [file_at(path, opener) for path in files[len(tables) :]]
        opened = upright(opened, mappings[0] if mappings else None)
    if beside := [path.name for path in _tables_in(files[0].parent) if path not in files]:
        note = f"beside them and not read: {', '.join(beside[:SHOWN])}"
        opened = replace(opened, notes=(*opened.notes, note))
    return opened


def _with_mapping(tables: list[Path]) -> list[Path]:
    """And EMNIST's names of the classes, if they lie beside its tables."""
    named = EMNIST.fullmatch(tables[0].name)
    mapping = tables[0].with_name(f"{named[1]}mapping.txt") if named else None
    return [*tables, mapping] if mapping and mapping.is_file() else tables


def _tables_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if TABLE.fullmatch(p.name) and p.is_file())


def _split_of(path: Path) -> str | None:
    """By its name, if that tells exactly one."""
    splits = [split for split, words in SPLIT_NAMES.items() if words.search(path.name)]
    return splits[0] if len(splits) == 1 else None


# --- lines -----------------------------------------------------------------------------------


def _surveyed(file: File) -> tuple[Form, Stream, Stream]:
    """Go through all lines once, and parse nothing but the labels: two bytes an image."""
    file = file.inflated()
    form: Form | None = None
    first, labels = 1, array("H")
    numbers: dict[bytes, int] = {}  # by label as it is written
    texts = []
    with _opened(file) as text:
        for number, line in _numbered_lines(text, file.where):
            where = f"{file.where}, line {number}"
            if form is None:
                form = _form(line, where)
                first = number + form.header
                if form.header:
                    continue
            written = _checked_label(line, form, where)
            if written not in numbers:
                texts.append(_label(written, where))
                _check_number_of_labels(len(texts), where)
                numbers[written] = len(numbers)
            labels.append(numbers[written])
    if form is None or not labels:
        raise DatasetError(
            "A table has images, a line each.",
            received="a header only" if form else "an empty file",
            where=file.where,
            advice=AGAIN,
        )
    shape = (len(labels), *form.size)
    images = Stream(file.where, np.dtype(np.uint8), shape, partial(_rows, file, form, first))
    return form, images, in_memory(file.where, _numbers_or_names(texts)[np.frombuffer(labels, "H")])


def _rows(file: File, form: Form, number: int) -> Iterator[np.ndarray]:
    """Parse pieces, from the line of this number on. Raises DatasetError for what is no pixel."""
    with _opened(file) as text:
        for _ in range(1, number):
            text.readline()
        lines = text.readlines(FIRST_BYTES)
        while lines:
            filled = [line for line in lines if not line.isspace()]
            pixels = _parsed(filled, form)
            if pixels is None or len(pixels) != len(filled):
                raise _bad_pixel(lines, number, form, file.where)
            yield pixels.reshape(-1, *form.size)
            number += len(lines)
            lines = text.readlines(TEXT_BYTES)


def _numbered_lines(text: Any, where: str) -> Iterator[tuple[int, bytes]]:
    """Those that are not empty, counted from 1."""
    for number, line in enumerate(iter(partial(text.readline, MOST_LINE_BYTES), b""), 1):
        if len(line) == MOST_LINE_BYTES:
            raise DatasetError(
                f"A line of a table has fewer than {MOST_LINE_BYTES:,} bytes.",
                received="a longer one",
                where=f"{where}, line {number}",
                advice="Check that the file is a CSV table, with an image in each line.",
            )
        if not line.isspace():
            yield number, line


@contextmanager
def _opened(file: File) -> Iterator[Any]:
    """After the byte order mark, if there is one."""
    with file.opened() as opened:
        text = BufferedReader(opened, BUFFER_BYTES)  # gzip's own reads line by line in Python
        if text.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):
            text.read(len(BYTE_ORDER_MARK))
        yield text


def _checked_label(line: bytes, form: Form, where: str) -> bytes:
    """A line's label as it is written. Raises DatasetError unless it has as many fields."""
    separator = form.separator.encode()
    if b'"' in line:
        fields = _fields(line, form.separator, where)
        label, count = fields[form.label].encode(), len(fields)
    else:
        split = line.rpartition if form.label else line.partition
        label, count = split(separator)[form.label], line.count(separator) + 1
    if count != form.fields:
        raise DatasetError(
            "Each line of a table must have as many fields as its first.",
            received=f"{count:,} fields, not {form.fields:,}",
            where=where,
            advice=f"{CORRECT} If it is the last, the file may be cut off: copy it again.",
        )
    return label


def _check_number_of_labels(number: int, where: str) -> None:
    if number > MOST_LABELS:
        raise DatasetError(
            "The column of labels names classes.",
            received=f"more than {MOST_LABELS:,} different labels",
            where=where,
            advice="Check which column that is.",
        )


def _label(written: bytes, where: str) -> str:
    with intact(UTF_8, where, SAVE_SO):
        label = written.decode().strip()
    if 0 < len(label) <= LONGEST_NAME:
        return label
    raise DatasetError(
        f"A label has 1 to {LONGEST_NAME} letters.",
        received=f"{len(label)} letters" if label else "an empty cell",
        where=where,
        advice=CORRECT,
    )


def _numbers_or_names(texts: Sequence[str]) -> np.ndarray:
    """Labels that were written as text: int64 if each is a whole number, else as they are (U)."""
    if all(map(WHOLE.fullmatch, texts)):
        return np.array([int(re.split("[.eE]", text)[0]) for text in texts], np.int64)
    return np.array(texts, np.str_)


def _fields(line: bytes, separator: str, where: str) -> list[str]:
    rule = "A table must be text in UTF-8, its fields as in CSV."
    with intact(rule, where, CORRECT):
        try:
            return next(csv.reader([line.decode().rstrip("\r\n")], delimiter=separator))
        except csv.Error as error:
            raise ValueError(error) from error


# --- the first line --------------------------------------------------------------------------


def _form(line: bytes, where: str) -> Form:
    if line.startswith(UTF_16):
        raise DatasetError(UTF_8, received="UTF-16", where=where, advice=SAVE_SO)
    separator = max(SEPARATORS, key=lambda sign: line.count(sign.encode()))
    names = [name.strip().lower() for name in _fields(line, separator, where)]
    label = next((end for end in (0, -1) if names[end] in LABEL_NAMES), None)
    if label is not None:
        pixels = names[1:] if label == 0 else names[:-1]
        return Form(separator, len(names), label, _size(pixels, where), header=True)
    if 2 * sum(map(_is_number, names)) < len(names):
        raise _no_labels(names, where)
    return Form(separator, len(names), 0, _square(len(names) - 1, where), header=False)


def _is_number(text: str) -> bool:
    """As NumPy reads one; Python takes 1_0 and other scripts' digits, too."""
    try:
        return text.isascii() and "_" not in text and isinstance(float(text), float)
    except ValueError:
        return False


def _no_labels(names: Sequence[str], where: str) -> DatasetError:
    """Of a header that has no label first or last."""
    numbered = [NUMBERED.fullmatch(name) or ROW_BY_COLUMN.fullmatch(name) for name in names]
    if not set(names).isdisjoint(LABEL_NAMES):
        advice = "Move that column to the front: t.insert(0, 'label', t.pop('label')) in pandas."
    elif all(numbered[1:]):  # the first can be an image's number
        advice = SUBMISSION
    else:
        advice = "Check that each line holds an image, and name the column of labels label."
    return DatasetError(
        "The first column of a table, or the last, is named "
        f"{', '.join(LABEL_NAMES[:-1])} or {LABEL_NAMES[-1]}.",
        received=f"a header of {len(names):,} names",
        where=where,
        advice=advice,
    )


def _size(names: Sequence[str], where: str) -> tuple[int, int]:
    """Rows and columns, from the names of the pixels. Raises DatasetError for another order."""
    cells = [(int(c[1]), int(c[2])) for c in map(ROW_BY_COLUMN.fullmatch, names) if c]
    numbers = [int(match[1]) for match in map(NUMBERED.fullmatch, names) if match]
    size, in_order = None, True
    if names and len(cells) == len(names):
        axes = [range(min(axis), max(axis) + 1) for axis in zip(*cells, strict=True)]
        rows, columns = size = len(axes[0]), len(axes[1])
        in_order = rows * columns == len(cells) and cells == list(product(*axes))
    elif names and len(numbers) == len(names):
        in_order = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if not in_order:
        raise DatasetError(
            "The pixels of a table must come row by row, with none left out.",
            received=", ".join(re.sub(r"^\D+", "", name) for name in names[:SHOWN]) + ", …",
            where=where,
            advice="Put the columns in order.",
        )
    return size or _square(len(names), where)


def _square(pixels: int, where: str) -> tuple[int, int]:
    side = math.isqrt(max(pixels, 0))
    if side * side == pixels >= FEWEST_PIXELS:
        return side, side
    unlabelled = math.isqrt(pixels + 1) ** 2 == pixels + 1 >= FEWEST_PIXELS
    raise DatasetError(
        "Images in a table are square, unless its header says rows x columns: label,1x1,1x2,….",
        received=f"{pixels:,} pixels and a label in a line",
        where=where,
        advice=f"The label may be missing. {SUBMISSION}"
        if unlabelled
        else "Name the columns in that way. Images in colour are better kept as pictures.",
    )


# --- pixels ----------------------------------------------------------------------------------


def _parsed(lines: Sequence[bytes], form: Form) -> np.ndarray | None:
    """The pixels (image, pixel) uint8 of lines; None: they are no whole numbers in its range.

    NumPy's parser goes from text to bytes directly: twice as fast as pandas', which makes integers
    of 64 bits, and it takes neither 256 nor -1 nor 1.5 for a byte.
    """
    if not lines:
        return np.empty((0, form.fields - 1), np.uint8)
    read = partial(
        np.loadtxt,
        comments=None,
        delimiter=form.separator,
        quotechar='"',
        usecols=range(form.fields)[form.pixels],
        encoding="utf-8",
        ndmin=2,
    )
    with suppress(ValueError):
        return read(BytesIO(b"".join(lines)), np.uint8)
    with suppress(ValueError):
        values = read(BytesIO(b"".join(lines)), np.float64)  # 7.0
        if ((values >= 0) & (values <= BRIGHTEST) & (values == np.floor(values))).all():
            return values.astype(np.uint8)
    return None


def _bad_pixel(lines: Sequence[bytes], number: int, form: Form, name: str) -> DatasetError:
    """The first in these lines, of which the first has this number."""
    received, where = "something else", f"{name}, lines {number} to {number + len(lines) - 1}"
    for line_number, line in enumerate(lines, number):
        fields = [] if line.isspace() else _fields(line, form.separator, where)
        pixels = fields[form.pixels]
        wrong = [place for place, text in enumerate(pixels, 1) if not _is_pixel(text)]
        if wrong:
            received = _shown(pixels[wrong[0] - 1])
            where = f"{name}, line {line_number}, pixel {wrong[0]}"
            break
    return DatasetError(
        f"Pixels in a table must be whole numbers from 0 to {BRIGHTEST}.",
        received=received,
        where=where,
        advice=CORRECT,
    )


def _shown(text: str) -> str:
    """A cell, if it is a number: of text, nothing is told."""
    return repr(text[:20]) if _is_number(text) else "text" if text else "an empty cell"


def _is_pixel(text: str) -> bool:
    return _is_number(text) and float(text).is_integer() and 0 <= float(text) <= BRIGHTEST
