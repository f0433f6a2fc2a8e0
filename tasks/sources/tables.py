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
import gzip
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader, BytesIO
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tasks.errors import DatasetError
from tasks.sources.archive import file_at
from tasks.sources.emnist import SWAPPED, class_names, is_emnist, names_read, transposed
from tasks.sources.examples import LONGEST_LABEL, LabelStream, numbers_or_names
from tasks.sources.stream import AGAIN, OpenedDataset, Stream, intact
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
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
GZIP_MAGIC = b"\x1f\x8b"
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
CORRECT = "Correct that line, or delete it."


class Form(NamedTuple):
    """How the lines of a table are to be read."""

    separator: str
    fields: int
    label: int  # its place: 0 or -1
    size: tuple[int, int]  # rows, columns
    header: bool


@dataclass(frozen=True)
class Table:
    """A stream of images (image, row, column) uint8, parsed from the lines of a table."""

    path: Path
    opener: Opener
    form: Form
    images: int
    first_line: int  # of an image, counted from 1

    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    @property
    def where(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(image, row, column)."""
        return (self.images, *self.form.size)

    def rows(self) -> Iterator[np.ndarray]:
        """Parse consecutive pieces. Raises DatasetError, which names line and pixel."""
        number = self.first_line
        with _opened(self.path, self.opener) as file:
            for _ in range(1, number):
                file.readline()
            lines = file.readlines(FIRST_BYTES)
            while lines:
                yield self._pixels(lines, number)
                number += len(lines)
                lines = file.readlines(TEXT_BYTES)

    def _pixels(self, lines: Sequence[bytes], number: int) -> np.ndarray:
        """Of lines, the first of which has this number."""
        filled = [line for line in lines if not line.isspace()]
        pixels = _parsed(filled, self.form)
        if pixels is None or len(pixels) != len(filled):
            raise _bad_pixel(lines, number, self.form, self.where)
        return pixels.reshape(-1, *self.form.size)


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
    notes, names = [], None
    tables = [path for path in files if TABLE.fullmatch(path.name)]
    for path in tables:
        split = _split_of(path) if len(tables) > 1 else "train"
        table, labels = _surveyed(path, opener)
        images = transposed(table) if is_emnist(path.name) else table
        streams |= {f"x_{split}": images, f"y_{split}": LabelStream(path.name, labels)}
        form = table.form
        notes.append(
            f"CSV: {path.name}, {'a' if form.header else 'no'} header, the label "
            f"{'last' if form.label else 'first'}, {SEPARATORS[form.separator]} between fields"
        )
    if is_emnist(tables[0].name):
        notes.append(SWAPPED)
    for mapping in (file_at(path, opener) for path in files[len(tables) :]):
        names = class_names(mapping)
        notes.append(names_read(mapping))
    if beside := [path.name for path in _tables_in(files[0].parent) if path not in files]:
        notes.append(f"beside them and not read: {', '.join(beside[:SHOWN])}")
    return OpenedDataset(streams, tuple(notes), names)


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


@dataclass
class Labels:
    """Two bytes an image: a number for each different label as it is written."""

    numbers: array[int] = field(default_factory=lambda: array("H"))
    written: dict[bytes, int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def add(self, written: bytes, where: str) -> None:
        """Note the label of the next image."""
        if (number := self.written.get(written)) is None:
            number = len(self.texts)
            self.texts.append(_label(written, where))
            self.written[written] = number
            if number >= MOST_LABELS:
                raise DatasetError(
                    "The column of labels names classes.",
                    received=f"more than {MOST_LABELS:,} different labels",
                    where=where,
                    advice="Check which column that is.",
                )
        self.numbers.append(number)

    def values(self) -> np.ndarray:
        """All of them (image,)."""
        return numbers_or_names(self.texts)[np.frombuffer(self.numbers, np.uint16)]


def _surveyed(path: Path, opener: Opener) -> tuple[Table, np.ndarray]:
    """Go through all lines once, without parsing what is in them, but for the labels."""
    form: Form | None = None
    first, labels = 1, Labels()
    with _opened(path, opener) as file:
        for number, line in _numbered_lines(file, path.name):
            where = f"{path.name}, line {number}"
            if form is None:
                form = _form(line, where)
                first = number + form.header
                if form.header:
                    continue
            labels.add(_checked_label(line, form, where), where)
    if form is None or not labels.numbers:
        raise DatasetError(
            "A table has images, a line each.",
            received="a header only" if form else "an empty file",
            where=path.name,
            advice=AGAIN,
        )
    return Table(path, opener, form, len(labels.numbers), first), labels.values()


def _numbered_lines(file: Any, name: str) -> Iterator[tuple[int, bytes]]:
    """Those that are not empty, counted from 1."""
    number = 0
    while line := file.readline(MOST_LINE_BYTES):
        number += 1
        if len(line) == MOST_LINE_BYTES:
            raise DatasetError(
                f"A line of a table has fewer than {MOST_LINE_BYTES:,} bytes.",
                received="a longer one",
                where=f"{name}, line {number}",
                advice="Check that the file is a CSV table, with an image in each line.",
            )
        if not line.isspace():
            yield number, line


@contextmanager
def _opened(path: Path, opener: Opener) -> Iterator[Any]:
    rule = "A file must be readable and, if it is compressed, inflate without error."
    with intact(rule, path.name, AGAIN), ExitStack() as opened:
        raw: Any = opened.enter_context(opener(path))
        zipped = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        if zipped:
            raw = opened.enter_context(gzip.open(raw))
        file = BufferedReader(raw, BUFFER_BYTES)  # gzip's own reads line by line in Python
        if file.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):
            file.read(len(BYTE_ORDER_MARK))
        yield file


def _checked_label(line: bytes, form: Form, where: str) -> bytes:
    """A line's label as it is written. Raises DatasetError unless it has as many fields."""
    separator = form.separator.encode()
    if b'"' in line:
        fields = _fields(line, form.separator, where)
        label, count = fields[form.label].encode(), len(fields)
    else:
        label, count = _label_bytes(line, separator, form.label), line.count(separator) + 1
    if count != form.fields:
        raise DatasetError(
            "Each line of a table must have as many fields as its first.",
            received=f"{count:,} fields, not {form.fields:,}",
            where=where,
            advice=f"{CORRECT} If it is the last, the file may be cut off: copy it again.",
        )
    return label


def _label_bytes(line: bytes, separator: bytes, place: int) -> bytes:
    return line.rpartition(separator)[2] if place else line.partition(separator)[0]


def _label(written: bytes, where: str) -> str:
    with intact("A table must be text in UTF-8.", where, "Save it in that encoding."):
        label = written.decode().strip()
    if 0 < len(label) <= LONGEST_LABEL:
        return label
    raise DatasetError(
        f"A label has 1 to {LONGEST_LABEL} letters.",
        received=f"{len(label)} letters" if label else "an empty cell",
        where=where,
        advice=CORRECT,
    )


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
        raise DatasetError(
            "A table must be text in UTF-8.",
            received="UTF-16",
            where=where,
            advice="Save it in that encoding.",
        )
    separator = max(SEPARATORS, key=lambda sign: line.count(sign.encode()))
    names = [name.strip() for name in _fields(line, separator, where)]
    lower = [name.lower() for name in names]
    named = lower[0] in LABEL_NAMES or lower[-1] in LABEL_NAMES
    if not named and 2 * sum(map(_is_number, names)) >= len(names):
        return Form(separator, len(names), 0, _square(len(names) - 1, where), header=False)
    if not named:
        raise _no_labels(names, where)
    label = 0 if lower[0] in LABEL_NAMES else -1
    pixels = lower[1:] if label == 0 else lower[:-1]
    return Form(separator, len(names), label, _size(pixels, where), header=True)


def _is_number(text: str) -> bool:
    """As NumPy reads one; Python takes 1_0 and other scripts' digits, too."""
    try:
        return text.isascii() and "_" not in text and isinstance(float(text), float)
    except ValueError:
        return False


def _no_labels(names: Sequence[str], where: str) -> DatasetError:
    """Of a header that has no label first or last."""
    numbered = [NUMBERED.fullmatch(name) or ROW_BY_COLUMN.fullmatch(name) for name in names]
    if any(name.lower() in LABEL_NAMES for name in names):
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
    """Rows and columns, from the names of the pixels."""
    cells = [ROW_BY_COLUMN.fullmatch(name) for name in names]
    if cells and all(cells):
        places = [(int(cell[1]), int(cell[2])) for cell in cells if cell]
        rows, columns = (1 + max(axis) - min(axis) for axis in zip(*places, strict=True))
        top, left = places[0]
        if places == list(product(range(top, top + rows), range(left, left + columns))):
            return rows, columns
        raise _wrong_order(names, where)
    numbers = [int(match[1]) for match in map(NUMBERED.fullmatch, names) if match]
    if len(numbers) == len(names) and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise _wrong_order(names, where)
    return _square(len(names), where)


def _wrong_order(names: Sequence[str], where: str) -> DatasetError:
    return DatasetError(
        "The pixels of a table must come row by row, with none left out.",
        received=", ".join(re.sub(r"^\D+", "", name) for name in names[:SHOWN]) + ", …",
        where=where,
        advice="Put the columns in order.",
    )


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
    pixels = range(1, form.fields) if form.label == 0 else range(form.fields - 1)
    read = partial(
        np.loadtxt,
        comments=None,
        delimiter=form.separator,
        quotechar='"',
        usecols=pixels,
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
        pixels = fields[1:] if form.label == 0 else fields[:-1]
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
