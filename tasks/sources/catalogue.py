"""Finding a dataset by name or by place, and opening it.

mnist                     embedded in this package, checked against its SHA-256
fashion_mnist, kmnist     downloaded once, checked, kept in the cache
a folder                  four IDX files, plain or gzip
a file                    .npz with x_train, y_train, x_test, y_test
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.cache.blobs import sha256_of_file
from tasks.errors import (
    DatasetError,
)
from tasks.records import ARRAY_NAMES, DatasetSource, SourceFile
from tasks.sources.idx import open_idx
from tasks.sources.npz import open_npz
from tasks.sources.stream import ArrayStream

EMBEDDED_MNIST = Path(__file__).with_name("mnist.npz")
EMBEDDED_MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"

IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
DOWNLOAD_ATTEMPTS = 3


@dataclass(frozen=True)
class Download:
    """A published dataset: its address and the SHA-256 of its four files, as IDX_FILES."""

    url: str
    sha256: tuple[str, str, str, str]


DOWNLOADS = {
    # Xiao, Rasul, Vollgraf: Fashion-MNIST (2017). MIT licence.
    "fashion_mnist": Download(
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    # Clanuwat et al.: Deep Learning for Classical Japanese Literature (2018). CC BY-SA 4.0.
    "kmnist": Download(
        "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        (
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
    ),
}
NAMES = ("mnist", *DOWNLOADS)


def find_dataset(dataset: str, downloads: Path) -> DatasetSource:
    """Locate a dataset and digest its files; download it if it is named and not here yet.

    Args:
        dataset: one of NAMES, a folder of four IDX files, or an `.npz` file.
        downloads: the folder that named datasets are kept in.

    Raises:
        DatasetError: none of the three.
        DatasetError: the folder lacks a file, or a file cannot be read.
        DatasetError: the embedded MNIST is not the published one.
        DatasetError: a named dataset could not be fetched.
    """
    name = dataset_name(dataset)
    if dataset == "mnist":
        return _embedded_mnist()
    if dataset in DOWNLOADS:
        return _idx_folder(_download(dataset, downloads / dataset), name)
    path = _expanded(dataset)
    with suppress(OSError):  # a name that is too long for a file system is no file
        if path.is_dir():
            return _idx_folder(path, name)
        if path.is_file():
            return _source(name, "npz", [path])
    raise DatasetError(
        f"A dataset is {', '.join(NAMES)}, a folder of four IDX files, or an .npz file.",
        received=repr(dataset),
        where="--dataset",
        advice="Check the spelling and the path.",
    )


def open_dataset(source: DatasetSource) -> dict[str, ArrayStream]:
    """The four arrays of a dataset, declared sizes checked, nothing read yet.

    Raises the typed errors of `open_idx` and `open_npz`.
    """
    check_unchanged(source)
    if source.kind == "npz":
        return open_npz(source.files[0].path)
    return {
        name: open_idx(file.path, dimensions=3 if name.startswith("x") else 1)
        for name, file in zip(ARRAY_NAMES, source.files, strict=True)
    }


def check_unchanged(source: DatasetSource) -> None:
    """Raise DatasetError when a file is no longer the one that was digested."""
    for file in source.files:
        try:
            now = file.path.stat()
            found = (now.st_size, now.st_mtime_ns)
        except OSError:
            found = None
        if found != (file.size_bytes, file.modified_ns):
            raise DatasetError(
                "A dataset must not change while it is read.",
                received="another size or modification time" if found else "no such file any more",
                where=file.path,
                advice="Run again when nothing writes to it.",
            )


def dataset_name(dataset: str) -> str:
    """What a dataset is called in artifacts and run names: `fashion-mnist`, `my-letters`."""
    if dataset in NAMES:
        return artifact_name(dataset)
    name = artifact_name(_expanded(dataset).absolute().name.removesuffix(".npz"))
    # Not among the records of a dataset that everybody has.
    return f"{name}-local" if name in map(artifact_name, NAMES) else name


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for unknown users


def artifact_name(text: str) -> str:
    """Lower-case letters, digits and single dashes: what a Prefect artifact key may hold."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "dataset"


def _embedded_mnist() -> DatasetSource:
    source = _source("mnist", "npz", [EMBEDDED_MNIST])
    if source.files[0].sha256 != EMBEDDED_MNIST_SHA256:
        raise DatasetError(
            f"The embedded MNIST must have the SHA-256 {EMBEDDED_MNIST_SHA256}.",
            received=source.files[0].sha256,
            where=EMBEDDED_MNIST,
            advice="Restore the file, for instance with git checkout.",
        )
    return source


def _idx_folder(folder: Path, name: str) -> DatasetSource:
    files = []
    for stem in IDX_FILES.values():
        candidates = [folder / stem, folder / f"{stem}.gz"]
        present = [path for path in candidates if path.is_file()]
        if not present:
            raise DatasetError(
                f"A dataset folder holds {', '.join(IDX_FILES.values())}, each plain or .gz.",
                received=f"no {stem}",
                where=folder,
                advice="Add the missing file.",
            )
        files.append(present[0])
    return _source(name, "idx", files)


def _source(name: str, kind: Literal["idx", "npz"], paths: list[Path]) -> DatasetSource:
    return DatasetSource(name=name, kind=kind, files=tuple(_source_file(path) for path in paths))


def _source_file(path: Path) -> SourceFile:
    try:
        status = path.stat()
        return SourceFile(
            name=path.name,
            sha256=sha256_of_file(path),
            size_bytes=status.st_size,
            path=path.resolve(),
            modified_ns=status.st_mtime_ns,
        )
    except OSError as error:
        raise DatasetError(
            "A dataset's files must be readable.",
            received=error.strerror,
            where=path,
            advice="Check that the file exists and its permissions.",
        ) from error


def _download(dataset: str, folder: Path) -> Path:
    import pooch  # imports requests: only a download pays for it

    download = DOWNLOADS[dataset]
    names = [f"{stem}.gz" for stem in IDX_FILES.values()]
    fetcher = pooch.create(
        path=folder,
        base_url=download.url,
        registry=dict(zip(names, (f"sha256:{digest}" for digest in download.sha256), strict=True)),
        retry_if_failed=DOWNLOAD_ATTEMPTS - 1,
    )
    pooch.get_logger().setLevel("WARNING")
    for name in names:
        try:
            fetcher.fetch(name)
        except (OSError, ValueError) as error:  # no network or disk; or another digest
            raise DatasetError(
                f"{dataset} must be downloaded once from {download.url}.",
                received=f"{type(error).__name__}: {error}",
                where=name,
                advice="Check the network and run again, or download the four files yourself "
                f"and pass their folder: --dataset {folder}",
            ) from error
    return folder
