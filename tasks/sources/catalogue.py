"""Finding a dataset by name or by place, and opening it.

mnist                     embedded in this package, checked against its SHA-256
fashion_mnist, kmnist     downloaded once, checked, kept in the cache
a file or a folder        whatever one of FORMATS recognises there
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tasks import expanded
from tasks.cache.places import make_way
from tasks.errors import DatasetError, require_utf8
from tasks.records import AS_IT_IS, DatasetSource, Reading, SourceFile, SourceFiles
from tasks.sources.digests import Digests
from tasks.sources.files import some
from tasks.sources.idx import idx_files, open_idx_files
from tasks.sources.npz import npz_files, npz_folder_files, open_npz, open_npz_folder
from tasks.sources.parquet import open_parquet, parquet_files
from tasks.sources.pictures import open_pictures, picture_files
from tasks.sources.refused import open_refused, refused_files
from tasks.sources.stream import OpenedDataset
from tasks.sources.tables import open_tables, table_files
from tasks.sources.verified import VerifiedFiles

FOLDER = Path(__file__).parent
EMBEDDED_MNIST = FOLDER / "mnist.npz"
EMBEDDED_MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"
DOWNLOADS: dict[str, Any] = tomllib.loads((FOLDER / "downloads.toml").read_text("utf-8"))
NAMES = ("mnist", *DOWNLOADS)
LONGEST_NAME = 100
DIGEST_DIGITS = 8  # that tell apart names which were cut
SHOWN = 5  # files in a message
# Folders that many datasets have: a dataset is called after the folder around them.
COMMON = {"raw", "data", "dataset", "datasets", "archive", "gzip", "images", "npz", "idx"}
ENDING = re.compile(r"(\.(npz|zip|csv|parquet|gz))+$", re.IGNORECASE)
LOGGER = logging.getLogger(__name__)

Note = Callable[[str], object]  # is told of each attempt to download a file


class Format(NamedTuple):
    """A kind of dataset.

    `files`: those that make up the dataset at a place, by their names and their content; none if
    it is not of this kind. `open`: reads what they declare, through an opener, and raises
    DatasetError if they break the format's rules. `of_pictures`: it also takes a Reading, and
    names of folders tell classes or splits.
    """

    description: str
    files: Callable[[Path], list[Path]]
    open: Callable[..., OpenedDataset]
    of_pictures: bool = False


FORMATS = {
    "idx": Format("a folder or zip of IDX files", idx_files, open_idx_files),
    "npz": Format("an .npz file", npz_files, open_npz),
    "npz-folder": Format(
        "a folder of .npz files, one for each array", npz_folder_files, open_npz_folder
    ),
    "pictures": Format("pictures in class folders", picture_files, open_pictures, of_pictures=True),
    "table": Format("CSV tables", table_files, open_tables),
    "parquet": Format("Parquet files", parquet_files, open_parquet, of_pictures=True),
}


@contextmanager
def uncollected() -> Iterator[None]:
    """70,000 files make a million objects and no garbage: to look for it takes a third longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def find_dataset(
    dataset: str, downloads: Path, note: Note = LOGGER.info, name: str | None = None
) -> DatasetSource:
    """Locate a dataset, one of NAMES or the place of one, and digest its files.

    What is named and not here yet is downloaded into `downloads`, beside which the digests of many
    files are remembered. `name`: see `dataset_name`.
    Raises DatasetError if there is no such dataset, or it cannot be downloaded or read.
    """
    kind, paths = _located(dataset, downloads, note)
    digests = Digests(downloads.with_name("digests"), common_folder(paths))
    # Where a folder's name tells a class or a split, it is part of what its files are called.
    by_folder = FORMATS[kind].of_pictures
    # The parents of 70,000 files, which are 15 MiB, are not kept.
    root = common_folder([path.parent for path in paths] if by_folder else paths)
    start = len(str(root))
    found = [
        SourceFile(str(path)[start:].lstrip("/"), sha256, size_bytes, path)
        for path, sha256, size_bytes, *_ in digests.of(paths)
    ]
    if dataset == "mnist" and found[0].sha256 != EMBEDDED_MNIST_SHA256:
        raise DatasetError(
            f"The embedded MNIST must have the SHA-256 {EMBEDDED_MNIST_SHA256}.",
            received=found[0].sha256,
            where=EMBEDDED_MNIST,
            advice="Restore the file, for instance with git checkout.",
        )
    files = SourceFiles(found, remembered_in=digests.note)
    return DatasetSource(name=dataset_name(dataset, name), kind=kind, files=files)


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder that all of some files lie in, absolute."""
    places = [str(path) for path in paths]
    ends = min(places), max(places)  # what these two share, all share
    return Path(os.path.commonpath([os.path.dirname(end) for end in ends]))  # noqa: PTH120 - text


def open_dataset(source: DatasetSource, reading: Reading = AS_IT_IS) -> OpenedDataset:
    """The arrays of a dataset, declared sizes checked, nothing read yet.

    What is read of a file is what was digested. Raises DatasetError where it is no longer, and as
    the functions in FORMATS do.
    """
    form, opener = FORMATS[source.kind], VerifiedFiles(source.files).open
    paths = [file.path for file in source.files]
    return form.open(paths, opener, reading) if form.of_pictures else form.open(paths, opener)


def dataset_name(dataset: str, name: str | None = None) -> str:
    """What a dataset is called in artifacts, files and run names: `fashion-mnist`, `my-letters`.

    `name`, if it was chosen, or else the last part of its path that is not one of COMMON.
    """
    parts = Path(os.path.abspath(expanded(dataset))).parts  # noqa: PTH100 - pathlib's keeps ".."
    stems = [ENDING.sub("", part) for part in parts[1:]] or [""]
    own = next((stem for stem in reversed(stems) if stem.lower() not in COMMON), stems[-1])
    called = artifact_name(name or (dataset if dataset in NAMES else own))
    # Not among the records of a dataset that everybody has.
    others = {artifact_name(known) for known in NAMES if known != dataset}
    return f"{called}-local" if called in others else called


def artifact_name(text: str) -> str:
    """Lower-case letters, digits and single dashes, as a Prefect artifact key; at most 100.

    Others are transliterated as far as Unicode knows how they are called: `größe` is grosse.
    """
    plain = "".join(map(_latin, unicodedata.normalize("NFKD", text.casefold())))
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "dataset"
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_DIGITS]
    return f"{name[: LONGEST_NAME - DIGEST_DIGITS - 1]}-{digest}"


def _latin(character: str) -> str:
    """A letter by the end of its name, CYRILLIC SMALL LETTER TSE say; accents are left out."""
    if character.isascii():
        return character
    if not character.isalnum():
        return "" if unicodedata.combining(character) else "-"
    name = unicodedata.name(character, "-").partition(" WITH ")[0]
    return re.split(r"[ -]", name)[-1]


def _located(dataset: str, downloads: Path, note: Note) -> tuple[str, list[Path]]:
    if dataset == "mnist":
        return "npz", [EMBEDDED_MNIST]
    if dataset in DOWNLOADS:
        return "idx", download(dataset, downloads / dataset, note)
    place = require_utf8(expanded(dataset).absolute(), DatasetError)
    *known, last = [*NAMES, *(form.description for form in FORMATS.values())]
    rule = f"A dataset is {', '.join(known)}, or {last}."
    advice = "Check the spelling, the path, and the names of the files there."
    try:
        found = {kind: files for kind, form in FORMATS.items() if (files := form.files(place))}
        there = _what_is_at(place)
    except (OSError, ValueError) as error:  # no permission; a name too long for a file system
        received = f"{dataset!r}: {getattr(error, 'strerror', None) or error}"
        raise DatasetError(rule, received=received, where="--dataset", advice=advice) from error
    if len(found) == 1:
        return next(iter(found.items()))
    if refused := refused_files(place) if not found else []:
        open_refused(refused)
    if found:
        rule = "The files at a place must be one dataset."
        there = " and also ".join(FORMATS[kind].description for kind in found)
        advice = "Pass the file that is meant, or put its files into a folder of their own."
    received = f"{dataset!r}, {there}"
    raise DatasetError(rule, received=received, where="--dataset", advice=advice)


def _what_is_at(place: Path) -> str:
    if place.is_dir():
        names = sorted(path.name for path in place.iterdir())
        return f"a folder of {some(names, SHOWN) or 'nothing'}"
    return "a file of another kind" if place.exists() else "which is not there"


def download(dataset: str, folder: Path, note: Note) -> list[Path]:
    """The files of one of DOWNLOADS; those that are not here yet, or damaged, are fetched.

    Raises DatasetError when all attempts fail.
    """
    import pooch  # imports requests: only a download pays for it

    url, sha256 = DOWNLOADS[dataset]["url"], DOWNLOADS[dataset]["sha256"]
    fetcher = pooch.create(folder, url, registry=sha256, retry_if_failed=2)
    pooch.get_logger().setLevel("WARNING")

    def attempt(address: str, *place: Any) -> None:
        note(f"downloading {address}")
        pooch.HTTPDownloader()(address, *place)

    for name in sha256:
        try:
            if not (folder / name).is_file():  # opening a pipe would wait for ever
                make_way(folder / name)
            fetcher.fetch(name, downloader=attempt)
        except (OSError, ValueError) as error:  # no network or disk; or another digest
            raise DatasetError(
                f"{dataset} must be downloaded once from {url}.",
                received=f"{type(error).__name__}: {error}",
                where=name,
                advice="Check the network and run again, or download the four files yourself "
                f"and pass their folder: --dataset {folder}",
            ) from error
    return [folder / name for name in sha256]
