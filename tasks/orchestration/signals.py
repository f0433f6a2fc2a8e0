"""What ends a run from outside: Ctrl-C, SIGTERM, SIGHUP.

Prefect marks a run Crashed when its own exception for this passes through.
"""

from __future__ import annotations

import signal
from typing import NoReturn

from prefect.exceptions import TerminationSignal

__all__ = ["TerminationSignal", "end_run"]


def end_run(number: int, _frame: object) -> NoReturn:
    """Handle a signal: end the run where it is, at the next chance that Python gets."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise TerminationSignal(number)
