"""What each stage of the current run did, and who wants to hear of it.

    load        cached     0.0 s  unchanged
    preprocess  computed   0.5 s  code: tasks/preprocess.py

Stages report here; the terminal listens, and the report and the summary read it. Outside
a run, reporting does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

from tasks.records import EpochMetrics, StageRecord


class Listener:
    """Hears of a run's progress. Every method does nothing here."""

    def stage_started(self, name: str) -> None:
        """A stage begins, before it is known whether its result is cached."""

    def stage_finished(self, name: str, record: StageRecord) -> None:
        """A stage has ended, whether well or not."""

    def waiting(self, text: str) -> None:
        """The current stage cannot go on yet."""

    def resumed(self, epoch: int, epochs: int) -> None:
        """Training goes on after epoch number `epoch`, where an earlier run was cut off."""

    def trained(self, epochs_done: float, epochs: int) -> None:
        """So many of the epochs are done, with a fraction of the one under way."""

    def epoch_finished(self, epoch: int, epochs: int, metrics: EpochMetrics) -> None:
        """Epoch number `epoch`, counted from 1, of `epochs` has been trained."""


@dataclass(frozen=True)
class Call:
    """A stage that has completed in this run: what was called, and what came of it."""

    name: str
    stage: Callable[..., Any]
    arguments: tuple[Any, ...]
    named_arguments: dict[str, Any]
    result: Any


class Ledger:
    """The account of one run."""

    def __init__(self) -> None:
        self.stages: dict[str, StageRecord] = {}
        self.calls: list[Call] = []
        self._started: dict[str, float] = {}
        self._outdated: list[tuple[Any, Any]] = []
        self._context: Context | None = None

    def repeat(self, call: Call) -> Any:
        """Call a stage again, as the flow would; its new result stands for the old one.

        Where that is another result, the stages that were given the old one are repeated, too.
        """
        assert self._context is not None, "a stage completes inside a run"
        self.calls.remove(call)
        again = self._context.copy()  # the flow's: without the stage that asks for it
        result = again.run(call.stage, *call.arguments, **call.named_arguments)
        self._outdated.append((call.result, result))
        if result.content() != call.result.content():
            for other in list(self.calls):
                given = (*other.arguments, *other.named_arguments.values())
                if other in self.calls and call.result in given:
                    self.repeat(other)
        return result

    def current(self, value: Any) -> Any:
        """A result as it stands now: the one that replaced it, if one did."""
        for old, new in self._outdated:
            value = new if value == old else value
        return value

    def start(self, name: str) -> None:
        """Note that a stage begins."""
        self._started[name] = time.perf_counter()
        _listener.get().stage_started(name)

    def finish(self, name: str, state: str, why: str) -> None:
        """Note how a stage ended: `computed`, `cached` or `failed`."""
        seconds = round(time.perf_counter() - self._started[name], 3)
        record = StageRecord.model_validate({"state": state, "seconds": seconds, "why": why})
        self.stages[name] = record
        _listener.get().stage_finished(name, record)


_listener: ContextVar[Listener] = ContextVar("listener", default=Listener())  # noqa: B039 - stateless
_ledger: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener hear of the runs inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def new_ledger() -> Iterator[Ledger]:
    """Open the account of a run."""
    ledger = Ledger()
    token = _ledger.set(ledger)
    ledger._context = copy_context()  # noqa: SLF001 - with this ledger in it
    try:
        yield ledger
    finally:
        _ledger.reset(token)


def current_ledger() -> Ledger:
    """The account of the run that is under way; a blank one outside a run."""
    return _ledger.get() or Ledger()


def report_epoch(epoch: int, epochs: int, metrics: EpochMetrics) -> None:
    """Tell whoever listens that an epoch has been trained."""
    _listener.get().epoch_finished(epoch, epochs, metrics)


def report_resumed(epoch: int, epochs: int) -> None:
    """Tell whoever listens that training goes on where an earlier run was cut off."""
    _listener.get().resumed(epoch, epochs)


def report_training(epochs_done: float, epochs: int) -> None:
    """Tell whoever listens how far the training is."""
    _listener.get().trained(epochs_done, epochs)


def report_waiting(text: str) -> None:
    """Tell whoever listens that the current stage has to wait."""
    _listener.get().waiting(text)
