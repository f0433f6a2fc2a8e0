"""Looking after a store: what is in it, what can go, whether it is intact."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from tasks.cache.blobs import Store, errors_named, regular_files, sha256_of_file
from tasks.cache.checkpoints import all_checkpoints
from tasks.cache.entries import KEY, Entries
from tasks.errors import EntryError
from tasks.records import BlobRef

# A run stores its arrays before the result that names them: what is younger may be in use.
UNFINISHED_SECONDS = 3600
NOTES_KEPT = 50
BLOB = re.compile(r"[0-9a-f]{64}\.(npy|keras|png)")
STAGE = re.compile("[a-z][a-z0-9_]*")
NOTE = re.compile("[0-9a-f]{32}")


class Item(NamedTuple):
    """One cached result and the files it names; only a torn one has a `damage`."""

    key: str
    used: datetime
    computed: datetime
    stage: str
    files: dict[str, BlobRef]
    damage: str = ""

    @property
    def size_bytes(self) -> int:
        """What its files take; other results may share them."""
        return sum(ref.size_bytes for ref in self.files.values())


class Pruned(NamedTuple):
    """What was removed: results, stored files, and the bytes of the latter."""

    results: int
    files: int
    size_bytes: int


def inventory(entries: Entries) -> list[Item]:
    """Every cached result, the one used last first."""
    items = []
    for path, status in _files(entries.store.results, KEY):
        used = datetime.fromtimestamp(status.st_mtime, UTC)
        try:
            entry = entries.read(path.name)
            of = (entry.computed, entry.ingredients.stage, entry.result.stored_files())
            items.append(Item(path.name, used, *of))
        except EntryError as error:
            items.append(Item(path.name, used, used, "?", {}, damage=str(error)))
        except FileNotFoundError:  # pruned by another process meanwhile
            continue
    return sorted(items, key=lambda item: item.used, reverse=True)


def stored_bytes(store: Store) -> int:
    """What the stored files take, whether or not a result names them."""
    return sum(status.st_size for _, status in _files(store.blobs, BLOB))


def prune(
    entries: Entries, *, max_bytes: int | None = None, max_age: timedelta | None = None
) -> Pruned:
    """Remove what was not used for `max_age`, then what was used longest ago.

    Goes on until the files of the results that are left take at most `max_bytes`. Files that no
    result names go, too, unless a run may still be about to name them; and so do checkpoints and
    notes that were not used for `max_age`.
    """
    store, now = entries.store, time.time()
    oldest = -math.inf if max_age is None else now - max_age.total_seconds()
    room = math.inf if max_bytes is None else max_bytes
    items, kept, named = inventory(entries), 0, set[BlobRef]()
    for item in items:
        more = named.union(item.files.values())
        if item.used.timestamp() < oldest or sum(ref.size_bytes for ref in more) > room:
            break
        kept, named = kept + 1, more
    for item in items[kept:]:
        _remove(entries.path(item.key))
    for checkpoints in all_checkpoints(store):
        if checkpoints.written().timestamp() < oldest:
            checkpoints.clear()
    prune_notes(store, oldest)
    keep = {store.path(ref) for ref in named}
    gone = {store.path(ref) for item in items[kept:] for ref in item.files.values()}
    sizes = []
    for path, status in _files(store.blobs, BLOB):
        if path not in keep and (path in gone or status.st_mtime < now - UNFINISHED_SECONDS):
            _remove(path)
            sizes.append(status.st_size)
    return Pruned(len(items) - kept, len(sizes), sum(sizes))


def prune_notes(store: Store, oldest: float = -math.inf) -> None:
    """Remove what tasks/terminal/preload.py noted before `oldest`, and all but the newest notes."""
    notes = sorted(_files(store.root / "warm", NOTE), key=lambda note: -note[1].st_mtime)
    for number, (path, status) in enumerate(notes):
        if number >= NOTES_KEPT or status.st_mtime < oldest:
            _remove(path)


def damages(entries: Entries) -> Iterator[str]:
    """Everything that is not what it should be, a line each; every digest is computed."""
    path_of = entries.store.path
    for item in inventory(entries):
        if item.damage:
            yield item.damage
        for name, ref in item.files.items():
            if not path_of(ref).exists():
                yield f"{item.stage}: {name} is missing ({path_of(ref)})"
    for path, _ in _files(entries.store.blobs, BLOB):
        try:
            if sha256_of_file(path) != path.stem:
                yield f"{path} is altered: its SHA-256 is not its name"
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError as error:
            yield f"{path} is unreadable: {error.strerror}"


def clear(store: Store) -> None:
    """Remove every result, stored file, checkpoint and note, and nothing that is not ours.

    Downloaded datasets stay, and so do the folders: a run may be using them.
    """
    folders = [path for path in store.latest.glob("*/") if not path.is_symlink()]
    stages = {path: KEY for path in folders if STAGE.fullmatch(path.name)}
    ours = {store.results: KEY, store.latest: STAGE, **stages, store.blobs: BLOB}
    for folder, name in {**ours, store.root / "warm": NOTE}.items():  # results first
        for path, _ in _files(folder, name):
            _remove(path)
    for checkpoints in all_checkpoints(store):
        checkpoints.clear()


def _files(folder: Path, name: re.Pattern[str]) -> Iterator[tuple[Path, os.stat_result]]:
    """Our files in a folder; a run, or another command, may remove some meanwhile."""
    for path in regular_files(folder, name):
        with suppress(FileNotFoundError):
            yield path, path.stat()


def _remove(path: Path) -> None:
    with errors_named(path):
        path.unlink(missing_ok=True)
