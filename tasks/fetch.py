"""Fetch: from a dataset's name or place to its files."""

from __future__ import annotations

from prefect import get_run_logger
from pydantic import ByteSize

from tasks.cache.blobs import Store
from tasks.orchestration.stage import stage
from tasks.records import DatasetSource
from tasks.sources.catalogue import FORMATS, find_dataset

SHOWN_FILES = 4  # in the log


@stage(cached=False)
def fetch(dataset: str, name: str | None, store: Store) -> DatasetSource:
    """Find and digest a dataset's files; download what is named and not here yet.

    It is called `name`, or else after its place. Never cached: whether the files are as they
    were is what it finds out. Raises DatasetError if there is no such dataset, or it cannot be
    downloaded or read.
    """
    log = get_run_logger()
    source = find_dataset(dataset, store.root / "downloads", log.info, name)
    size = ByteSize(sum(file.size_bytes for file in source.files)).human_readable(decimal=True)
    names = ", ".join(file.name for file in source.files[:SHOWN_FILES])
    more = f" and {len(source.files) - SHOWN_FILES} more" if source.files[SHOWN_FILES:] else ""
    first = source.files[0]
    folder = first.path.parents[first.name.count("/")]  # to which names are relative
    found = source.name, FORMATS[source.kind].description, size, folder
    log.info("%s: %s, %s in %s (%s%s)", *found, names, more)
    return source
