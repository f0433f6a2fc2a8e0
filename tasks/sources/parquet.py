"""Datasets in Parquet, as Hugging Face keeps them.

    mnist/train-00000-of-00002.parquet    or in data/, or mnist/train/0000.parquet
    mnist/train-00001-of-00002.parquet
    mnist/test-00000-of-00001.parquet     also validation-…, valid-…, val-…
    one.parquet                           training images only

    image   struct<bytes: binary, path: string>, or binary: an encoded picture (also `img`)
    label   an integer, or a name (also `fine_label`)

The names of the classes are in the schema's metadata, under the key `huggingface`. What becomes of
palettes, 16 bits, alpha, CMYK, 1 bit and EXIF orientations: see decoding.py. Needs PyArrow, which
comes with the extra `parquet` and is imported only to read such files.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks import IMPORTS
from tasks.errors import DatasetError
from tasks.records import AS_IT_IS, Reading
from tasks.sources.files import AGAIN, intact
from tasks.sources.labels import LONGEST_NAME
from tasks.sources.splits import SPLIT_WORDS, SPLITS
from tasks.sources.stream import OpenedDataset, Picture, PictureSplit
from tasks.sources.verified import Opener, open_unverified

SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(-[0-9a-f]+)?\.parquet", re.IGNORECASE)
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
SHOWN = 2  # names of files in one message
BATCH = 128  # images that are taken out of a file at a time
LARGEST_LABEL = 1 << 63
WHOLE = "A Parquet file must be whole."
ENCODED = "Images in Parquet are encoded pictures: bytes, or structs of bytes and path."
SAVE_AGAIN = "Save it with the library datasets, whose type Image does that."
INSTALL = "Install PyArrow, with this project's extra: pip install 'mnist-pipeline[parquet]'."


class Shard(NamedTuple):
    """One file: which of its columns are meant, how many rows it has, how it names the classes."""

    path: Path
    opener: Opener
    image: str
    label: str
    rows: int
    names: Mapping[int, str] | None


def parquet_files(place: Path) -> list[Path]:
    """A Parquet file, or the shards of a folder, in order; empty: it is none.

    Raises DatasetError if a shard is missing, or there are splits but none for training.
    """
    if place.is_file():
        return [place] if place.suffix.lower() == ".parquet" else []
    paths = _files_in(place) or _files_in(place / "data") or _files_in_splits(place)
    splits = {split: [p for p in paths if _split_of(p) == split] for split in SPLITS}
    found = [path for shards in splits.values() for path in shards]
    if found and not splits["train"]:
        raise DatasetError(
            "A Parquet dataset has files for training: train-….parquet.",
            received=_some(found),
            where=place,
            advice="Add them, or pass the one file whose images you want to train on.",
        )
    _check_shards(found)
    return found


def open_parquet(
    files: Sequence[Path], opener: Opener = open_unverified, reading: Reading = AS_IT_IS
) -> OpenedDataset:
    """Read labels, and each picture's header, as `open_splits` in decoding.py.

    y_… are (image,) int64 or text. Raises DatasetError if PyArrow is missing, a column is, or a
    file or a picture is damaged.
    """
    with IMPORTS:
        try:
            import pyarrow.parquet  # noqa: F401 - a third of a second
        except ImportError as error:
            rule = "PyArrow reads Parquet files, and is not installed."
            raise DatasetError(rule, advice=INSTALL) from error
        from tasks.sources.decoding import open_splits

    found: dict[str, list[Shard]] = {}
    for path in files:
        split = (_split_of(path) if len(files) > 1 else None) or "train"
        found.setdefault(split, []).append(_opened(path, opener))
    names = _common_names([shard for shards in found.values() for shard in shards])
    splits = {
        split: PictureSplit(where, partial(_pieces, shards), _labels(shards, names))
        for split, shards in found.items()
        for where in [_some([shard.path for shard in shards])]
    }
    streams, done = open_splits(splits, reading)
    return OpenedDataset(streams, (_recognised(found, names), *done), names)


def _recognised(splits: Mapping[str, Sequence[Shard]], names: Mapping[int, str] | None) -> str:
    first = splits["train"][0]
    files = ", ".join(f"{len(shards)} for {split}" for split, shards in splits.items())
    known = "with the names of classes" if names else "which do not name the classes"
    return f"Parquet: {files}, columns {first.image} and {first.label}, {known}"


# --- files -----------------------------------------------------------------------------------


def _files_in(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in paths if p.suffix.lower() == ".parquet" and p.is_file())


def _files_in_splits(place: Path) -> list[Path]:
    folders = sorted(place.iterdir()) if place.is_dir() else ()
    named = [f for f in folders if f.is_dir() and f.name.lower() in SPLIT_WORDS]
    return [path for folder in named for path in _files_in(folder)]


def _split_of(path: Path) -> str | None:
    """By what the file's name starts with, or else by its folder's name."""
    words = re.split("[^a-z]", path.name.lower(), maxsplit=1)[0], path.parent.name.lower()
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def _check_shards(paths: Sequence[Path]) -> None:
    """Raise DatasetError if one of those that a name counts is not there."""
    there = defaultdict(set)
    for path in paths:
        if shard := SHARD.fullmatch(path.name):
            there[path.parent, shard[1], int(shard[3])].add(int(shard[2]))
    for (folder, name, count), numbers in there.items():
        if len(numbers) < count:
            missing = next(number for number in range(count) if number not in numbers)
            raise DatasetError(
                "Each shard of a Parquet dataset must be there.",
                received=f"{len(numbers)} of {count} for {name}, number {missing} is missing",
                where=folder,
                advice="Download it, too.",
            )


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:SHOWN]) + (", …" if paths[SHOWN:] else "")


def _opened(path: Path, opener: Opener) -> Shard:
    """Check a file's columns. Raises DatasetError."""
    import pyarrow.parquet as pq

    with intact(WHOLE, path.name, AGAIN), opener(path) as file, pq.ParquetFile(file) as opened:
        schema, rows = opened.schema_arrow, opened.metadata.num_rows
    image, label = (_column(schema, names, path) for names in (IMAGE_COLUMNS, LABEL_COLUMNS))
    _check_types(schema, image, label, path)
    if not 0 < rows <= path.stat().st_size:  # a picture has a byte at least
        raise DatasetError(
            "A Parquet dataset has images, and not more than bytes.",
            received=f"{rows:,} rows",
            where=path.name,
            advice=AGAIN,
        )
    return Shard(path, opener, image, label, rows, _names(schema, label))


