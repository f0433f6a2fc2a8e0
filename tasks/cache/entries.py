"""Cached results on disk: what a stage handed back, and what it was made from.

    <cache dir>/results/<cache key>     one entry, its digest in the first line
    <cache dir>/latest/<stage>          the ingredients of the stage's latest run

An entry proves itself: the digest over its text, and its name, which is the digest of the
ingredients in it.
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
from typing import Any

from tasks.cache.blobs import Store, write_atomically
from tasks.cache.ingredients import Ingredients
from tasks.errors import EntryError, StoreError
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

RESULT_TYPES: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (DatasetRef, ValidationReport, ModelRef, Metrics, Suspects, Pictures)
}


class Entry(Record):
    """One result: a record of type `kind`, its fields, its ingredients, and when."""

    kind: str
    value: dict[str, Any]
    ingredients: Ingredients
    computed: datetime

    @classmethod
    def of(cls, result: Record, ingredients: Ingredients) -> Entry:
        """The entry of a result that was computed just now."""
        return cls(
            kind=type(result).__name__,
            value=result.model_dump(mode="json"),
            ingredients=ingredients,
            computed=datetime.now(UTC),
        )

    @cached_property
    def result(self) -> Record:
        """What the stage handed back. Raises ValueError unless it is one of RESULT_TYPES."""
        return decode_result(self.kind, self.value)


def decode_result(kind: str, value: Any) -> Record:
    """A record from its type's name and its fields. Raises ValueError for anything else."""
    if kind not in RESULT_TYPES:
        raise ValueError(f"A stored result is one of {', '.join(RESULT_TYPES)}.")
    return RESULT_TYPES[kind].model_validate(value, strict=False)


def regular_files(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """The files of a folder that are named as ours are; nothing else is ever touched."""
    with suppress(OSError):
        return sorted(
            path
            for path in folder.iterdir()
            if name.fullmatch(path.name) and path.is_file() and not path.is_symlink()
        )
    return []


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

    def read(self, key: str) -> Entry:
        """One entry. Raises EntryError unless it is whole, and FileNotFoundError."""
        path = self.path(key)
        try:
            entry = Entry.model_validate_json(_unsealed(path.read_bytes()))
            entry.result  # noqa: B018 - raises unless it is of our types
        except ValueError as error:
            raise EntryError(
                "A cached result must be whole and written by this version.",
                received=str(error).partition("\n")[0],
                where=path,
                advice="It is computed anew when it is needed.",
            ) from error
        if entry.ingredients.key != key:
            raise EntryError(
                "A cached result is named by the digest of its ingredients.",
                received=entry.ingredients.key,
                where=path,
                advice="It is computed anew when it is needed.",
            )
        return entry

    def write(self, entry: Entry) -> None:
        """Store an entry in one step. Raises StoreError or StoreError."""
        write_atomically(self.path(entry.ingredients.key), _sealed(entry))

    def touch(self, key: str) -> None:
        """Note that an entry is used: what is used is pruned last."""
        with suppress(OSError):
            os.utime(self.path(key))

    def latest(self, stage: str) -> Ingredients | None:
        """What the stage's latest run in this store was made from, if that is known."""
        try:
            return Ingredients.model_validate_json(
                _unsealed((self.store.latest / stage).read_bytes())
            )
        except (OSError, ValueError):
            return None

    def note_latest(self, ingredients: Ingredients) -> None:
        """Remember a run, for the next one's account. What cannot be noted is only not told."""
        with suppress(StoreError):
            write_atomically(self.store.latest / ingredients.stage, _sealed(ingredients))


def _sealed(record: Record) -> bytes:
    text = record.model_dump_json().encode()
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def _unsealed(content: bytes) -> bytes:
    digest, _, text = content.partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise ValueError("text and digest differ")
    return text
