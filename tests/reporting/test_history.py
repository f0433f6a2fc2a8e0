"""The history of accuracies: which runs count, in which order, and what is skipped."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from builders import FullDisk
from strange_files import Kind, device, no_hanging, pipe, replace_by
from strange_files import folder as strange_folder

from tasks.errors import StoreError
from tasks.reporting.history import CompletedRun, append_run, earlier_accuracies


def run(accuracy: float, model: str = "mlp", dataset: str = "mnist") -> CompletedRun:
    return CompletedRun(
        dataset=dataset,
        model=model,
        accuracy=accuracy,
        loss=0.25,
        weights_sha256=64 * "a",
        finished=datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC),
        run_name="a-run",
        run_id="1234",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder in which two runs have completed."""
    append_run(tmp_path, run(0.5))
    append_run(tmp_path, run(0.75))
    return tmp_path


def add(folder: Path, content: bytes) -> None:
    with (folder / "history.jsonl").open("ab") as file:
        file.write(content)


def test_first_run_has_no_history(tmp_path: Path) -> None:
    assert () == earlier_accuracies(tmp_path, "mnist", "mlp")


def test_accuracies_come_the_oldest_first(folder: Path) -> None:
    assert (0.5, 0.75) == earlier_accuracies(folder, "mnist", "mlp")


def test_history_is_that_of_one_dataset_and_one_model(folder: Path) -> None:
    append_run(folder, run(1.0, model="cnn"))
    append_run(folder, run(1.0, dataset="kmnist"))

    assert (0.5, 0.75) == earlier_accuracies(folder, "mnist", "mlp")


@pytest.mark.parametrize("kind", [pipe, device, strange_folder])
def test_what_is_no_file_is_named_and_nobody_waits_for_it(folder: Path, kind: Kind) -> None:
    replace_by(kind, folder / "history.jsonl")

    with no_hanging(), pytest.raises(StoreError, match=r"no regular file \(in .*history.jsonl\)"):
        append_run(folder, run(1.0))
    assert () == earlier_accuracies(folder, "mnist", "mlp")


def test_latest_thirty_runs_count(folder: Path) -> None:
    for number in range(30):
        append_run(folder, run(number / 100))

    assert tuple(number / 100 for number in range(30)) == earlier_accuracies(folder, "mnist", "mlp")


def test_run_is_a_line_of_json(tmp_path: Path) -> None:
    append_run(tmp_path, run(0.5))

    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "dataset": "mnist",
        "model": "mlp",
        "accuracy": 0.5,
        "loss": 0.25,
        "weights_sha256": 64 * "a",
        "finished": "2026-11-24T01:02:03Z",
        "run_name": "a-run",
        "run_id": "1234",
    }


@pytest.mark.parametrize(
    "foreign",
    [
        b"\n",
        b"\xff\xfe\n",
        b'{"accuracy":0.9}\n',
        run(0.9).model_dump_json().replace("0.9", "90").encode() + b"\n",  # no fraction
        run(0.9).model_dump_json().replace("0.9", "NaN").encode() + b"\n",
    ],
)
def test_foreign_line_is_skipped(folder: Path, foreign: bytes) -> None:
    add(folder, foreign)

    append_run(folder, run(0.875))

    assert (0.5, 0.75, 0.875) == earlier_accuracies(folder, "mnist", "mlp")


def test_run_after_a_torn_line_counts(folder: Path) -> None:
    add(folder, run(0.9).model_dump_json().encode()[:60])

    append_run(folder, run(0.875))

    assert (0.5, 0.75, 0.875) == earlier_accuracies(folder, "mnist", "mlp")


def test_runs_that_complete_at_the_same_time_all_count(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: append_run(tmp_path, run(0.5)), range(200)))

    lines = (tmp_path / "history.jsonl").read_bytes().splitlines()
    assert 200 == len(lines)
    assert {run(0.5)} == {CompletedRun.model_validate_json(line) for line in lines}


def test_line_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the lines of two processes are never mixed: no buffer lies in between."""
    written: list[bytes] = []

    class Watched(FullDisk):
        def write(self, content: object) -> int:
            written.append(bytes(content))  # type: ignore[call-overload]
            return len(written[-1])

    monkeypatch.setattr(Path, "open", lambda path, mode, **_: Watched(path, mode))

    append_run(tmp_path, run(0.5))

    assert [run(0.5).model_dump_json().encode() + b"\n"] == written


def test_history_can_be_read_by_others(tmp_path: Path) -> None:
    usual = os.umask(0o077)
    try:
        append_run(tmp_path, run(0.5))
    finally:
        os.umask(usual)

    assert 0o644 == stat.S_IMODE((tmp_path / "history.jsonl").stat().st_mode)


def test_full_disk_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", lambda path, mode, **_: FullDisk(path, mode))

    with pytest.raises(StoreError, match=r"Free some space .* --model-dir"):
        append_run(tmp_path, run(0.5))


def test_folder_in_its_place_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").mkdir()

    assert () == earlier_accuracies(tmp_path, "mnist", "mlp")
    with pytest.raises(StoreError, match="--model-dir"):
        append_run(tmp_path, run(0.5))
