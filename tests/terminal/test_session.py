"""The program at the terminal: how it ends."""

from __future__ import annotations

import signal

from prefect.exceptions import TerminationSignal

from tasks.terminal.session import met_in


def test_signal_is_found_behind_the_error_that_its_handling_met() -> None:
    between, error = KeyError("run"), ValueError("Task run is not set")
    between.__context__, error.__context__ = TerminationSignal(signal.SIGTERM), between
    found = met_in(error, (KeyboardInterrupt, TerminationSignal))
    assert isinstance(found, TerminationSignal)
    assert found.signal == signal.SIGTERM


def test_error_of_its_own_has_no_signal_behind_it() -> None:
    assert met_in(ValueError(), (TerminationSignal,)) is None
