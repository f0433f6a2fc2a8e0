"""What each stage of the current run did, and who wants to hear of it.

    load        cached     0.0 s  unchanged
    preprocess  computed   0.5 s  no cached result

Stages report here; the terminal listens, and the report and the summary read it. Outside
a run, reporting does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.records import EpochMetrics, StageRecord


class Listener:
    """Hears of a run's progress. Every method does nothing here."""

    def stage_started(self, name: str) -> None:
        """A stage begins, before it is known whether its result is cached."""

    def stage_finished(self, name: str, record: StageRecord) -> None:
        """A stage has ended, whether well or not."""

    def epoch_finished(self, epoch: int, epochs: int, metrics: EpochMetrics) -> None:
        """Epoch number `epoch`, counted from 1, of `epochs` has been trained."""


class Ledger:
    """The account of one run."""

    def __init__(self) -> None:
        self.stages: dict[str, StageRecord] = {}
        self._started: dict[str, float] = {}

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
    token = _ledger.set(Ledger())
    try:
        yield current_ledger()
    finally:
        _ledger.reset(token)


def current_ledger() -> Ledger:
    """The account of the run that is under way; a blank one outside a run."""
    return _ledger.get() or Ledger()


def report_epoch(epoch: int, epochs: int, metrics: EpochMetrics) -> None:
    """Tell whoever listens that an epoch has been trained."""
    _listener.get().epoch_finished(epoch, epochs, metrics)
