"""Cached results on disk: what a stage handed back, and what it was made from.

    <cache dir>/results/<cache key>         one entry, its digest in the first line
    <cache dir>/latest/<stage>/<cache key>  the ingredients of one of the stage's latest runs

An entry proves that it is whole: by the digest over its text, and by its name, which is the digest
of the ingredients in it. Who wrote it, it does not prove: what can write here is this user's own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from tasks.cache.blobs import Store, errors_named, write_atomically
from tasks.cache.keys import Ingredients, how_different
from tasks.cache.places import file_status, locked_folder, make_way, read_file, regular_files
from tasks.errors import EntryError, StoreError, reason_of
from tasks.records import (
    DatasetRef,
    Metrics,
    ModelRef,
    Pictures,
    Record,
    Suspects,
    ValidationReport,
)

KEY = re.compile("[0-9a-f]{64}")
FIRST_DAY, LAST_DAY = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
REMEMBERED = 32  # runs of a stage, to find the nearest of them
RESULT_TYPES: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (DatasetRef, ValidationReport, ModelRef, Metrics, Suspects, Pictures)
}


class Entry(Record):
    """One result: a record of type `kind`, its fields, its ingredients, and when."""

    kind: str
    value: dict[str, Any]
    ingredients: Ingredients
    computed: Annotated[AwareDatetime, Field(ge=FIRST_DAY, le=LAST_DAY)]

    @classmethod
    def of(cls, result: Record, ingredients: Ingredients) -> Entry:
        """The entry of a result that was computed just now."""
        kind = type(result).__name__
        if RESULT_TYPES.get(kind) is not type(result):
            known = ", ".join(RESULT_TYPES)
            raise TypeError(f"A cached stage returns one of {known}. Received: {result!r}.")
        value = result.model_dump(mode="json")
        return cls(kind=kind, value=value, ingredients=ingredients, computed=datetime.now(UTC))

    @cached_property
    def result(self) -> Record:
        """What the stage handed back. Raises ValueError for what no stage hands back."""
        if self.kind not in RESULT_TYPES:
            raise ValueError(f"a stored result is one of {', '.join(RESULT_TYPES)}")
        result = RESULT_TYPES[self.kind].model_validate(self.value, strict=False)
        result.require_consistent()
        return result


class Entries:
    """The entries of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def path(self, key: str) -> Path:
        """The place of an entry, whether or not it is there."""
        return self.store.results / key

    def __iter__(self) -> Iterator[str]:
        """The keys of all entries, torn ones included."""
        return (path.name for path in regular_files(self.store.results, KEY))

    def look_up(self, key: str) -> tuple[Entry | None, str]:
        """An entry that can be used as it is; or None, and what is wrong with it.

        Nothing is wrong with one that is not there.
        """
        since = self.store.fresh_since
        with locked_folder(self.store.root):  # nothing of it is removed before its use is noted
            try:
                entry = self.read(key)
            except EntryError:
                return None, "refresh" if since else "corrupt: result"
            except FileNotFoundError:
                return None, "refresh" if since else ""
            if since and not since <= entry.computed <= datetime.now(UTC):
                return None, "refresh"
            if damage := self._damage(entry):
                return None, damage
            with suppress(OSError):  # what is used is pruned last, and not while the run goes on
                os.utime(self.path(key))
            return entry, ""

    def is_complete(self, key: str) -> bool:
        """Whether a result is there that could be used, however old."""
        try:
            return not self._damage(self.read(key))
        except (EntryError, FileNotFoundError):
            return False

    def _damage(self, entry: Entry) -> str:
        for name, ref in entry.result.stored_files().items():
            if not self.store.holds(ref):
                return f"{'corrupt' if self.store.is_altered(ref) else 'lost'}: {name}"
        return ""

    def read(self, key: str) -> Entry:
        """One entry. Raises EntryError unless it is whole, and FileNotFoundError."""
        path = self.path(key)
        try:
            entry = Entry.model_validate_json(_unsealed(read_file(path)))
            entry.result  # noqa: B018 - raises unless it is of our types
            if entry.ingredients.key != key:
                raise ValueError(f"the ingredients of {entry.ingredients.key}")  # noqa: TRY301
        except FileNotFoundError:
            raise
        except (ValueError, OSError) as error:
            raise EntryError(
                "A cached result must be whole, written by this version, and named by the digest "
                "of its ingredients.",
                received=reason_of(error),
                where=path,
                advice="It is computed again when it is needed.",
            ) from error
        return entry

    def write(self, entry: Entry) -> None:
        """Store an entry in one step. Raises StoreError."""
        path = self.path(entry.ingredients.key)
        with errors_named(path):
            make_way(path)
        write_atomically(path, _sealed(entry))

    def remember(self, ingredients: Ingredients) -> None:
        """Note a run, for the next one's reasons. What cannot be noted is only not told."""
        note = self.store.latest / ingredients.stage / ingredients.key
        with suppress(OSError, StoreError):
            with suppress(OSError):
                file_status(note)
                os.utime(note)
                return
            note.parent.mkdir(mode=0o700, exist_ok=True)
            make_way(note)
            write_atomically(note, _sealed(ingredients))
            for old in self._notes(ingredients.stage)[REMEMBERED:]:
                old.unlink(missing_ok=True)

    def nearest(self, ingredients: Ingredients) -> Ingredients | None:
        """The stage's run that differs least, of several the latest; None if none is known."""
        runs = []
        for note in self._notes(ingredients.stage):
            with suppress(OSError, ValueError):  # another run has removed it, or it is torn
                runs.append(Ingredients.model_validate_json(_unsealed(read_file(note))))
        same_stage = (run for run in runs if run.stage == ingredients.stage)
        return min(same_stage, key=lambda run: how_different(run, ingredients), default=None)

    def _notes(self, stage: str) -> list[Path]:
        """The notes of a stage's runs, the latest first."""
        return sorted(regular_files(self.store.latest / stage, KEY), key=_written, reverse=True)


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # another run has removed it
        return 0


def _sealed(record: Record) -> bytes:
    text = record.model_dump_json().encode()
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def _unsealed(content: bytes) -> bytes:
    digest, _, text = content.partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise ValueError("text and digest differ")
    return text
