"""The account of a run: what each call of a stage did, and who hears of it.

    <cache dir>/accounts/<flow run>.partial, a line a call, from whatever thread or process:

    {"stage":"load","started":1764097664.1,"record":{"state":"cached","seconds":0.01,…}}

The terminal listens to the calls in its own process; the report, the summary and `--json` read
the account. It is removed when the run ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from pydantic import ValidationError

from tasks.cache.blobs import PARTIAL, Store
from tasks.cache.places import make_way, read_file, remove
from tasks.records import EpochMetrics, Record, StageRecord


class Listener:
    """Hears of a run's progress, from several threads. Every method does nothing here."""

    def run_started(self, run_id: str) -> None:
        """The run is known to Prefect."""

    def stage_started(self, name: str) -> None:
        """A stage begins, before it is known whether its result is cached."""

    def stage_finished(self, name: str, record: StageRecord) -> None:
        """A stage has ended, whether well or not."""

    def waiting(self, text: str) -> None:
        """A stage cannot go on yet."""

    def resumed(self, epoch: int, epochs: int) -> None:
        """Training goes on after epoch number `epoch`, where an earlier run was cut off."""

    def trained(self, epochs_done: float, epochs: int) -> None:
        """So many of the epochs are done, with a fraction of the one under way."""

    def epoch_finished(self, epoch: int, epochs: int, metrics: EpochMetrics) -> None:
        """Epoch number `epoch`, counted from 1, of `epochs` has been trained."""


_listener: ContextVar[Listener] = ContextVar("listener", default=Listener())  # noqa: B039 - stateless


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener hear of the runs inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def listener() -> Listener:
    """Who hears of the run that is under way."""
    return _listener.get()


class CallRecord(Record):
    """One call of a stage: when it started, in seconds since 1970, and what it did.

    With `stage` None, it says that the run's stages began again at that moment.
    """

    stage: str | None
    started: float
    record: StageRecord | None = None


class Account:
    """The account of one flow run."""

    def __init__(self, store: Store, flow_run: object) -> None:
        self._path = store.accounts / f"{flow_run}{PARTIAL}"

    def begin(self) -> None:
        """The run's stages are called from now on; earlier calls do not count."""
        with suppress(OSError):
            make_way(self._path)
            self._path.touch(mode=0o600)
        self.add(CallRecord(stage=None, started=time.time()))

    def add(self, call: CallRecord) -> None:
        """Write down a call, in one step. What cannot be written is only not told.

        Nor is what a stage still does in a thread of its own after the run has failed.
        """
        with suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                os.write(file, call.model_dump_json().encode() + b"\n")
            finally:
                os.close(file)

    def stages(self) -> dict[str, StageRecord]:
        """What each call did, by its stage, as they started: `halve`, `halve 2`, `double`."""
        stages: dict[str, StageRecord] = {}
        count: dict[str, int] = {}
        for call in sorted(self._calls(), key=lambda call: call.started):
            if call.stage is None or call.record is None:
                stages, count = {}, {}
                continue
            number = count[call.stage] = count.get(call.stage, 0) + 1
            stages[call.stage if number == 1 else f"{call.stage} {number}"] = call.record
        return stages

    def remove(self) -> None:
        """The run has ended."""
        with suppress(OSError):
            remove(self._path)

    def _calls(self) -> Iterator[CallRecord]:
        try:
            lines = read_file(self._path).splitlines()
        except OSError:
            return
        for line in lines:
            with suppress(ValidationError):
                yield CallRecord.model_validate_json(line)
