"""What a person sees while a run goes on, all of it on standard error.

      load        computed   0.4 s  no cached result
      validate    computed   1.1 s  no cached result
    ⠋ train       epoch 7/12  loss 0.0796  accuracy 0.9768  ━━━━━━━━━━━━╸        0:00:02

Without a terminal (a log file, a pipe) the same lines appear one after the other.
"""

from __future__ import annotations

import logging
from typing import Any, Self

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tasks.orchestration.account import Listener
from tasks.records import EpochMetrics, RunSummary, StageRecord

STYLES = {"cached": "bright_blue", "computed": "green", "failed": "red"}
# What Prefect's engine logs when a run fails, and the program says itself.
SAID_ELSEWHERE = (
    "Finished in state",
    "Encountered exception during execution",
    "Task run failed",
    "Crash detected",
)

console = Console(stderr=True, highlight=False)


class Display(Listener):
    """Stages ticking off, a bar while one trains."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._said = ""
        self.stages: dict[str, StageRecord] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def waiting(self, text: str) -> None:
        """Show that something is under way; without a terminal, say it once if it is a wait."""
        self._clear()
        if not console.is_terminal and text.startswith("waiting") and text != self._said:
            console.print(f"  {text}", soft_wrap=True)
            self._said = text
        self._task = self._progress.add_task(text, total=None)

    def stage_started(self, name: str) -> None:
        """Put the stage beside the spinner."""
        self.waiting(f"{name:<10}")

    def stage_finished(self, name: str, record: StageRecord) -> None:
        """Tick the stage off."""
        self._clear()
        self.stages[name] = record
        state = f"[{STYLES[record.state]}]{record.state:<8}[/]"
        console.print(
            f"  {name:<10}  {state}  {record.seconds:6.2f} s  [dim]{escape(record.why)}[/]"
        )

    def resumed(self, epoch: int, epochs: int) -> None:
        """Say so in a line of its own."""
        console.print(f"  train       goes on after epoch {epoch}/{epochs} of an earlier run")

    def trained(self, epochs_done: float, epochs: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=epochs_done, total=epochs)

    def epoch_finished(self, epoch: int, epochs: int, metrics: EpochMetrics) -> None:
        """Move the bar; without a terminal, print a line."""
        text = (
            f"epoch {epoch:>{len(str(epochs))}}/{epochs}  loss {metrics.loss:.4f}  "
            f"accuracy {metrics.accuracy_fraction:.4f}"
        )
        if not console.is_terminal:
            console.print(f"  train       {text}")
        elif self._task is not None:
            self._progress.update(
                self._task, description=f"train       {text}", completed=epoch, total=epochs
            )

    def _clear(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


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


def print_traceback() -> None:
    """The error that is being handled, with all there is to know."""
    console.print_exception()


class ConsoleHandler(RichHandler):
    """Log records beside the progress bar, in place of Prefect's own console handler.

    What Prefect's engine logs when a run fails is dropped unless everything is shown: the
    program prints the error itself, once and without a traceback.
    """

    def __init__(self, **_: Any) -> None:  # Prefect's handler takes a stream and styles
        super().__init__(console=console, show_path=False, markup=False)

    def setFormatter(  # noqa: N802 - logging's name
        self, fmt: logging.Formatter | None
    ) -> None:
        """Keep to the message: time and level have their own columns."""
        del fmt
        super().setFormatter(logging.Formatter("%(message)s"))

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a record."""
        repeated = record.levelno >= logging.ERROR and str(record.msg).startswith(SAID_ELSEWHERE)
        hidden = repeated and self.level > logging.DEBUG
        return not hidden and bool(super().filter(record))
