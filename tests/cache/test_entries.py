"""Entries: what is read back is what was written, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from builders import sealed, store_metrics

from tasks.cache.blobs import Store
from tasks.cache.entries import REMEMBERED, Entries, Entry
from tasks.cache.housekeeping import inventory
from tasks.cache.keys import Ingredients, what_changed
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
        class_names=("ant", "bee"),
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

    with pytest.raises(EntryError, match="must be whole, written by this version"):
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

    with pytest.raises(EntryError, match=f"Received: the ingredients of {INGREDIENTS.key}"):
        entries.read(OTHERS.key)


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
        "A cached result must be whole, written by this version, and named by the digest of its "
        f"ingredients. Received: text and digest differ (in {path}). "
        "It is computed again when it is needed."
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

    assert entries.look_up(INGREDIENTS.key) != (None, "")
    assert path.stat().st_mtime > 0


class TestLookUp:
    """What is taken from the cache, and what is wrong with the rest."""

    @pytest.fixture
    def drawn(self, entries: Entries) -> Metrics:
        """A result with a stored array, kept."""
        metrics = store_metrics(np.zeros(2, np.float32), entries.store)
        entries.write(Entry.of(metrics, INGREDIENTS))
        return metrics

    def damage(self, entries: Entries) -> str:
        entry, damage = entries.look_up(INGREDIENTS.key)
        assert entry is None
        return damage

    def test_whole_entry_is_taken(self, entries: Entries, drawn: Metrics) -> None:
        entry, damage = entries.look_up(INGREDIENTS.key)

        assert entry is not None
        assert (drawn, "") == (entry.result, damage)

    def test_nothing_is_wrong_with_an_entry_that_is_not_there(self, entries: Entries) -> None:
        assert self.damage(entries) == ""

    def test_torn_entry(self, entries: Entries, drawn: Metrics) -> None:
        del drawn
        entries.path(INGREDIENTS.key).write_bytes(b"")

        assert self.damage(entries) == "corrupt: result"

    def test_lost_file(self, entries: Entries, drawn: Metrics) -> None:
        entries.store.path(drawn.probabilities).unlink()

        assert self.damage(entries) == "lost: probabilities"

    def test_truncated_file(self, entries: Entries, drawn: Metrics) -> None:
        os.truncate(entries.store.path(drawn.probabilities), 3)

        assert self.damage(entries) == "corrupt: probabilities"

    def test_file_that_was_set_aside(self, entries: Entries, drawn: Metrics) -> None:
        entries.store.set_aside(drawn.probabilities)

        assert self.damage(entries) == "corrupt: probabilities"

    def test_file_that_was_replaced_is_as_good_as_new(
        self, entries: Entries, drawn: Metrics
    ) -> None:
        entries.store.set_aside(drawn.probabilities)
        store_metrics(np.zeros(2, np.float32), entries.store)

        assert entries.look_up(INGREDIENTS.key)[1] == ""
        assert len(list(entries.store.blobs.iterdir())) == 1

    @pytest.mark.parametrize(("hours", "damage"), [(-1, ""), (1, "refresh")])
    def test_results_from_before_a_refresh_are_not_taken(
        self, store: Store, drawn: Metrics, hours: int, damage: str
    ) -> None:
        since = datetime.now(UTC) + timedelta(hours=hours)
        fresh = Entries(store.model_copy(update={"fresh_since": since}))

        entry, found = fresh.look_up(INGREDIENTS.key)

        assert damage == found
        assert (drawn if not damage else None) == (entry and entry.result)


class TestRememberedRuns:
    """What a stage's run is compared with."""

    def test_nothing_is_known_of_a_stage_that_never_ran(self, entries: Entries) -> None:
        entries.remember(INGREDIENTS.model_copy(update={"stage": "evaluate"}))

        assert entries.nearest(INGREDIENTS) is None

    def test_same_run_is_the_nearest(self, entries: Entries) -> None:
        for run in (INGREDIENTS, OTHERS):
            entries.remember(run)

        assert INGREDIENTS == entries.nearest(INGREDIENTS)

    def test_nearest_of_several_calls_differs_least(self, entries: Entries) -> None:
        """As of a sweep: each call is compared with its own earlier one."""
        for run in (INGREDIENTS, OTHERS):
            entries.remember(run)

        for run in (INGREDIENTS, OTHERS):
            assert run == entries.nearest(run.model_copy(update={"code": {"a.py": "2"}}))

    def test_latest_of_those_that_differ_as_much(self, entries: Entries) -> None:
        for number, run in enumerate((OTHERS, INGREDIENTS, OTHERS)):
            entries.remember(run)
            os.utime(entries.store.latest / "train" / run.key, (number, number))

        third = INGREDIENTS.model_copy(update={"inputs": {"epochs": 3}})
        assert OTHERS == entries.nearest(third)

    def test_only_the_latest_are_remembered(self, entries: Entries) -> None:
        for epochs in range(REMEMBERED + 5):
            entries.remember(INGREDIENTS.model_copy(update={"inputs": {"epochs": epochs}}))

        assert len(list((entries.store.latest / "train").iterdir())) == REMEMBERED

    @pytest.mark.parametrize("kept", [0, 64, -1])
    def test_torn_note_is_unknown(self, entries: Entries, kept: int) -> None:
        entries.remember(INGREDIENTS)
        note = entries.store.latest / "train" / INGREDIENTS.key
        note.write_bytes(note.read_bytes()[:kept])

        assert entries.nearest(INGREDIENTS) is None

    def test_note_with_foreign_fields_is_unknown(self, entries: Entries) -> None:
        entries.remember(INGREDIENTS)
        note = entries.store.latest / "train" / INGREDIENTS.key
        note.write_bytes(sealed(b'{"stage": "train", "key": "1"}'))

        assert entries.nearest(INGREDIENTS) is None

    def test_run_that_cannot_be_noted_is_only_not_told(self, entries: Entries) -> None:
        """As root every folder can be written to, so a file stands in its place."""
        entries.store.latest.rmdir()
        entries.store.latest.touch()

        entries.remember(INGREDIENTS)

        assert entries.nearest(INGREDIENTS) is None


