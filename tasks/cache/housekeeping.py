"""Looking after a store: what is in it, what can go, whether it is intact.

What runs that are under way have used stays: results by the time of their use, the files that these
name, and files that were stored since the first of these runs started.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from tasks.cache.blobs import Store, errors_named
from tasks.cache.checkpoints import Checkpoints, all_checkpoints
from tasks.cache.entries import KEY, Entries
from tasks.cache.places import (
    DAMAGED,
    PARTIAL,
    file_status,
    is_folder,
    locked_folder,
    moment,
    open_file,
    regular_files,
    remove,
)
from tasks.cache.sharing import LOCK, held_if_free, used_since
from tasks.errors import EntryError
from tasks.records import BlobRef

# A run stores its arrays before the result that names them: what is younger may be in use.
UNFINISHED_SECONDS = 3600
ABANDONED_SECONDS = 24 * 3600
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


@dataclass
class Pruned:
    """What was removed: results, stored files, trainings to go on with, and their bytes."""

    results: int = 0
    files: int = 0
    size_bytes: int = 0
    trainings: int = 0


def inventory(entries: Entries) -> list[Item]:
    """Every cached result, the one used last first."""
    items = []
    for path, status in _files(entries.store.results, KEY):
        used = moment(status.st_mtime)
        try:
            entry = entries.read(path.name)
            of = (entry.computed, entry.ingredients.stage, entry.result.stored_files())
            items.append(Item(path.name, used, *of))
        except EntryError as error:
            items.append(Item(path.name, used, used, "?", {}, damage=str(error)))
        except FileNotFoundError:  # pruned by another process meanwhile
            continue
    return sorted(items, key=lambda item: item.used, reverse=True)


def unfinished_trainings(entries: Entries) -> list[Checkpoints]:
    """Those that a run can go on with: their result is not there."""
    return [
        checkpoints
        for checkpoints in all_checkpoints(entries.store)
        if checkpoints.size_bytes() and not entries.is_complete(checkpoints.key)
    ]


def stored_bytes(store: Store) -> int:
    """What stored files and checkpoints take, whether or not a result names them."""
    files = sum(status.st_size for _, status in _files(store.blobs, BLOB))
    return files + sum(checkpoints.size_bytes() for checkpoints in all_checkpoints(store))


def sweep(entries: Entries) -> None:
    """Remove what killed runs left: locks, checkpoints of what is complete, unfinished files."""
    store = entries.store
    for path in regular_files(store.locks, LOCK):
        with held_if_free(path):
            pass
    _remove_partial(store)
    for checkpoints in all_checkpoints(store):
        with held_if_free(store.locks / checkpoints.key) as is_free:
            if is_free:
                checkpoints.clear_unfinished()
                if not checkpoints.size_bytes() or entries.is_complete(checkpoints.key):
                    checkpoints.clear()


def _remove_partial(store: Store) -> None:
    """Remove what is older than every run that may be writing it."""
    started = min(used_since(store), time.time())
    folders = (store.blobs, store.results, store.accounts, store.root / "digests")
    for folder in filter(is_folder, (*folders, *store.latest.glob("*/"))):
        remove_abandoned(folder, started)


def remove_abandoned(folder: Path, before: float | None = None) -> None:
    """Remove what `NewFile` was writing `before`: a day ago, if nothing else is known.

    In a folder of the cache, whatever is called so. What is damaged is always kept for a day: it
    tells the run that computes it again.
    """
    yesterday = time.time() - ABANDONED_SECONDS
    for path in folder.glob(f"{'*' if before else 'tmp????????'}{PARTIAL}"):
        limit = yesterday if before is None or path.name.endswith(DAMAGED) else before
        with suppress(OSError):  # another run sweeps, too
            if path.lstat().st_mtime < limit:
                remove(path)


def prune(
    entries: Entries, *, max_bytes: int | None = None, max_age: timedelta | None = None
) -> Pruned:
    """Remove what was not used for `max_age`, then what was used longest ago.

    Goes on until the files of the results that are left take at most `max_bytes`. Files that no
    result names go, too, unless a run may still be about to name them; and so do checkpoints and
    notes that were not used for `max_age`, and what killed runs left.
    """
    now = time.time()
    oldest = -math.inf if max_age is None else now - max_age.total_seconds()
    room = math.inf if max_bytes is None else float(max_bytes)
    return _pruned(entries, oldest, room, unnamed_before=now - UNFINISHED_SECONDS)


def _pruned(entries: Entries, oldest: float, room: float, unnamed_before: float) -> Pruned:
    store, pruned = entries.store, Pruned()
    sweep(entries)
    with locked_folder(store.root, alone=True):
        in_use = used_since(store)
        items, kept, named = inventory(entries), 0, set[BlobRef]()
        for item in items:
            more, used = named.union(item.files.values()), item.used.timestamp()
            too_much = sum(ref.size_bytes for ref in more) > room
            if used < in_use and (used < oldest or too_much):
                break
            kept, named = kept + 1, more
        pruned.results = sum(_remove(entries.path(item.key)) for item in items[kept:])
        keep = {store.path(ref) for ref in named}
        loose = {store.path(ref) for item in items[kept:] for ref in item.files.values()}
        for path, status in _files(store.blobs, BLOB):
            if path in keep or status.st_mtime >= in_use:
                continue
            if (path in loose or status.st_mtime < unnamed_before) and _remove(path):
                pruned.files += 1
                pruned.size_bytes += status.st_size
    for checkpoints in all_checkpoints(store):
        with held_if_free(store.locks / checkpoints.key) as is_free:
            if is_free and checkpoints.written().timestamp() < oldest:
                pruned.trainings += 1
                pruned.size_bytes += checkpoints.size_bytes()
                checkpoints.clear()
    prune_notes(store, oldest)
    return pruned


def prune_notes(store: Store, oldest: float = -math.inf) -> None:
    """Remove what tasks/terminal/preload.py noted before `oldest`, and all but the newest notes."""
    notes = sorted(_files(store.root / "warm", NOTE), key=lambda note: -note[1].st_mtime)
    for number, (path, status) in enumerate(notes):
        if number >= NOTES_KEPT or status.st_mtime < oldest:
            _remove(path)


def damages(entries: Entries) -> Iterator[str]:
    """Everything that is not what it should be, a line each; every digest is computed."""
    with locked_folder(entries.store.root):  # nobody removes a result and its files meanwhile
        yield from [line for item in inventory(entries) for line in _damages_of(item, entries)]
    for path, _ in _files(entries.store.blobs, BLOB):
        try:
            with open_file(path) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != path.stem:
                    yield f"{path} is altered: its SHA-256 is not its name"
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError as error:
            yield f"{path} is unreadable: {error.strerror}"


def _damages_of(item: Item, entries: Entries) -> Iterator[str]:
    if item.damage:
        yield item.damage
    for name, ref in item.files.items():
        path = entries.store.path(ref)
        try:
            file_status(path)
        except FileNotFoundError:
            yield f"{item.stage}: {name} is missing ({path})"
        except OSError as error:
            yield f"{item.stage}: {name} is {error.strerror} ({path})"


def clear(store: Store) -> Pruned:
    """Remove every result, stored file, checkpoint and note, and nothing that is not ours.

    Downloaded datasets stay, and so do the folders, and what runs under way have used.
    """
    pruned = _pruned(Entries(store), math.inf, math.inf, unnamed_before=math.inf)
    folders = [path for path in store.latest.glob("*/") if is_folder(path)]
    stages = {path: KEY for path in folders if STAGE.fullmatch(path.name)}
    for folder, name in {store.latest: STAGE, **stages}.items():
        for path, _ in _files(folder, name):
            _remove(path)
    return pruned


def _files(folder: Path, name: re.Pattern[str]) -> Iterator[tuple[Path, os.stat_result]]:
    """Our files in a folder; a run, or another command, may remove some meanwhile."""
    for path in regular_files(folder, name):
        with suppress(FileNotFoundError):
            yield path, path.lstat()


def _remove(path: Path) -> bool:
    with errors_named(path):
        return remove(path)
