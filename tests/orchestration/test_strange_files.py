"""Pipes, folders, links, sockets and devices in the place of a file: a miss, and never more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import Heard, files_below, settings_in
from own_stages import double, halve
from prefect import flow
from strange_files import EVERY_KIND, Kind, no_hanging, replace_by

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.orchestration.account import Account, CallRecord, listening
from tasks.orchestration.run import healing, stored_run
from tasks.records import StageRecord
from tasks.settings import RunSettings

pytestmark = pytest.mark.usefixtures("prefect_server")

UNCHANGED = {"halve": "unchanged", "double": "unchanged"}


def entry(store: Store, stage: str = "halve") -> Path:
    entries = Entries(store)
    (key,) = (key for key in entries if entries.read(key).ingredients.stage == stage)
    return entries.path(key)


def blob(store: Store, stage: str = "halve") -> Path:
    files = Entries(store).read(entry(store, stage).name).result.stored_files()
    return store.path(files["probabilities"])


def note(store: Store) -> Path:
    return store.latest / "halve" / entry(store).name


def lock(store: Store) -> Path:
    return store.locks / entry(store).name


def aside(store: Store) -> Path:
    """Where a damaged file is moved; one is damaged."""
    damaged = blob(store)
    os.truncate(damaged, 3)
    return store.blobs / f"{damaged.stem}.damaged.partial"


def checkpoints(store: Store) -> Path:
    return store.checkpoints / entry(store).name


def abandoned(store: Store) -> Path:
    return store.blobs / "abandoned.partial"


PLACES: dict[Callable[[Store], Path], dict[str, str]] = {
    entry: UNCHANGED | {"halve": "corrupt: result"},
    blob: UNCHANGED | {"halve": "corrupt: probabilities"},
    note: UNCHANGED,
    lock: UNCHANGED,
    aside: UNCHANGED | {"halve": "corrupt: probabilities"},
    checkpoints: UNCHANGED,
    abandoned: UNCHANGED,
}


def halve_and_double(
    settings: RunSettings, between: Callable[[Store], None] = lambda _: None
) -> tuple[float, dict[str, str]]:
    """Half of 8, doubled, and the reason of each stage."""
    results = []

    @flow(persist_result=False)
    @healing
    def own_flow() -> None:
        with stored_run(settings) as store:
            halved = halve(8.0, store)
            between(store)
            doubled = double(halved, store)
            results.append(float(np.array(store.open_array(doubled.probabilities))[0]))

    with listening(heard := Heard()), no_hanging():
        own_flow()
    return results[-1], {name: record.why for name, record in heard.stages.items()}


@pytest.fixture(scope="module")
def used_once(
    prefect_server: None,  # noqa: ARG001 - must be up before the run
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A cache in which both results are, not to be changed."""
    settings = settings_in(tmp_path_factory.mktemp("used"))
    halve_and_double(settings)
    return settings.cache_root


@pytest.fixture
def used(used_once: Path, settings: RunSettings) -> Store:
    """A copy of it."""
    return Store(root=shutil.copytree(used_once, settings.cache_root))


@EVERY_KIND
@pytest.mark.parametrize("place", PLACES, ids=[place.__name__ for place in PLACES])
def test_run_computes_again_what_something_strange_stands_for(
    kind: Kind, place: Callable[[Store], Path], used: Store, settings: RunSettings
) -> None:
    replace_by(kind, place(used))

    assert halve_and_double(settings) == (8.0, PLACES[place])
    assert halve_and_double(settings) == (8.0, UNCHANGED)


@EVERY_KIND
def test_file_that_is_replaced_while_a_run_goes_on_is_computed_again(
    kind: Kind, used: Store, settings: RunSettings
) -> None:
    entry(used, "double").unlink()
    place, times = blob(used), iter([1])

    def strike(_: Store) -> None:
        for _ in times:  # once
            replace_by(kind, place)

    result, reasons = halve_and_double(settings, strike)

    assert (result, reasons["halve"]) == (8.0, "corrupt: probabilities")
    assert place.is_file()
    assert not place.is_symlink()


@EVERY_KIND
def test_account_of_a_run_is_kept_whatever_stood_in_its_place(kind: Kind, store: Store) -> None:
    replace_by(kind, store.accounts / "run.partial")
    account = Account(store, "run")
    record = StageRecord(state="cached", seconds=0.5, why="unchanged")

    with no_hanging():
        account.begin()
        account.add(CallRecord(stage="load", started=2e10, record=record))

    assert account.stages() == {"load": record}


@EVERY_KIND
def test_account_that_is_replaced_while_a_run_goes_on_is_only_not_told(
    kind: Kind, store: Store
) -> None:
    account = Account(store, "run")
    account.begin()
    replace_by(kind, store.accounts / "run.partial")

    with no_hanging():
        account.add(CallRecord(stage=None, started=1))
        assert account.stages() == {}
        account.remove()
    assert [path for path in store.accounts.iterdir() if path.name == "run.partial"] == []


def test_unfinished_model_goes_after_a_day(settings: RunSettings) -> None:
    """Other runs, with another cache, may write into the same folder."""
    reports = settings.model_root / "reports"
    reports.mkdir(parents=True)
    for name, written in (("tmp12345678", 0), ("tmp87654321", 2e10), ("thesis", 0)):
        (reports / f"{name}.partial").touch()
        os.utime(reports / f"{name}.partial", (written, written))

    halve_and_double(settings)

    assert {"tmp87654321.partial", "thesis.partial"} == files_below(reports)