ENTRIES = {
    type(result).__name__: Entry.of(result, INGREDIENTS).model_dump(mode="json")
    for result in RESULTS
}
HUGE, DIGITS = 2**50, 10**400
# A result, where in it, and what stands there instead.
FORGED: list[tuple[str, str, Any]] = [
    ("Metrics", "value.accuracy_fraction", "NaN"),
    ("Metrics", "value.accuracy_fraction", 1.5),
    ("Metrics", "value.accuracy_interval", ["NaN", 1]),
    ("Metrics", "value.loss", "NaN"),
    ("Metrics", "value.loss", "Infinity"),
    ("Metrics", "value.loss", 1e300),
    ("Metrics", "value.images", HUGE),
    ("Metrics", "value.images", DIGITS),
    ("Metrics", "value.images", -1),
    ("Metrics", "value.per_class.0.precision", "NaN"),
    ("Metrics", "value.per_class.0.images", DIGITS),
    ("Metrics", "value.confusion", [[2, 1], [0]]),
    ("Metrics", "value.confusion", [[2, 1]]),
    ("Metrics", "value.confusion.0.0", DIGITS),
    ("Metrics", "value.calibration_error", "NaN"),
    ("Metrics", "value.reliability.0.confidence", "Infinity"),
    ("Metrics", "value.mistakes.0.row", 3),
    ("Metrics", "value.mistakes.0.row", -4),
    ("Metrics", "value.mistakes.0.confidence", "NaN"),
    ("Metrics", "value.probabilities.shape", [HUGE, HUGE]),
    ("Metrics", "value.probabilities.shape", [-3, 2]),
    ("Metrics", "value.probabilities.sha256", "../../../etc/passwd"),
    ("Metrics", "value.probabilities.suffix", "/../../x"),
    ("Metrics", "value.probabilities.size_bytes", DIGITS),
    ("ModelRef", "value.history.0.loss", "NaN"),
    ("ModelRef", "value.history.0.accuracy_fraction", "-Infinity"),
    ("ModelRef", "value.parameters", DIGITS),
    ("DatasetRef", "value.name", "../../models/mine"),
    ("DatasetRef", "value.name", "a\x1b[2Jb"),
    ("DatasetRef", "value.name", ""),
    ("DatasetRef", "value.name", "a" * 300),
    ("DatasetRef", "value.channels", HUGE),
    ("DatasetRef", "value.class_names", []),
    ("DatasetRef", "value.height", 7),
    ("DatasetRef", "value.width", DIGITS),
    ("DatasetRef", "value.y_train.shape", [4]),
    ("Suspects", "value.found.0.row", 6),
    ("Suspects", "value.found.0.quality", "NaN"),
    ("Pictures", "value.drawn", {"../samples": PICTURE.model_dump()}),
    ("ValidationReport", "value.checks.1.rows", [DIGITS]),
    ("ValidationReport", "value.checks.1.rows", [-1]),
    ("ValidationReport", "value.checks.1.failing", -1),
    ("ValidationReport", "computed", "0001-01-01T00:00:00Z"),
    ("ValidationReport", "computed", "9999-12-31T23:59:59-12:00"),
    ("ValidationReport", "computed", "2026-11-20T10:00:00"),  # in no time zone
    ("ValidationReport", "computed", 1e300),
    ("ValidationReport", "computed", "NaN"),
    ("ValidationReport", "ingredients.stage", "../train"),
    ("ValidationReport", "ingredients.stage", "\x1b[2J"),
]


