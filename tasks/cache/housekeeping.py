"""Looking after a store: what is in it, what can go, whether it is intact."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.cache.blobs import Store, errors_named, regular_files, sha256_of_file
from tasks.cache.checkpoints import all_checkpoints
from tasks.cache.entries import KEY, Entries
from tasks.errors import EntryError
from tasks.records import BlobRef

# A run stores its arrays before the result that names them: what is younger may be in use.
UNFINISHED_SECONDS = 3600
LONGEST_AGE = timedelta(days=100 * 365)
BLOB = re.compile(r"[0-9a-f]{64}\.(npy|keras|png)")
STAGE = re.compile("[a-z_]+")
NOTE = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Item:
    """One cached result and the files it names. `stage` is "?" for a torn one."""

    key: str
    stage: str
    computed: datetime
    used: datetime
    files: tuple[BlobRef, ...]

    @property
    def size_bytes(self) -> int:
        """What its files take; other results may share them."""
        return sum(ref.size_bytes for ref in self.files)


@dataclass(frozen=True)
class Pruned:
    """What was removed: results, stored files, and the bytes of the latter."""

    results: int
    files: int
    size_bytes: int


def inventory(entries: Entries) -> list[Item]:
    """Every cached result, the one used last first."""
    items = []
    for key in entries:
        with suppress(FileNotFoundError):  # pruned by another process meanwhile
            used = datetime.fromtimestamp(entries.path(key).stat().st_mtime, UTC)
            items.append(_item(entries, key, used))
    return sorted(items, key=lambda item: item.used, reverse=True)


def stored_bytes(store: Store) -> int:
    """What the stored files take, whether or not a result names them."""
    total = 0
    for path in _files(store):
        with suppress(FileNotFoundError):  # a run, or another command, has removed it meanwhile
            total += path.stat().st_size
    return total


def prune(
    entries: Entries, *, max_bytes: int | None = None, max_age: timedelta | None = None
) -> Pruned:
    """Remove what was not used for `max_age`, then what was used longest ago.

    Goes on until the files of the results that are left take at most `max_bytes`. Files that no
    result names go, too, unless a run may still be about to name them; and so do the checkpoints
    of trainings that nobody went on with for `max_age`.
    """
    items = kept = inventory(entries)
    if max_age is not None:
        oldest = datetime.now(UTC) - min(max_age, LONGEST_AGE)
        kept = [item for item in kept if item.used >= oldest]
        for checkpoints in all_checkpoints(entries.store):
            if checkpoints.written() < oldest:
                checkpoints.clear()
    if max_bytes is not None:
        kept = _within(kept, max_bytes)
    gone = items[len(kept) :]
    for item in gone:
        _remove(entries.path(item.key))
    kept_files = {entries.store.path(ref) for item in kept for ref in item.files}
    gone_files = {entries.store.path(ref) for item in gone for ref in item.files}
    finished = time.time() - UNFINISHED_SECONDS
    sizes = []
    for path in _files(entries.store):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path not in kept_files and (path in gone_files or status.st_mtime < finished):
                _remove(path)
                sizes.append(status.st_size)
    return Pruned(len(gone), len(sizes), sum(sizes))


def damages(entries: Entries) -> Iterator[str]:
    """Everything that is not what it should be, a line each; every digest is computed."""
    for key in entries:
        try:
            entry = entries.read(key)
        except FileNotFoundError:
            continue
        except EntryError as error:
            yield str(error)
            continue
        for name, ref in entry.result.stored_files().items():
            if not entries.store.path(ref).exists():
                yield f"{entry.ingredients.stage}: {name} is missing ({entries.store.path(ref)})"
    for path in _files(entries.store):
        try:
            if sha256_of_file(path) != path.stem:
                yield f"{path} is altered: its SHA-256 is not its name"
        except FileNotFoundError:
            continue
        except OSError as error:
            yield f"{path} is unreadable: {error.strerror}"


def clear(store: Store) -> None:
    """Remove every result, stored file and checkpoint, and nothing that is not ours.

    Downloaded datasets stay, and so do the folders: a run may be using them.
    """
    ours = {store.results: KEY, store.latest: STAGE, store.blobs: BLOB, store.root / "warm": NOTE}
    for folder, name in ours.items():  # results first: they name the rest
        for path in regular_files(folder, name):
            _remove(path)
    for checkpoints in all_checkpoints(store):
        checkpoints.clear()


def _item(entries: Entries, key: str, used: datetime) -> Item:
    try:
        entry = entries.read(key)
    except EntryError:
        return Item(key, "?", used, used, ())
    files = tuple(entry.result.stored_files().values())
    return Item(key, entry.ingredients.stage, entry.computed, used, files)


def _within(items: list[Item], max_bytes: int) -> list[Item]:
    """As many of the first items as their files, counted once each, leave room for."""
    uses = Counter(ref for item in items for ref in item.files)
    total_bytes = sum(ref.size_bytes for ref in uses)
    kept = list(items)
    while kept and total_bytes > max_bytes:
        for ref in kept.pop().files:
            uses[ref] -= 1
            total_bytes -= 0 if uses[ref] else ref.size_bytes
    return kept


def _files(store: Store) -> list[Path]:
    return regular_files(store.blobs, BLOB)


def _remove(path: Path) -> None:
    with errors_named(path):
        path.unlink(missing_ok=True)