def _column(schema: Any, names: Sequence[str], path: Path) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise DatasetError(
        f"A Parquet dataset has a column {' or '.join(names)}.",
        received=", ".join(schema.names) or "no columns",
        where=path.name,
        advice="Rename the column that is meant.",
    )


def _check_types(schema: Any, image: str, label: str, path: Path) -> None:
    import pyarrow.types as pt

    kind = schema.field(image).type
    if pt.is_struct(kind):
        kind = next((part.type for part in kind if part.name == "bytes"), kind)
    if not (pt.is_binary(kind) or pt.is_large_binary(kind)):
        raise DatasetError(
            ENCODED,
            received=f"column {image} of {str(schema.field(image).type)[:60]}",
            where=path.name,
            advice=SAVE_AGAIN,
        )
    kind = schema.field(label).type
    if not (pt.is_integer(kind) or pt.is_string(kind) or pt.is_large_string(kind)):
        raise DatasetError(
            "Labels in Parquet are integers or names.",
            received=f"column {label} of {str(kind)[:60]}",
            where=path.name,
            advice="Save one label an image, as the type ClassLabel of the library datasets does.",
        )


# --- columns ---------------------------------------------------------------------------------


def _batches(shard: Shard, column: str, rows: int) -> Iterator[tuple[int, Any]]:
    """A column, piece by piece, each with the number of its first row. Raises DatasetError.

    In memory is a piece and a page of the file, which is a megabyte, or a group of rows.
    """
    import pyarrow.parquet as pq

    start = 0
    with (
        intact(WHOLE, shard.path.name, AGAIN),
        shard.opener(shard.path) as file,
        pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as opened,
    ):
        for batch in opened.iter_batches(rows, columns=[column], use_threads=False):
            yield start, batch.column(0)
            start += len(batch)
        if start != shard.rows:
            raise ValueError(f"{start:,} rows, where its footer says {shard.rows:,}")


def _pieces(shards: Sequence[Shard], most: int) -> Iterator[list[Picture]]:
    for shard in shards:
        for start, column in _batches(shard, shard.image, min(most, BATCH)):
            encoded = column.field("bytes") if hasattr(column, "field") else column
            yield [
                Picture(where, partial(BytesIO, _bytes(value, where)))
                for row, value in enumerate(encoded, start)
                for where in [f"{shard.path.name}, row {row}"]
            ]


def _bytes(value: Any, where: str) -> bytes:
    if value.is_valid:
        return bytes(value.as_py())
    raise DatasetError(ENCODED, received="no bytes", where=where, advice=SAVE_AGAIN)


def _labels(shards: Sequence[Shard], names: Mapping[int, str] | None) -> np.ndarray:
    return np.concatenate(
        [
            _checked(column, start, shard, names)
            for shard in shards
            for start, column in _batches(shard, shard.label, 1 << 16)
        ]
    )


def _checked(column: Any, start: int, shard: Shard, names: Mapping[int, str] | None) -> np.ndarray:
    """The labels of a piece. Raises DatasetError for one that is missing, hidden or unnamed."""
    import pyarrow.types as pt

    labels = np.array(column.to_pylist(), object)
    wrong = np.array([not _is_label(label, names) for label in labels], np.bool_)
    if not wrong.any():
        return labels.astype(np.int64 if pt.is_integer(column.type) else np.str_)
    row = int(np.argmax(wrong))
    label = labels[row]
    raise DatasetError(
        "A label names a class.",
        received=f"a text of {len(label)} letters" if isinstance(label, str) else label,
        where=f"{shard.path.name}, row {start + row}, column {shard.label}",
        advice="Labels of -1, or none, are hidden from who takes part in a competition: nothing "
        "can be learned from such a file, or measured on it. Take it away.",
    )


def _is_label(label: Any, names: Mapping[int, str] | None) -> bool:
    if names:
        return label in names
    if isinstance(label, str):
        return 0 < len(label) <= LONGEST_NAME
    return label is not None and abs(label) < LARGEST_LABEL


def _common_names(shards: Sequence[Shard]) -> Mapping[int, str] | None:
    names = shards[0].names
    if other := [shard.path for shard in shards if shard.names != names]:
        raise DatasetError(
            "All files of a Parquet dataset must name the same classes in the same order.",
            received=f"others in {_some(other)} than in {shards[0].path.name}",
            where=shards[0].path.parent,
            advice="Save them together, from one DatasetDict.",
        )
    return names


def _names(schema: Any, label: str) -> dict[int, str] | None:
    """The names of the classes as the library datasets notes them; None: there are none."""
    with suppress(ValueError, KeyError, TypeError):  # somebody else's notes, or none
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]["names"]
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return dict(enumerate(names)) or None
    return None
