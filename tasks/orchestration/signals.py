"""What ends a run from outside: Ctrl-C, SIGTERM, SIGHUP.

Prefect marks a run Crashed when its own exception for this passes through. On its way it can be
lost: a library that is interrupted may hand on an error of its own (pydantic does, while it writes
a state), and whoever calls it may go on over that. So each stage and each epoch asks again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable

from prefect.exceptions import TerminationSignal

__all__ = ["TerminationSignal", "end_if_told", "end_run", "handle", "handle_in_flow", "told"]

_handled: set[int] = set()
_told: list[int] = []


def handle(numbers: Iterable[int]) -> None:
    """Let these signals end the run of this process."""
    _handled.update(numbers)
    handle_in_flow()


def handle_in_flow() -> None:
    """Handle them in the flow that runs here, too: Prefect's engine puts another handler there."""
    for number in _handled:
        signal.signal(number, end_run)


def end_run(number: int, _frame: object) -> None:
    """Handle a signal: end the run where it is, at the next chance that Python gets."""
    _told.append(number)
    end_if_told()


def told() -> int | None:
    """The signal that has told this process to end, if one has."""
    return _told[-1] if _told else None


def end_if_told() -> None:
    """Raise KeyboardInterrupt or TerminationSignal if a signal has told this process to end."""
    if (number := told()) == signal.SIGINT:
        raise KeyboardInterrupt
    if number:
        raise TerminationSignal(number)
