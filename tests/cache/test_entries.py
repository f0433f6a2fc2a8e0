"""Entries: what is read back is what was written, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from builders import sealed

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries, Entry
from tasks.cache.ingredients import Ingredients
from tasks.errors import EntryError
from tasks.records import (
    ArrayRef,
    BlobRef,
    CheckResult,
    ClassMetrics,
    ConfidenceBin,
    DatasetRef,
    EpochMetrics,
    Metrics,
    Mistake,
    ModelRef,
    Pictures,
    Record,
    Suspect,
    Suspects,
    ValidationReport,
)

INGREDIENTS = Ingredients(
    stage="train", code={"a.py": "1"}, libraries={"keras": "3.15.1"}, inputs={"epochs": 12}
)
OTHERS = INGREDIENTS.model_copy(update={"inputs": {"epochs": 6}})
ARRAY = ArrayRef(sha256=64 * "a", size_bytes=134, dtype="float32", shape=(3, 2))
PICTURE = BlobRef(sha256=64 * "d", size_bytes=7, suffix=".png")
REPORT = ValidationReport(checks=())
RESULTS = [
    DatasetRef(
        name="tiny",
        x_train=ARRAY,
        y_train=ARRAY,
        x_test=ARRAY,
        y_test=ARRAY,
        height=1,
        width=2,
        classes=2,
    ),
    ValidationReport(
        checks=(
            CheckResult(
                tier="structure",
                name="span",
                subject="x",
                rule="pixels span 0 … 255",
                severity="error",
                outcome="passed",
            ),
            CheckResult(
                tier="rows",
                name="labels",
                subject="y",
                rule="labels",
                severity="warning",
                outcome="failed",
                received="-1",
                rows=(3, 7),
                failing=2,
            ),
        ),
    ),
    ModelRef(
        keras_file=BlobRef(sha256=64 * "b", size_bytes=9, suffix=".keras"),
        weights_sha256=64 * "c",
        parameters=50_890,
        history=(EpochMetrics(loss=0.1, accuracy_fraction=2 / 3),),
    ),
    Metrics(
        accuracy_fraction=0.1 + 0.2,  # 0.30000000000000004
        accuracy_interval=(0.1, 1 / 3),
        loss=1e-300,
        images=3,
        per_class=(ClassMetrics(label=0, images=3, precision=1.0, recall=0.5, f1=2 / 3),),
        confusion=((2, 1), (0, 0)),
        calibration_error=1e-9,
        reliability=(ConfidenceBin(confidence=0.75, accuracy_fraction=2 / 3, images=3),),
        mistakes=(Mistake(row=2, label=0, predicted=1, confidence=0.75),),
        probabilities=ARRAY,
    ),
    Suspects(found=(Suspect(row=4, label=0, suggested=1, quality=1e-7),), images=6),
    Pictures(drawn={"samples": PICTURE, "balance": PICTURE}),
]


@pytest.fixture
def entries(store: Store) -> Entries:
    return Entries(store)


def fields() -> dict[str, Any]:
    """A whole entry as JSON, to be spoiled."""
    whole: dict[str, Any] = Entry.of(REPORT, INGREDIENTS).model_dump(mode="json")
    return whole


@pytest.mark.parametrize("result", RESULTS, ids=[type(result).__name__ for result in RESULTS])
def test_result_comes_back_as_it_was_written(entries: Entries, result: Record) -> None:
    entries.write(Entry.of(result, INGREDIENTS))

    assert result == entries.read(INGREDIENTS.key).result


def test_ingredients_and_moment_come_back_too(entries: Entries) -> None:
    entry = Entry.of(REPORT, INGREDIENTS)
    entries.write(entry)

    assert entry == entries.read(INGREDIENTS.key)


def test_entry_says_when_it_was_computed() -> None:
    before = datetime.now(UTC)
    computed = Entry.of(REPORT, INGREDIENTS).computed

    assert before <= computed <= datetime.now(UTC)


def test_entry_lies_under_the_key_of_its_ingredients(entries: Entries) -> None:
    entries.write(Entry.of(REPORT, INGREDIENTS))

    assert [INGREDIENTS.key] == list(entries)
    assert entries.path(INGREDIENTS.key) == entries.store.results / INGREDIENTS.key


def test_first_line_is_the_digest_of_the_rest(entries: Entries) -> None:
    entries.write(Entry.of(REPORT, INGREDIENTS))

    digest, text = entries.path(INGREDIENTS.key).read_bytes().split(b"\n", maxsplit=1)
    assert hashlib.sha256(text).hexdigest().encode() == digest


def test_entry_written_again_replaces_the_first(entries: Entries) -> None:
    for result in RESULTS[:2]:
        entries.write(Entry.of(result, INGREDIENTS))

    assert RESULTS[1] == entries.read(INGREDIENTS.key).result


def test_missing_entry_is_no_damage(entries: Entries) -> None:
    with pytest.raises(FileNotFoundError):
        entries.read(INGREDIENTS.key)


@pytest.mark.parametrize("kept", [0, 1, 64, 65, 100, -1])
def test_torn_entry_is_refused(entries: Entries, kept: int) -> None:
    entries.write(Entry.of(REPORT, INGREDIENTS))
    path = entries.path(INGREDIENTS.key)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(EntryError, match="whole and written by this version"):
        entries.read(INGREDIENTS.key)


def test_every_flipped_bit_is_refused(entries: Entries) -> None:
    entries.write(Entry.of(REPORT, INGREDIENTS))
    path = entries.path(INGREDIENTS.key)
    whole = path.read_bytes()

    accepted = []
    for position in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            entries.read(INGREDIENTS.key)
        except EntryError:
            continue
        accepted.append(position)
    assert accepted == []


def test_entry_under_another_name_is_refused(entries: Entries) -> None:
    entries.write(Entry.of(REPORT, INGREDIENTS))
    entries.path(INGREDIENTS.key).rename(entries.path(OTHERS.key))

    with pytest.raises(EntryError, match=f"Received: {INGREDIENTS.key}") as caught:
        entries.read(OTHERS.key)

    assert "named by the digest of its ingredients" in str(caught.value)


FOREIGN: dict[str, Any] = {
    "of an unknown type": fields() | {"kind": "Store"},
    "of another of our types": fields() | {"kind": "DatasetRef"},
    "with a field more": fields() | {"serializer": {"type": "pickle"}},
    "with a field more in its value": fields()
    | {"value": {"checks": [], "__class__": "os.system"}},
    "with a field less": {name: value for name, value in fields().items() if name != "computed"},
    "without a value": fields() | {"value": None},
    "with a moment that is none": fields() | {"computed": "yesterday"},
    "that is a list": [fields()],
    "that is empty": {},
    "that is null": None,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_entry_that_is_whole_but_not_ours_is_refused(entries: Entries, kind: str) -> None:
    entries.path(INGREDIENTS.key).write_bytes(sealed(json.dumps(FOREIGN[kind]).encode()))

    with pytest.raises(EntryError):
        entries.read(INGREDIENTS.key)


def test_refusal_names_the_file_and_what_happens_next(entries: Entries) -> None:
    path = entries.path(INGREDIENTS.key)
    path.write_bytes(b"")

    with pytest.raises(EntryError) as caught:
        entries.read(INGREDIENTS.key)

    assert str(caught.value) == (
        "A cached result must be whole and written by this version. "
        f"Received: text and digest differ (in {path}). It is computed anew when it is needed."
    )


def test_keys_of_damaged_entries_are_listed_and_what_is_not_ours_is_not(
    entries: Entries,
) -> None:
    damaged = "0" * 64
    entries.path(damaged).touch()
    entries.path("unfinished.partial").touch()
    entries.path("paper.csv").touch()
    entries.path("1" * 64).mkdir()
    entries.path("2" * 64).symlink_to("nowhere")

    assert list(entries) == [damaged]


def test_use_of_an_entry_is_noted_in_its_time(entries: Entries) -> None:
    entries.write(Entry.of(REPORT, INGREDIENTS))
    path = entries.path(INGREDIENTS.key)
    os.utime(path, (0, 0))

    entries.touch(INGREDIENTS.key)

    assert path.stat().st_mtime > 0


def test_use_of_an_entry_that_another_run_removed_is_no_error(entries: Entries) -> None:
    entries.touch(INGREDIENTS.key)

    assert list(entries) == []


def test_latest_run_of_each_stage_is_remembered(entries: Entries) -> None:
    evaluation = INGREDIENTS.model_copy(update={"stage": "evaluate"})
    for noted in (OTHERS, evaluation, INGREDIENTS):
        entries.note_latest(noted)

    assert INGREDIENTS == entries.latest("train")
    assert evaluation == entries.latest("evaluate")


def test_stage_that_never_ran_has_no_latest_run(entries: Entries) -> None:
    assert entries.latest("train") is None


@pytest.mark.parametrize("kept", [0, 64, -1])
def test_torn_latest_run_is_unknown(entries: Entries, kept: int) -> None:
    entries.note_latest(INGREDIENTS)
    path = entries.store.latest / "train"
    path.write_bytes(path.read_bytes()[:kept])

    assert entries.latest("train") is None


def test_latest_run_with_foreign_fields_is_unknown(entries: Entries) -> None:
    (entries.store.latest / "train").write_bytes(sealed(b'{"stage": "train", "key": "1"}'))

    assert entries.latest("train") is None


def test_latest_run_that_cannot_be_written_is_only_not_told(entries: Entries) -> None:
    """As root every folder can be written to, so a file stands in its place."""
    entries.store.latest.rmdir()
    entries.store.latest.touch()

    entries.note_latest(INGREDIENTS)

    assert entries.latest("train") is None
