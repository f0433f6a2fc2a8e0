"""What a run that a worker has started writes for whoever watches the worker's terminal."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache

from prefect.logging.handlers import PrefectConsoleHandler


class LastingConsole(PrefectConsoleHandler):
    """Prefect's handler, for a run that outlives its worker, and its server for a while.

    The run's output is a pipe to the worker. When the worker has died, rich ends the process
    that writes to it: a training would die of a line in its log. Here it only falls silent.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if anybody can read it."""
        _be_patient_from_now_on()
        with suppress(SystemExit):  # rich's answer to a broken pipe; it writes no more after that
            super().emit(record)


@cache
def _be_patient_from_now_on() -> None:
    """This is the first of our code in a run's process: Prefect starts it, and loads it later."""
    from deployments.outage import be_patient

    be_patient()
