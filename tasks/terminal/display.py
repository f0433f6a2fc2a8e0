"""What a person sees while a run goes on, all of it on standard error.

      load             computed    0.40 s  no cached result
      validate         computed    1.10 s  no cached result
    ⠋ train            epoch 7/12  loss 0.0796  accuracy 0.9768  ━━━━━━━━━━━━╸        0:00:02
    ⠋ illustrate_data                                            ━━━━━━━━━━━━━━━━━━━━ 0:00:01

Without a terminal (a log file, a pipe) the same lines appear one after the other.
"""

from __future__ import annotations

import logging
from threading import Lock, local
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from tasks.errors import visible
from tasks.orchestration.account import Listener
from tasks.records import EpochMetrics, RunSummary, StageRecord

STYLES = {"cached": "bright_blue", "computed": "green", "failed": "red"}
# What Prefect's engine logs when a run fails. It is shown at level DEBUG only: the program
# prints the error itself, once and without a traceback.
SAID_ELSEWHERE = (
    "Finished in state",
    "Encountered exception during execution",
    "Task run failed",
    "Crash detected",
)

# A ping that finds the server gone tells of it by a traceback.
logging.getLogger("websockets.client").setLevel(logging.CRITICAL)

console = Console(stderr=True, highlight=False)


class Display(Listener):
    """Stages ticking off, a line for each that is under way, with a bar while one trains.

    Several stages may report at the same time, each from a thread of its own. In a `with` block
    of its `progress`, what is under way is shown.
    """

    def __init__(self) -> None:
        self.stages: dict[str, StageRecord] = {}
        self.pages = ""  # the UI's address, if it can be watched
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._lines: dict[str, TaskID] = {}  # by stage; that of "" is about the run
        self._lock = Lock()
        self._thread = local()  # its attribute `stage` says what is under way in this thread

    @property
    def _stage(self) -> str:
        """What is under way in this thread; empty for the run itself."""
        return getattr(self._thread, "stage", "")

    def waiting(self, text: str) -> None:
        """Show what the stage in this thread, or else the run, has to wait for."""
        if not console.is_terminal and text.startswith("waiting"):
            console.print(f"  {text}", soft_wrap=True, markup=False)
        self._show(self._stage, description=_line(self._stage, text) if self._stage else text)

    def run_started(self, run_id: str) -> None:
        """Say where the run can be watched."""
        if self.pages:
            link = f"  watch it at {self.pages}/runs/flow-run/{run_id}"
            console.print(link, soft_wrap=True, markup=False)

    def stage_started(self, name: str) -> None:
        """Put the stage beside a spinner."""
        self._thread.stage = name
        self._remove("")
        self._show(name, description=_line(name))

    def stage_finished(self, name: str, record: StageRecord) -> None:
        """Tick the stage off."""
        self._thread.stage = ""
        self._remove(name)
        self.stages[name] = record
        state = f"[{STYLES[record.state]}]{record.state:<8}[/]"
        start = f"  {_line(name, state)}  {record.seconds:6.2f} s  "
        why = f"[dim]{escape(record.why)}[/]"
        if console.is_terminal:  # what does not fit goes on in the last column
            line = Table.grid(Column(no_wrap=True), Column())
            line.add_row(start, why)
            console.print(line)
        else:
            console.print(start + why, soft_wrap=True)

    def resumed(self, epoch: int, epochs: int) -> None:
        """Say so in a line of its own."""
        text = f"goes on after epoch {epoch}/{epochs} of an earlier run"
        console.print(f"  {_line('train', text)}", soft_wrap=True)

    def trained(self, epochs_done: float, epochs: int) -> None:
        """Move the bar of the stage in this thread."""
        self._show(self._stage, completed=epochs_done, total=epochs)

    def epoch_finished(self, epoch: int, epochs: int, metrics: EpochMetrics) -> None:
        """Say how well it went: beside the bar, or without a terminal in a line."""
        number = f"{epoch:>{len(str(epochs))}}/{epochs}"
        scores = f"loss {metrics.loss:.4f}  accuracy {metrics.accuracy_fraction:.4f}"
        if metrics.validation_accuracy_fraction is not None:
            scores += f"  held out {metrics.validation_accuracy_fraction:.4f}"
        line = _line("train", f"epoch {number}  {scores}")
        if not console.is_terminal:
            console.print(f"  {line}", soft_wrap=True)
        self._show("train", description=line, completed=epoch, total=epochs)

    def _show(self, name: str, **changes: Any) -> None:
        with self._lock:
            if name not in self._lines:
                self._lines[name] = self.progress.add_task("", total=None)
            self.progress.update(self._lines[name], **changes)

    def _remove(self, name: str) -> None:
        with self._lock:
            if name in self._lines:
                self.progress.remove_task(self._lines.pop(name))


def _line(name: str, text: str = "") -> str:
    return f"{name:<{len('illustrate_data')}}  {text}"  # the longest name


def print_summary(summary: RunSummary, seconds: float, advice: str) -> None:
    """The closing table."""
    states = [record.state for record in summary.stages.values()]
    rows = {
        "accuracy": f"[bold green]{summary.accuracy:.4f}[/] on the test images",
        "loss": f"{summary.loss:.4f}",
        "time": f"{seconds:.1f} s, {states.count('cached')} of {len(states)} stages cached",
        "report": escape(str(summary.report_path)),
        "model": escape(str(summary.model_path)),
        "run": f"{escape(summary.flow_run_name)}, see {escape(advice)}",
    }
    console.print()
    for label, text in rows.items():  # never wrapped: paths are there to be copied
        console.print(f"[dim]{label:<8}[/]  {text}", soft_wrap=True)


def print_error(message: str) -> None:
    """The one clear message of a failed run."""
    console.print("\n[bold red]failed[/] ", end="")
    console.print(message, markup=False, soft_wrap=True)


class ConsoleHandler(RichHandler):
    """Log records beside the progress bar, in place of Prefect's own console handler."""

    def __init__(self, **_: Any) -> None:  # Prefect's handler takes a stream and styles
        super().__init__(console=console, show_path=False, markup=False)

    def format(self, record: logging.LogRecord) -> str:
        """Only the message: time and level have columns of their own."""
        return visible(logging.Formatter().format(record))

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a record."""
        repeated = record.levelno >= logging.ERROR and str(record.msg).startswith(SAID_ELSEWHERE)
        return bool(super().filter(record)) and not (repeated and self.level > logging.DEBUG)
