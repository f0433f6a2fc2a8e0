"""Datasets of pictures in class folders, each folder named after its class.

    digits/train/0/00001.png    or    digits/0/00001.png    which has training images only
    digits/train/1/00004.jpg          digits/1/00004.jpg
    digits/test/0/00009.png
    digits/valid/0/…        (also `val`, `validation`, `training`, `testing`, in any case)

Classes are numbered in the order of their names, as Keras does it: 0, 1, 10, 2. Within a class
pictures come in the order of their names. What is hidden, and what desktops leave behind, is
passed over; so are files that are no pictures. The log of the run tells how many. Pictures that
this project does not read, or that no class can be told for, are an error: an experiment must
not lose a part of its data without a word.

What becomes of palettes, 16 bits, alpha, CMYK, 1 bit and EXIF orientations: see decoding.py.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks import IMPORTS
from tasks.errors import DatasetError
from tasks.records import AS_IT_IS, Reading
from tasks.sources.files import intact, some
from tasks.sources.splits import SPLIT_WORDS, SPLITS
from tasks.sources.stream import OpenedDataset, Picture, PictureSplit
from tasks.sources.verified import Opener, open_unverified

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
OTHER_PICTURES = (".tif", ".tiff", ".webp", ".heic", ".heif", ".avif", ".ppm", ".pgm")
LEFT_BY_DESKTOPS = ("thumbs.db", "desktop.ini", "__macosx")
FIRST = 64  # pictures in the first piece
SHOWN = 3  # names in one message

Classes = dict[str, list[Path]]  # of each class its pictures, both in order


class Folder(NamedTuple):
    """What one folder holds, each in the order of its name."""

    folders: list[Path]
    pictures: list[Path]
    other: list[Path]
    system: list[Path]  # hidden, or left by a desktop
    problems: list[DatasetError]


@dataclass
class Layout:
    """The pictures of a dataset, by split and class, and what is passed over."""

    splits: dict[str, Classes] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)
    system: int = 0
    problems: list[DatasetError] = field(default_factory=list)  # once it is to be opened


def picture_files(place: Path) -> list[Path]:
    """The pictures of a folder of class folders, in order; empty: it is none.

    Raises DatasetError if it is one that cannot be used.
    """
    splits = _layout(place).splits if place.is_dir() else {}
    return _paths(splits)


def open_pictures(
    files: Sequence[Path], opener: Opener = open_unverified, reading: Reading = AS_IT_IS
) -> OpenedDataset:
    """Look at the header of each picture, as `open_splits` in decoding.py.

    Raises DatasetError if classes or sizes differ, or a file is no picture.
    """
    with IMPORTS:
        from tasks.sources.decoding import open_splits

    root, found = _splits_of(files)
    layout = _layout(root)
    if layout.problems:
        raise layout.problems[0]
    names = _same_classes(found, root)
    splits = {}
    for split, classes in found.items():
        paths = _paths({split: classes})
        labels = np.repeat(np.arange(len(names)), [len(classes[name]) for name in names])
        pieces = partial(_pieces, paths, opener)
        splits[split] = PictureSplit(str(paths[0].parents[1]), pieces, labels)
    streams, done = open_splits(splits, reading)
    recognised = f"pictures in class folders: {len(names)} classes, numbered in the order of names"
    notes = (recognised, *_passed_over(layout), *done)
    return OpenedDataset(streams, notes, dict(enumerate(names)))


def _paths(splits: Mapping[str, Classes]) -> list[Path]:
    return [path for classes in splits.values() for paths in classes.values() for path in paths]


def _pieces(paths: Sequence[Path], opener: Opener, most: int) -> Iterator[list[Picture]]:
    """The first is small: whoever only looks at some pictures decodes few."""
    starts = [0, *range(min(FIRST, most, len(paths)), len(paths), most), len(paths)]
    for start, end in pairwise(starts):
        yield [Picture(str(path), partial(opener, path)) for path in paths[start:end]]


def _splits_of(files: Sequence[Path]) -> tuple[Path, dict[str, Classes]]:
    """From the places of the pictures: the folder of the dataset, and what is in which split.

    A single folder of class folders is the training images, whatever its name.
    """
    splits: dict[Path, Classes] = {}
    for folder, paths in groupby(files, key=attrgetter("parent")):
        classes = splits.setdefault(folder.parent, {})
        classes.setdefault(_class_name(folder), []).extend(paths)
    if len(splits) == 1:
        return next(iter(splits)), {"train": next(iter(splits.values()))}
    return files[0].parents[2], {SPLIT_WORDS[f.name.lower()]: c for f, c in splits.items()}


def _same_classes(splits: Mapping[str, Classes], root: Path) -> list[str]:
    train = splits["train"]
    pairs = [(train, classes, split) for split, classes in splits.items()]
    pairs += [(classes, train, "train") for classes in splits.values()]
    differences = [
        f"no pictures of {some(sorted(lacking), SHOWN)} in {split}"
        for here, there, split in pairs
        if (lacking := here.keys() - there.keys())
    ]
    if differences:
        raise DatasetError(
            "Each split must have pictures of the same classes.",
            received=differences,
            where=root,
            advice="Add them, take the class out of the other splits, or make the names the same.",
        )
    return sorted(train)


def _passed_over(layout: Layout) -> list[str]:
    notes = []
    if layout.system:
        notes.append(f"{layout.system:,} hidden files or folders, or a desktop's, passed over")
    if layout.other:
        notes.append(f"{some(layout.other, SHOWN)} passed over: no pictures in a class folder")
    return notes


# --- layout ----------------------------------------------------------------------------------


def _layout(place: Path) -> Layout:
    root = _listed(place)
    other = [path.name for path in (*root.other, *root.pictures)]
    layout = Layout({}, other, len(root.system), root.problems)
    splits = [folder for folder in root.folders if folder.name.lower() in SPLIT_WORDS]
    if not any(_listed(inner).pictures for folder in splits for inner in _listed(folder).folders):
        _add_classes(layout, "train", root.folders)
        return layout
    layout.other += [f"{folder.name}/" for folder in root.folders if folder not in splits]
    for folder in sorted(splits, key=lambda folder: SPLITS.index(_split_of(folder))):
        _add_split(layout, folder)
    if "train" not in layout.splits:
        raise DatasetError(
            "A dataset of pictures in splits has a folder train.",
            received=[folder.name for folder in splits],
            where=place,
            advice="Name the folder of the training images train, or pass that folder alone.",
        )
    return layout


def _add_split(layout: Layout, folder: Path) -> None:
    split, inside = _split_of(folder), _listed(folder)
    if split in layout.splits:
        raise DatasetError(
            "One folder holds a split.",
            received=f"a second folder for {split}, {folder.name}",
            where=folder.parent,
            advice="Put the pictures of both into one, or take one away.",
        )
    if inside.pictures:
        raise DatasetError(
            "Each picture of a split lies in the folder of its class.",
            received=f"{len(inside.pictures):,} pictures in none, {inside.pictures[0].name} first",
            where=folder,
            advice="Put them there. If nobody knows their classes, nothing can be learned from "
            "them or measured on them: take the folder away.",
        )
    layout.problems += inside.problems
    _add_passed_over(layout, folder, inside)
    _add_classes(layout, split, inside.folders)


def _add_classes(layout: Layout, split: str, folders: Sequence[Path]) -> None:
    classes: Classes = {}
    for folder in folders:
        inside = _listed(folder)
        layout.problems += _problems_of_class(inside, folder)
        if inside.pictures:
            classes.setdefault(_class_name(folder), []).extend(inside.pictures)
            _add_passed_over(layout, folder, inside)
        else:
            layout.other.append(f"{folder.name}/")
    if classes:
        layout.splits[split] = dict(sorted(classes.items()))


def _add_passed_over(layout: Layout, folder: Path, inside: Folder) -> None:
    layout.system += len(inside.system)
    layout.other += [f"{folder.name}/{path.name}" for path in inside.other]


def _problems_of_class(inside: Folder, folder: Path) -> Iterator[DatasetError]:
    if unread := [path.name for path in inside.other if path.suffix.lower() in OTHER_PICTURES]:
        yield DatasetError(
            "Pictures must be PNG, JPEG, BMP or GIF.",
            received=f"{len(unread):,} others, {unread[0]} first",
            where=folder,
            advice="Convert them, for instance with Pillow: Image.open(path).save(path + '.png').",
        )
    if inside.pictures and inside.folders:
        yield DatasetError(
            "The folder of a class holds pictures and no further folders.",
            received=[path.name for path in inside.folders[:SHOWN]],
            where=folder,
            advice="Move their pictures up, or the folders out of the dataset.",
        )
    yield from inside.problems


def _split_of(folder: Path) -> str:
    return SPLIT_WORDS[folder.name.lower()]


def _class_name(folder: Path) -> str:
    """As it is written. A Mac stores é as two letters, others as one."""
    return unicodedata.normalize("NFC", folder.name)


def _listed(folder: Path) -> Folder:
    """What cannot be used there is a problem once the dataset is opened, not before.

    The folder may belong to a dataset of another kind.
    """
    found = Folder([], [], [], [], [])
    try:
        with intact("A dataset's folders must be readable.", folder, "Check their permissions."):
            entries = sorted(os.scandir(folder), key=attrgetter("name"))
    except DatasetError as unreadable:
        return found._replace(problems=[unreadable])
    for entry in entries:
        name, path = entry.name.lower(), folder / entry.name
        if name.startswith(".") or name in LEFT_BY_DESKTOPS:
            found.system.append(path)
        elif not name.isprintable():  # nor are bytes that are no UTF-8
            problem = DatasetError(
                "Names of folders and pictures must be readable text in UTF-8.",
                received=ascii(entry.name),
                where=folder,
                advice="Rename it.",
            )
            found.problems.append(problem)
        elif entry.is_dir():
            found.folders.append(path)
        elif not name.endswith(PICTURES):
            found.other.append(path)
        elif entry.is_file():
            found.pictures.append(path)
        else:
            problem = DatasetError(
                "A picture must be a file.",
                received="a link to nothing, or a device",
                where=path,
                advice="Put the picture there, or take it out of the dataset.",
            )
            found.problems.append(problem)
    return found
