"""What is shown while stages run, on a terminal and in a file."""

from __future__ import annotations

import threading
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tasks.records import EpochMetrics, RunSummary, StageRecord
from tasks.terminal.display import Display, print_error, print_summary

COMPUTED = StageRecord(state="computed", seconds=1.25, why="first run")
CACHED = StageRecord(state="cached", seconds=0.0, why="unchanged")
FAILED = StageRecord(state="failed", seconds=0.5, why="see the error")
LONG = StageRecord(state="computed", seconds=1.25, why="code: " + "tasks/load.py, " * 9 + "end")
METRICS = EpochMetrics(loss=0.25, accuracy_fraction=0.5)


def shown_on(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def console_of(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> Console:
    console = Console(
        file=StringIO(), force_terminal=terminal, width=72, color_system=None, highlight=False
    )
    monkeypatch.setattr("tasks.terminal.display.console", console)
    return console


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    return console_of(monkeypatch, terminal=True)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Console:
    return console_of(monkeypatch, terminal=False)


def under_way(display: Display, console: Console) -> list[list[str]]:
    """The lines of what is under way, as words."""
    with console.capture() as captured:
        console.print(display.progress.get_renderable())
    return [line.split() for line in captured.get().splitlines() if line.strip()]


def test_run_that_can_be_watched_says_where_before_its_stages_start(pipe: Console) -> None:
    display = Display()
    display.run_started("not-to-be-watched")
    display.pages = "http://127.0.0.1:4200"
    display.run_started("0198")
    assert shown_on(pipe) == "  watch it at http://127.0.0.1:4200/runs/flow-run/0198\n"


def test_finished_stage_is_a_line_in_columns_that_fit_the_longest_name(pipe: Console) -> None:
    display = Display()
    display.stage_finished("load", CACHED)
    display.stage_finished("illustrate_data", COMPUTED)
    assert shown_on(pipe) == (
        "  load             cached      0.00 s  unchanged\n"
        "  illustrate_data  computed    1.25 s  first run\n"
    )


def test_long_reason_wraps_inside_its_column_on_a_terminal(terminal: Console) -> None:
    Display().stage_finished("load", LONG)
    first, *others = shown_on(terminal).splitlines()
    assert first.startswith("  load             computed    1.25 s  code: tasks/load.py,")
    assert len(others) > 1
    assert {len(line) - len(line.lstrip()) for line in others} == {39}
    assert max(len(line) for line in [first, *others]) <= 72


def test_long_reason_stays_on_one_line_in_a_file(pipe: Console) -> None:
    Display().stage_finished("load", LONG)
    (line,) = shown_on(pipe).splitlines()
    assert line.endswith("  code: " + "tasks/load.py, " * 9 + "end")


def test_reason_is_shown_as_it_is(pipe: Console) -> None:
    """Square brackets are markup to rich."""
    record = COMPUTED.model_copy(update={"why": "library: pandera[xarray], [bold]"})
    Display().stage_finished("load", record)
    assert "library: pandera[xarray], [bold]\n" in shown_on(pipe)


def test_each_stage_under_way_has_a_line_of_its_own(terminal: Console) -> None:
    display = Display()
    for name in ("train", "illustrate_data", "validate"):
        display.stage_started(name)
    display.stage_finished("illustrate_data", COMPUTED)
    assert ["train", "validate"] == [words[1] for words in under_way(display, terminal)]


def test_line_of_the_run_gives_way_to_the_first_stage(terminal: Console) -> None:
    display = Display()
    display.waiting("Prefect's server starts")
    assert ["Prefect's", "server", "starts"] == under_way(display, terminal)[0][1:4]
    display.stage_started("load")
    assert ["load"] == [words[1] for words in under_way(display, terminal)]


def in_a_thread(*calls: tuple[object, ...]) -> None:
    def run() -> None:
        for method, *arguments in calls:
            assert callable(method)
            method(*arguments)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_wait_and_progress_are_shown_with_the_stage_of_the_thread(terminal: Console) -> None:
    display = Display()
    in_a_thread((display.stage_started, "train"), (display.trained, 0.5, 2))
    in_a_thread((display.stage_started, "suspect"), (display.trained, 3.0, 4))
    in_a_thread((display.stage_started, "load"), (display.waiting, "waiting for another run"))
    assert {"train": (0.5, 2), "suspect": (3.0, 4), "load": (0, None)} == {
        task.description.split()[0]: (task.completed, task.total) for task in display.progress.tasks
    }
    assert "waiting for another run" in " ".join(under_way(display, terminal)[-1])


def test_epoch_is_shown_beside_the_bar_of_the_training(terminal: Console) -> None:
    display = Display()
    in_a_thread((display.stage_started, "illustrate_data"))
    in_a_thread((display.stage_started, "train"), (display.epoch_finished, 7, 12, METRICS))
    assert "train epoch 7/12 loss 0.2500 accuracy 0.5000" in " ".join(
        under_way(display, terminal)[1]
    )


def test_epoch_is_a_line_in_a_file(pipe: Console) -> None:
    display = Display()
    display.stage_started("train")
    display.resumed(2, 12)
    display.epoch_finished(3, 12, METRICS)
    assert shown_on(pipe) == (
        "  train            goes on after epoch 2/12 of an earlier run\n"
        "  train            epoch  3/12  loss 0.2500  accuracy 0.5000\n"
    )


def test_only_a_wait_is_said_in_a_file(pipe: Console) -> None:
    display = Display()
    display.waiting("Prefect's server starts")
    display.waiting("waiting for the Prefect server at http://[::1]:4200/api")
    assert shown_on(pipe) == "  waiting for the Prefect server at http://[::1]:4200/api\n"


def test_later_record_of_a_stage_replaces_the_earlier_one(
    pipe: Console,  # noqa: ARG001 - where it is shown
) -> None:
    """A run that heals a damaged file runs the flow's body again."""
    display = Display()
    for name, record in (("load", COMPUTED), ("train", FAILED), ("load", CACHED)):
        display.stage_started(name)
        display.stage_finished(name, record)
    display.stage_finished("train", COMPUTED)
    assert {"load": CACHED, "train": COMPUTED} == display.stages


def test_failure_leaves_no_line_of_the_stages_that_it_ends(terminal: Console) -> None:
    display = Display()
    with display.progress:
        display.stage_started("train")
        display.stage_started("validate")
        display.stage_finished("validate", FAILED)
    assert list(display.stages) == ["validate"]
    print_error("2 checks failed.")
    assert shown_on(terminal).splitlines()[-1] == "failed 2 checks failed."


def test_many_threads_may_report_at_once(pipe: Console) -> None:
    display, names = Display(), [f"stage_{number}" for number in range(8)]

    def run(name: str) -> None:
        for _ in range(20):
            display.stage_started(name)
            display.waiting("waiting")
            display.trained(1.0, 2)
            display.stage_finished(name, COMPUTED)

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) == set(display.stages)
    assert [] == display.progress.tasks
    lines = [line for line in shown_on(pipe).splitlines() if "first run" in line]
    assert {f"  {name:<15}  computed    1.25 s  first run" for name in names} == set(lines)
    assert len(lines) == 160


def test_closing_table_counts_every_stage_and_never_wraps_a_path(pipe: Console) -> None:
    report = Path("/models") / "long-folder-name" / "another-long-folder-name" / "report.html"
    summary = RunSummary(
        dataset="mnist",
        model="mlp",
        accuracy=0.97654,
        loss=0.08,
        model_path=Path("/models/m.keras"),
        weights_sha256="0" * 64,
        report_path=report,
        flow_run_id="1",
        flow_run_name="mnist-mlp",
        stages={"load": CACHED, "validate": CACHED, "train": COMPUTED},
    )
    print_summary(summary, 12.34, "http://127.0.0.1:4200/runs/flow-run/1")
    assert shown_on(pipe).splitlines() == [
        "",
        "accuracy  0.9765 on the test images",
        "loss      0.0800",
        "time      12.3 s, 2 of 3 stages cached",
        f"report    {report}",
        "model     /models/m.keras",
        "run       mnist-mlp, see http://127.0.0.1:4200/runs/flow-run/1",
    ]