def forged(kind: str, place: str, value: Any) -> dict[str, Any]:
    """A whole entry with one thing replaced."""
    entry: dict[str, Any] = json.loads(json.dumps(ENTRIES[kind]))
    *names, last = place.split(".")
    at: Any = entry
    for name in names:
        at = at[int(name)] if name.isdigit() else at[name]
    at[int(last) if last.isdigit() else last] = value
    return entry


@pytest.mark.parametrize(("kind", "place", "value"), FORGED)
def test_sealed_entry_that_no_run_writes_is_a_miss(
    entries: Entries, kind: str, place: str, value: Any
) -> None:
    entry = forged(kind, place, value)
    key = INGREDIENTS.key
    if place.startswith("ingredients"):  # so that its name is right
        text = json.dumps(entry["ingredients"], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
    entries.path(key).write_bytes(sealed(json.dumps(entry).encode()))

    with pytest.raises(EntryError):
        entries.read(key)

    assert entries.look_up(key) == (None, "corrupt: result")
    assert [item.stage for item in inventory(entries)] == ["?"]


@pytest.mark.parametrize("kind", ENTRIES)
def test_whole_entry_is_none_of_these(entries: Entries, kind: str) -> None:
    """Or else the test above would show nothing."""
    content = sealed(json.dumps(forged(kind, "kind", kind)).encode())
    entries.path(INGREDIENTS.key).write_bytes(content)

    assert entries.read(INGREDIENTS.key).kind == kind


def test_entry_larger_than_any_is_not_read(entries: Entries) -> None:
    entries.path(INGREDIENTS.key).touch()
    os.truncate(entries.path(INGREDIENTS.key), 1 << 36)  # a hole, which takes no room

    assert entries.look_up(INGREDIENTS.key) == (None, "corrupt: result")


@pytest.mark.parametrize("seconds", [-(2**40), -1, 2**37, 2**62 // 10**9])
def test_result_with_an_absurd_time_of_use_is_listed(entries: Entries, seconds: int) -> None:
    entries.write(Entry.of(RESULTS[1], INGREDIENTS))
    os.utime(entries.path(INGREDIENTS.key), (seconds, seconds))

    (item,) = inventory(entries)

    assert 1969 <= item.used.astimezone().year <= 9999


INPUTS: list[Any] = [
    {"sha256": "a"},
    {"x": {"sha256": 1}},
    {"x": {"sha256": "a", "name": 7}},
    {"x": {"sha256": "a", "name": None, "file": []}},
    {"x": [{"sha256": "a", "name": ["b"]}, [[]], {}]},
    {"x": {"": {"1": DIGITS}}},
    {"x": [1, "a", None, [True, {"y": 1e300}]]},
    {},
]


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("other", INPUTS)
def test_any_inputs_can_be_compared(entries: Entries, inputs: Any, other: Any) -> None:
    earlier, now = (INGREDIENTS.model_copy(update={"inputs": each}) for each in (inputs, other))
    entries.remember(earlier)

    found = entries.nearest(now)

    assert earlier == found
    assert bool(what_changed(earlier, now)) == (inputs != other) or {} in (inputs, other)


@pytest.mark.parametrize(
    "text", [b"[]", b"null", b'"train"', b"7", b"[" * 10_000, b'{"stage": 7}', b"\xff"]
)
def test_note_of_another_type_is_unknown(entries: Entries, text: bytes) -> None:
    entries.remember(INGREDIENTS)
    (entries.store.latest / "train" / INGREDIENTS.key).write_bytes(sealed(text))

    assert entries.nearest(INGREDIENTS) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_entry_of_another_user_is_a_miss(entries: Entries) -> None:
    entries.write(Entry.of(REPORT, INGREDIENTS))
    os.chown(entries.path(INGREDIENTS.key), 12345, -1)

    assert entries.look_up(INGREDIENTS.key) == (None, "corrupt: result")


@pytest.mark.parametrize("name", ["halve", "Halve2", "_private", "größe"])
def test_stage_has_any_name_of_a_function(entries: Entries, name: str) -> None:
    ingredients = Ingredients(stage=name, code={}, libraries={}, inputs={})
    entries.write(Entry.of(REPORT, ingredients))

    assert entries.read(ingredients.key).ingredients == ingredients


def test_refresh_takes_nothing_that_claims_to_be_from_the_future(entries: Entries) -> None:
    entry = Entry.of(REPORT, INGREDIENTS)
    later = {"computed": datetime.now(UTC) + timedelta(days=2)}
    entries.write(entry.model_copy(update=later))
    since = datetime.now(UTC) - timedelta(hours=1)

    fresh = Entries(entries.store.model_copy(update={"fresh_since": since}))

    assert fresh.look_up(INGREDIENTS.key) == (None, "refresh")
