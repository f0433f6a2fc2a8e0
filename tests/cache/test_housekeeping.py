"""The command that looks after the cache: list, prune, verify, clear."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from builders import files_below, flip_bit, store_metrics

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries, Entry
from tasks.cache.housekeeping import Pruned, clear, damages, inventory, prune, stored_bytes
from tasks.cache.keys import Ingredients
from tasks.records import Metrics
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
    os.utime(store.results / ingredients.key, (used, used))
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
