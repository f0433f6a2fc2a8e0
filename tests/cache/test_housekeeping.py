"""The command that looks after the cache: list, prune, verify, clear."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from builders import files_below, flip_bit, store_metrics
from strange_files import EVERY_KIND, Kind, no_hanging, replace_by

from tasks.cache.blobs import Store
from tasks.cache.checkpoints import Checkpoint, Checkpoints
from tasks.cache.entries import Entries, Entry
from tasks.cache.housekeeping import (
    Item,
    Pruned,
    clear,
    damages,
    inventory,
    prune,
    stored_bytes,
    sweep,
)
from tasks.cache.keys import Ingredients
from tasks.cache.sharing import held, run_under_way
from tasks.records import EpochMetrics, Metrics
from tasks.settings import RunSettings
from tasks.terminal.cache_command import main
from tasks.terminal.preload import remember

DAY_SECONDS = 24 * 3600
FLOATS = 1000
FILE_BYTES = 128 + 4 * FLOATS  # an .npy header and the values


def ingredients_of(stage: str) -> Ingredients:
    return Ingredients(stage=stage, code={}, libraries={}, inputs={})


def keep(store: Store, stage: str, *, content: float, used_days_ago: float = 0) -> str:
    """Store a result with one file of FILE_BYTES; returns its key."""
    metrics = store_metrics(np.full(FLOATS, content, np.float32), store)
    ingredients = ingredients_of(stage)
    Entries(store).write(Entry.of(metrics, ingredients))
    used = time.time() - used_days_ago * DAY_SECONDS
    for path in (store.results / ingredients.key, store.path(metrics.probabilities)):
        os.utime(path, (used, used))
    return ingredients.key


def file_of(store: Store, key: str) -> Path:
    result = Entries(store).read(key).result
    assert isinstance(result, Metrics)
    return store.path(result.probabilities)


def stages_in(store: Store) -> list[str]:
    return [item.stage for item in inventory(Entries(store))]


def call(store: Store, *arguments: str) -> int:
    return main(["--cache-dir", str(store.root), *arguments])


def test_inventory_gives_what_was_used_last_first(store: Store) -> None:
    keep(store, "old", content=1, used_days_ago=3)
    keep(store, "new", content=2)
    keep(store, "older", content=3, used_days_ago=5)
    assert stages_in(store) == ["new", "old", "older"]


def test_inventory_gives_the_size_of_a_result(store: Store) -> None:
    keep(store, "evaluate", content=1)
    assert [item.size_bytes for item in inventory(Entries(store))] == [FILE_BYTES]


def test_torn_result_is_listed_without_a_stage(store: Store) -> None:
    key = keep(store, "evaluate", content=1)
    (store.results / key).write_text("{")
    assert stages_in(store) == ["?"]


def test_pruning_by_age_removes_what_was_not_used_for_longer(store: Store) -> None:
    keep(store, "kept", content=1, used_days_ago=9)
    gone = file_of(store, keep(store, "gone", content=2, used_days_ago=11))
    assert prune(Entries(store), max_age=timedelta(days=10)) == Pruned(1, 1, FILE_BYTES)
    assert stages_in(store) == ["kept"]
    assert not gone.exists()


def test_pruning_by_size_removes_what_was_used_longest_ago(store: Store) -> None:
    for number, stage in enumerate(["a", "b", "c"]):
        keep(store, stage, content=number, used_days_ago=number)
    prune(Entries(store), max_bytes=2 * FILE_BYTES + 1)
    assert stages_in(store) == ["a", "b"]
    assert stored_bytes(store) == 2 * FILE_BYTES


def test_file_that_a_kept_result_shares_is_kept(store: Store) -> None:
    shared = file_of(store, keep(store, "kept", content=1))
    keep(store, "gone", content=1, used_days_ago=2)
    assert prune(Entries(store), max_age=timedelta(days=1)) == Pruned(1, 0, 0)
    assert shared.exists()


def test_file_that_a_run_may_be_about_to_name_is_kept(store: Store) -> None:
    store.put_array(np.zeros(3))
    assert prune(Entries(store), max_bytes=0) == Pruned(0, 0, 0)


def test_file_that_no_result_names_goes_after_an_hour(store: Store) -> None:
    path = store.path(store.put_array(np.zeros(3)))
    os.utime(path, (time.time() - 3700,) * 2)
    assert prune(Entries(store), max_bytes=0).files == 1
    assert not path.exists()


def test_pruning_by_an_age_beyond_all_times_keeps_everything(store: Store) -> None:
    keep(store, "evaluate", content=1)
    assert prune(Entries(store), max_age=timedelta(days=999_999)) == Pruned(0, 0, 0)


def test_pruning_by_no_age_at_all_removes_everything(store: Store) -> None:
    keep(store, "evaluate", content=1, used_days_ago=0.001)
    assert call(store, "prune", "--max-age", "0h") == 0
    assert stages_in(store) == []


def test_pruning_to_no_size_at_all_removes_everything(store: Store) -> None:
    keep(store, "evaluate", content=1)
    assert call(store, "prune", "--max-size", "0") == 0
    assert stages_in(store) == []


def note(store: Store, number: int, *, used_days_ago: float = 0) -> Path:
    """A note of settings that have run through, as the program leaves it."""
    path = store.root / "warm" / f"{number:032x}"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    used = time.time() - used_days_ago * DAY_SECONDS
    os.utime(path, (used, used))
    return path


def test_pruning_by_age_removes_notes_that_were_not_used_for_longer(store: Store) -> None:
    kept, gone = note(store, 1, used_days_ago=9), note(store, 2, used_days_ago=11)
    prune(Entries(store), max_age=timedelta(days=10))
    assert kept.exists()
    assert not gone.exists()


def test_pruning_by_size_keeps_the_fifty_newest_notes(store: Store) -> None:
    notes = [note(store, number, used_days_ago=number) for number in range(52)]
    prune(Entries(store), max_bytes=0)
    assert [path.exists() for path in notes] == [True] * 50 + [False] * 2


def test_program_keeps_the_fifty_newest_notes(store: Store) -> None:
    oldest = [note(store, number, used_days_ago=number) for number in range(1, 51)][-1]
    remember(RunSettings(cache_dir=store.root))
    assert len(list((store.root / "warm").iterdir())) == 50
    assert not oldest.exists()


def test_what_is_not_a_file_of_ours_is_left_alone(store: Store) -> None:
    (store.blobs / f"{'0' * 64}.npy").symlink_to("nowhere")
    (store.blobs / f"{'1' * 64}.npy").mkdir()
    assert list(damages(Entries(store))) == []
    assert prune(Entries(store), max_bytes=0) == Pruned(0, 0, 0)
    assert stored_bytes(store) == 0


def test_torn_result_is_pruned_by_age(store: Store) -> None:
    key = keep(store, "evaluate", content=1)
    (store.results / key).write_text("{")
    os.utime(store.results / key, (0, 0))
    assert prune(Entries(store), max_age=timedelta(days=1)).results == 1


def test_intact_store_has_no_damage(store: Store) -> None:
    keep(store, "evaluate", content=1)
    assert list(damages(Entries(store))) == []


def test_missing_file_is_named_with_its_stage(store: Store) -> None:
    path = file_of(store, keep(store, "evaluate", content=1))
    path.unlink()
    assert list(damages(Entries(store))) == [f"evaluate: probabilities is missing ({path})"]


def test_altered_file_is_named(store: Store) -> None:
    path = file_of(store, keep(store, "evaluate", content=1))
    flip_bit(path)
    assert list(damages(Entries(store))) == [f"{path} is altered: its SHA-256 is not its name"]


@EVERY_KIND
def test_verify_names_what_is_no_file(store: Store, kind: Kind) -> None:
    place = file_of(store, keep(store, "evaluate", content=1))
    replace_by(kind, place)

    with no_hanging():
        (line,) = damages(Entries(store))

    assert line.startswith("evaluate: probabilities is ")
    assert str(place) in line


def test_what_is_removed_meanwhile_is_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, "evaluate", content=1)
    clearing = Thread(target=clear, args=[store])

    def cleared_after(entries: Entries) -> list[Item]:
        items = inventory(entries)
        monkeypatch.undo()
        clearing.start()
        clearing.join(0.2)  # it waits, or has cleared everything
        return items

    monkeypatch.setattr("tasks.cache.housekeeping.inventory", cleared_after)

    assert list(damages(Entries(store))) == []
    clearing.join()
    assert stages_in(store) == []


def test_torn_result_is_named(store: Store) -> None:
    key = keep(store, "evaluate", content=1)
    (store.results / key).write_text("{")
    (line,) = damages(Entries(store))
    assert str(store.results / key) in line


def test_clearing_keeps_downloads_and_what_is_not_ours(store: Store) -> None:
    keep(store, "evaluate", content=1)
    others = {"downloads/kmnist/t10k-labels-idx1-ubyte.gz", "notes.txt", "results/paper.csv"}
    for path in others:
        (store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (store.root / path).write_text("mine")
    clear(store)
    assert files_below(store.root) == others


def test_clearing_removes_what_is_noted_of_the_latest_runs(store: Store) -> None:
    for path in ("latest/train", "latest/stage2", f"latest/load/{'a' * 64}"):
        (store.root / path).parent.mkdir(exist_ok=True)
        (store.root / path).write_text("ours")
    note(store, 1)
    others = {"latest/2nd", "latest/load/notes.txt", f"latest/Mine/{'a' * 64}", "warm/notes.txt"}
    for path in others:
        (store.root / path).parent.mkdir(exist_ok=True)
        (store.root / path).write_text("mine")
    clear(store)
    assert files_below(store.root) == others


def test_clearing_does_not_follow_a_link(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ("a" * 64)).touch()
    (store.latest / "train").symlink_to(elsewhere)
    clear(store)
    assert files_below(elsewhere) == {"a" * 64}


def test_list_shows_each_result_and_the_sum(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    key = keep(store, "evaluate", content=1)
    assert call(store, "list") == 0
    header, row, total = capsys.readouterr().out.splitlines()
    assert header.split() == ["stage", "computed", "last", "used", "size", "key"]
    assert [row.split()[0], *row.split()[-2:]] == ["evaluate", "4.1KB", key[:12]]
    assert total == f"1 result, 4.1KB in {store.root}"


@pytest.mark.parametrize("command", ["list", "verify", "clear"])
def test_cache_that_is_not_there_is_empty(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(Store(root=tmp_path / "nowhere"), command) == 0
    assert "0B" in capsys.readouterr().out
    assert not (tmp_path / "nowhere").exists()


def test_folder_comes_from_the_environment(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_CACHE_DIR", str(store.root))
    assert main(["list"]) == 0
    assert str(store.root) in capsys.readouterr().out


def test_verify_fails_on_damage_and_says_what_follows(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(file_of(store, keep(store, "evaluate", content=1)))
    assert call(store, "verify") == 1
    out = capsys.readouterr().out
    assert out.endswith("1 damaged. The next run that needs them computes them again.\n")


def test_prune_says_what_it_removed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    keep(store, "evaluate", content=1, used_days_ago=2)
    assert call(store, "prune", "--max-age", "1d", "--max-size", "1GB") == 0
    assert capsys.readouterr().out.startswith("1 result and 1 file removed, 4.1KB.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "needs --max-size, --max-age or both"),
        (["prune", "--max-size", "2XB"], "a size such as 2GB or 500MB, not '2XB'"),
        (["prune", "--max-age", "30"], "an age such as 30d, 12h or 2w, not '30'"),
        (["--cache-dir", "", "clear"], "a folder must not be empty"),
        (["tidy"], "invalid choice: 'tidy'"),
    ],
)
def test_wrong_call_is_refused(
    arguments: list[str], message: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        call(store, *arguments)
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err


OTHER_KEY = 64 * "e"
METRICS = EpochMetrics(loss=0.5, accuracy_fraction=0.5)


def cut_off(store: Store, key: str = OTHER_KEY, *, days_ago: float = 0) -> Checkpoints:
    """What a training leaves that was killed while it wrote its second checkpoint."""
    checkpoints = Checkpoints(store, key)
    checkpoints.write(Checkpoint((METRICS,), [np.zeros(100)]))
    (checkpoints.folder / "tmp12345678.partial").touch()
    written = time.time() - days_ago * DAY_SECONDS
    os.utime(checkpoints.folder / "000001", (written, written))
    return checkpoints


def looked_up(store: Store, key: str) -> str:
    """Use a result, as a run does; returns what is wrong with it."""
    return Entries(store).look_up(key)[1]


class TestWhatKilledRunsLeave:
    """Swept up by the next run, and by `mnist-cache prune`."""

    @pytest.fixture(params=["the next run", "prune"])
    def sweep_up(self, request: pytest.FixtureRequest, store: Store) -> Callable[[], None]:
        if request.param == "prune":
            return lambda: prune(Entries(store), max_bytes=10**9) and None
        return lambda: sweep(Entries(store))

    def test_checkpoints_of_a_complete_training_go(
        self, store: Store, sweep_up: Callable[[], None]
    ) -> None:
        done = cut_off(store, keep(store, "train", content=1))
        sweep_up()
        assert not done.folder.exists()

    def test_checkpoints_of_others_stay_without_the_unfinished_file(
        self, store: Store, sweep_up: Callable[[], None]
    ) -> None:
        cut_off(store)
        sweep_up()
        assert files_below(store.checkpoints) == {f"{OTHER_KEY}/000001"}

    def test_checkpoints_whose_result_is_damaged_stay(
        self, store: Store, sweep_up: Callable[[], None]
    ) -> None:
        key = keep(store, "train", content=1)
        file_of(store, key).unlink()
        cut_off(store, key)
        sweep_up()
        assert files_below(store.checkpoints) == {f"{key}/000001"}

    def test_folder_without_a_checkpoint_goes(
        self, store: Store, sweep_up: Callable[[], None]
    ) -> None:
        unfinished = cut_off(store)
        (unfinished.folder / "000001").unlink()
        sweep_up()
        assert list(store.checkpoints.iterdir()) == []

    def test_training_that_goes_on_keeps_its_own(
        self, store: Store, sweep_up: Callable[[], None]
    ) -> None:
        """As with `--refresh`, beside the earlier result."""
        running = cut_off(store, keep(store, "train", content=1))
        with held(store.locks / running.key, pytest.fail):
            sweep_up()
        assert len(list(running.folder.iterdir())) == 2

    @pytest.mark.parametrize("name", [OTHER_KEY, f"{32 * 'e'}.run"])
    def test_lock_file_that_nobody_holds_goes(
        self, store: Store, sweep_up: Callable[[], None], name: str
    ) -> None:
        (store.locks / name).touch()
        (store.locks / "notes.txt").touch()
        sweep_up()
        assert files_below(store.locks) == {"notes.txt"}

    def test_lock_that_is_held_stays(self, store: Store, sweep_up: Callable[[], None]) -> None:
        with held(store.locks / OTHER_KEY, pytest.fail), run_under_way(store):
            before = files_below(store.locks)
            sweep_up()
            assert len(before) == 2
            assert files_below(store.locks) == before

    @EVERY_KIND
    @pytest.mark.parametrize("name", ["blobs", "results", "accounts", "latest/train", "digests"])
    def test_unfinished_file_goes_whatever_it_is(
        self, store: Store, kind: Kind, name: str, sweep_up: Callable[[], None]
    ) -> None:
        partial = store.root / name / "tmp12345678.partial"
        partial.parent.mkdir(exist_ok=True)
        replace_by(kind, partial)
        sweep_up()
        assert not os.path.lexists(partial)

    def test_file_that_a_run_may_be_writing_stays(
        self, store: Store, sweep_up: Callable[[], None]
    ) -> None:
        old, new = store.blobs / "old.partial", store.blobs / "new.partial"
        old.touch()
        os.utime(old, (time.time() - 1,) * 2)
        with run_under_way(store):
            new.touch()
            sweep_up()
            assert (old.exists(), new.exists()) == (False, True)
        sweep_up()
        assert not new.exists()

    def test_link_to_a_folder_goes_without_what_is_in_it(
        self, store: Store, tmp_path: Path, sweep_up: Callable[[], None]
    ) -> None:
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "tmp12345678.partial").touch()
        (store.blobs / "old.partial").symlink_to(mine)
        (store.latest / "train").symlink_to(mine)
        sweep_up()
        assert files_below(mine) == {"tmp12345678.partial"}
        assert list(store.blobs.iterdir()) == []

    def test_damaged_file_stays_for_a_day(self, store: Store, sweep_up: Callable[[], None]) -> None:
        """The run that computes it again says why, however old it was."""
        ref = store.put_array(np.zeros(3))
        os.utime(store.path(ref), (0, 0))
        store.set_aside(ref)
        sweep_up()
        assert (store.holds(ref), store.is_altered(ref)) == (False, True)
        for path in store.blobs.iterdir():
            os.utime(path, (0, 0))
        sweep_up()
        assert not store.is_altered(ref)


class TestCounts:
    """What `list`, `prune` and `clear` print."""

    def test_training_to_go_on_with_is_listed(
        self, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cut_off(store)
        call(store, "list")
        assert "1 training to go on with" in capsys.readouterr().out

    def test_complete_or_empty_training_is_not_listed(
        self, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cut_off(store, keep(store, "train", content=1))
        (cut_off(store).folder / "000001").unlink()
        (store.checkpoints / (64 * "f")).touch()
        call(store, "list")
        assert "to go on with" not in capsys.readouterr().out

    def test_checkpoints_count_as_what_is_stored(self, store: Store) -> None:
        size = cut_off(store).size_bytes()
        assert size > 800
        assert stored_bytes(store) == size

    def test_pruned_training_is_counted(
        self, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        size = cut_off(store, days_ago=2).size_bytes()
        call(store, "prune", "--max-age", "1d")
        out = capsys.readouterr().out
        assert out.startswith("0 results, 0 files and 1 training to go on with removed, ")
        assert stored_bytes(store) == 0 < size

    @pytest.mark.parametrize("remove", [lambda store: prune(Entries(store), max_bytes=0), clear])
    def test_what_another_command_has_removed_is_not_counted(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, remove: Callable[[Store], Pruned]
    ) -> None:
        keep(store, "evaluate", content=1)

        def too_late(path: Path) -> bool:
            path.unlink()
            return False

        monkeypatch.setattr("tasks.cache.housekeeping.remove", too_late)
        assert remove(store) == Pruned()

    def test_clearing_says_what_it_removed(
        self, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        keep(store, "evaluate", content=1)
        call(store, "clear")
        assert capsys.readouterr().out == (
            f"4.1KB removed from {store.root}. Downloaded datasets stay.\n"
        )


@pytest.mark.parametrize("remove", [lambda store: prune(Entries(store), max_bytes=0), clear])
class TestWhileARunGoesOn:
    """What a run has used stays; what it has not goes."""

    def test_result_that_was_used_stays_with_its_file(
        self, store: Store, remove: Callable[[Store], Pruned]
    ) -> None:
        used = keep(store, "used", content=1, used_days_ago=2)
        keep(store, "unused", content=2, used_days_ago=1)
        with run_under_way(store):
            assert looked_up(store, used) == ""
            assert remove(store) == Pruned(1, 1, FILE_BYTES)
            assert looked_up(store, used) == ""
        assert remove(store) == Pruned(1, 1, FILE_BYTES)

    def test_file_that_no_result_names_yet_stays(
        self, store: Store, remove: Callable[[Store], Pruned]
    ) -> None:
        old = store.put_array(np.zeros(3))
        os.utime(store.path(old), (0, 0))
        with run_under_way(store):
            new = store.put_array(np.ones(3))
            remove(store)
        assert (store.holds(new), store.holds(old)) == (True, False)

    def test_training_that_goes_on_keeps_its_checkpoints(
        self, store: Store, remove: Callable[[Store], Pruned]
    ) -> None:
        running = cut_off(store)
        with held(store.locks / running.key, pytest.fail), run_under_way(store):
            remove(store)
        assert running.size_bytes()

    def test_two_runs_keep_what_the_first_of_them_used(
        self, store: Store, remove: Callable[[Store], Pruned]
    ) -> None:
        used = keep(store, "used", content=1, used_days_ago=2)
        with run_under_way(store):
            looked_up(store, used)
            with run_under_way(store):
                pass
            assert remove(store) == Pruned()

    def test_run_that_was_killed_keeps_nothing(
        self, store: Store, remove: Callable[[Store], Pruned]
    ) -> None:
        (store.locks / f"{32 * 'e'}.run").touch()
        keep(store, "evaluate", content=1)
        assert remove(store) == Pruned(1, 1, FILE_BYTES)


@pytest.mark.parametrize("command", [["clear"], ["prune", "--max-size", "0"]])
def test_command_says_that_something_is_in_use(
    store: Store, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with run_under_way(store):
        key = keep(store, "evaluate", content=1)
        assert call(store, *command) == 0
    assert looked_up(store, key) == ""
    assert "what a run uses that is under way" in capsys.readouterr().out
