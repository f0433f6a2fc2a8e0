"""Finding a dataset by name or by place, and opening it.

mnist                     embedded in this package, checked against its SHA-256
fashion_mnist, kmnist     downloaded once, checked, kept in the cache
a folder                  four IDX files, plain or gzip
a file                    .npz with x_train, y_train, x_test, y_test
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tasks.cache.blobs import sha256_of_file
from tasks.errors import DatasetError
from tasks.records import DatasetSource, SourceFile
from tasks.sources.idx import idx_files, open_idx_folder
from tasks.sources.npz import open_npz
from tasks.sources.stream import ArrayStream, intact

FOLDER = Path(__file__).parent
EMBEDDED_MNIST = FOLDER / "mnist.npz"
EMBEDDED_MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"
DOWNLOADS: dict[str, Any] = tomllib.loads((FOLDER / "downloads.toml").read_text("utf-8"))
NAMES = ("mnist", *DOWNLOADS)
LONGEST_NAME = 100
LOGGER = logging.getLogger(__name__)

Note = Callable[[str], object]  # is told of each attempt to download a file


class Format(NamedTuple):
    """A kind of dataset: which files at a place are one (none: it is no such), how they open."""

    description: str
    files: Callable[[Path], list[Path]]
    open: Callable[..., dict[str, ArrayStream]]


FORMATS = {
    "idx": Format("a folder of four IDX files", idx_files, open_idx_folder),
    "npz": Format("an .npz file", lambda path: [path] if path.is_file() else [], open_npz),
}


def find_dataset(dataset: str, downloads: Path, note: Note = LOGGER.info) -> DatasetSource:
    """Locate a dataset, one of NAMES or the place of one, and digest its files.

    What is named and not here yet is downloaded into `downloads`. Raises DatasetError if there
    is no such dataset, or it cannot be downloaded or read.
    """
    kind, paths = _located(dataset, downloads, note)
    if len(name := dataset_name(dataset)) > LONGEST_NAME:
        raise DatasetError(
            f"A dataset's name, which files are named after, has at most {LONGEST_NAME} letters.",
            received=f"{len(name)}: {name[:20]}…",
            where=paths[0],
            advice="Rename its file or folder.",
        )
    files = tuple(map(_source_file, paths))
    if dataset == "mnist" and files[0].sha256 != EMBEDDED_MNIST_SHA256:
        raise DatasetError(
            f"The embedded MNIST must have the SHA-256 {EMBEDDED_MNIST_SHA256}.",
            received=files[0].sha256,
            where=EMBEDDED_MNIST,
            advice="Restore the file, for instance with git checkout.",
        )
    return DatasetSource(name=dataset_name(dataset), kind=kind, files=files)


def open_dataset(source: DatasetSource) -> dict[str, ArrayStream]:
    """The four arrays of a dataset, declared sizes checked, nothing read yet.

    Raises DatasetError when a file has changed, and as the functions in FORMATS do.
    """
    check_unchanged(source)
    return FORMATS[source.kind].open(*(file.path for file in source.files))


def check_unchanged(source: DatasetSource) -> None:
    """Raise DatasetError when a file is no longer the one that was digested."""
    rule = "A dataset must not change while it is read."
    advice = "Run again when nothing writes to it."
    for file in source.files:
        with intact(rule, file.path, advice):
            now = file.path.stat()
            if (now.st_size, now.st_mtime_ns) != (file.size_bytes, file.modified_ns):
                raise ValueError("another size or modification time")


def dataset_name(dataset: str) -> str:
    """What a dataset is called in artifacts and run names: `fashion-mnist`, `my-letters`."""
    if dataset in NAMES:
        return artifact_name(dataset)
    name = artifact_name(_expanded(dataset).absolute().name.removesuffix(".npz"))
    # Not among the records of a dataset that everybody has.
    return f"{name}-local" if name in map(artifact_name, NAMES) else name


def artifact_name(text: str) -> str:
    """Lower-case letters, digits and single dashes: what a Prefect artifact key may hold."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "dataset"


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for unknown users


def _located(dataset: str, downloads: Path, note: Note) -> tuple[str, list[Path]]:
    if dataset == "mnist":
        return "npz", [EMBEDDED_MNIST]
    if dataset in DOWNLOADS:
        return "idx", download(dataset, downloads / dataset, note)
    with suppress(OSError):  # a name that is too long for a file system is no file
        for kind, form in FORMATS.items():
            if files := form.files(_expanded(dataset)):
                return kind, files
    *known, last = [*NAMES, *(form.description for form in FORMATS.values())]
    raise DatasetError(
        f"A dataset is {', '.join(known)}, or {last}.",
        received=repr(dataset),
        where="--dataset",
        advice="Check the spelling, the path, and the names of the files there.",
    )


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


def _source_file(path: Path) -> SourceFile:
    rule = "A dataset's files must be readable."
    with intact(rule, path, "Check that the file exists and its permissions."):
        status = path.stat()
        return SourceFile(
            name=path.name,
            sha256=sha256_of_file(path),
            size_bytes=status.st_size,
            path=path.absolute(),
            modified_ns=status.st_mtime_ns,
        )
