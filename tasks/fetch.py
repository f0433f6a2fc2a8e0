"""Fetch: from a dataset's name or place to its files."""

from __future__ import annotations

from prefect import get_run_logger
from pydantic import ByteSize

from tasks.cache.blobs import Store
from tasks.orchestration.stage import stage
from tasks.records import DatasetSource
from tasks.sources.catalogue import find_dataset


@stage(cached=False)
def fetch(dataset: str, store: Store) -> DatasetSource:
    """Find and digest a dataset's files; download what is named and not here yet.

    Never cached: whether the files are as they were is what it finds out. Raises DatasetError
    if there is no such dataset, or it cannot be downloaded or read.
    """
    log = get_run_logger()
    source = find_dataset(dataset, store.root / "downloads", log.info)
    size = ByteSize(sum(file.size_bytes for file in source.files)).human_readable(decimal=True)
    names = ", ".join(file.name for file in source.files)
    log.info("%s: %s in %s (%s)", source.name, size, source.files[0].path.parent, names)
    return source
