"""Datasets that are downloaded once by name, checked, and kept in the cache."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.errors import DatasetError

DOWNLOADS: dict[str, Any] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)


Note = Callable[[str], object]  # is told of each attempt


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
