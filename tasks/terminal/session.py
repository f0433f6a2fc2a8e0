"""One run from a terminal: from the command line to the exit status."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn, Self

from tasks.server.own import (
    OwnServer,
    is_configured,
    lost_server,
    ui_url,
    wait_for_configured_server,
    without_heartbeats,
)

if TYPE_CHECKING:  # imported below where needed: the server's start comes first
    from tasks.records import RunSummary
    from tasks.settings import RunSettings
    from tasks.terminal.command_line import CommandLine
    from tasks.terminal.display import Display

EXIT_FAILED = 1
SIGNAL_EXIT = 128  # plus the signal's number, as shells have it
# What ends a run from outside, and what it is called.
ENDINGS = {
    signal.SIGINT: "Interrupted",
    signal.SIGTERM: "Terminated",
    signal.SIGHUP: "Hung up",
}
KEPT = "What the finished stages and epochs computed is kept: run again to go on from there."
DEFAULT_UI_URL = "http://127.0.0.1:4200"  # where `prefect server start` shows it

# Set before Prefect is imported. What the user has set stays.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",  # no telemetry
    "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": "tasks.terminal.display.ConsoleHandler",
}


class Session:
    """A run from a terminal, with its command line and its Prefect server."""

    def __init__(self, command: CommandLine, server: OwnServer | None, started: float) -> None:
        self.command = command
        self.server = server
        self.started = started

    @classmethod
    def begin(cls) -> Self:
        """Start the run's own Prefect server, if it needs one, and read the command line.

        Exits with status 2 when the command line is wrong; the server then goes with it.
        """
        started = time.perf_counter()
        gc.disable()  # imports make a million objects and no garbage; `_run` enables it again
        for number in ENDINGS:  # until `run` takes over: no traceback of an import
            signal.signal(number, _quit)
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        arguments = sys.argv[1:]
        asks_for_help = bool({"-h", "--help"} & set(arguments))
        server = None if asks_for_help or is_configured() else OwnServer()
        from tasks.terminal.command_line import parse

        command = parse(arguments)
        if server is not None:
            os.environ["PREFECT_API_URL"] = server.url
            for variable in ("NO_PROXY", "no_proxy"):  # our own server is on this machine
                others = os.environ.get(variable)
                os.environ[variable] = f"{others},127.0.0.1" if others else "127.0.0.1"
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = command.log_level
        if command.log_level == "DEBUG":
            os.environ.setdefault("PREFECT_LOGGING_LEVEL", "DEBUG")
        return cls(command, server, started)

    def run(self, flow: Callable[[RunSettings], RunSummary]) -> int:
        """Run a flow with the settings of the command line; returns the exit status."""
        from tasks.errors import PipelineError
        from tasks.orchestration.signals import TerminationSignal, end_run
        from tasks.terminal.display import Display, print_traceback

        display = Display()
        for number in ENDINGS:
            signal.signal(number, end_run)
        try:
            with display:
                summary = self._run(flow, display)
        except KeyboardInterrupt:
            return self._fail(_ending(signal.SIGINT), display, SIGNAL_EXIT + signal.SIGINT)
        except TerminationSignal as termination:
            number = signal.Signals(termination.signal)
            return self._fail(_ending(number), display, SIGNAL_EXIT + number)
        except PipelineError as error:
            return self._fail(str(error), display)
        except Exception as error:  # noqa: BLE001 - one clear message, whatever it is
            if self.command.log_level == "DEBUG":
                print_traceback()
            if lost := lost_server(error):
                return self._fail(str(lost), display)
            message = f"Unexpected {type(error).__name__}: {error}"
            hint = "Run again with --log-level DEBUG for the traceback."
            return self._fail(f"{message}\n{hint}", display)
        self._close(summary.model_copy(update={"stages": display.stages}))
        return 0

    def _run(self, flow: Callable[[RunSettings], RunSummary], display: Display) -> RunSummary:
        from tasks.orchestration.account import listening
        from tasks.terminal.preload import preload_for, remember

        settings = self.command.settings
        with ExitStack() as stack:
            if self.server is None:
                wait_for_configured_server(display.waiting, self.command.server_wait_seconds)
            else:
                stack.callback(self.server.stop)
                display.waiting("Prefect's server starts")
                preload_for(settings)
                self.server.wait_until_ready()
            gc.freeze()
            gc.enable()
            try:
                with without_heartbeats(), listening(display):
                    summary = flow(settings)
            finally:
                if "evaluate" in display.stages and display.stages["evaluate"].state != "failed":
                    remember(settings)
            display.waiting("Prefect's server records the run")
            return summary

    def _close(self, summary: RunSummary) -> None:
        from tasks.terminal.display import print_summary

        print_summary(summary, time.perf_counter() - self.started, self._how_to_watch(summary))
        if self.command.json:
            print(summary.model_dump_json())

    def _how_to_watch(self, summary: RunSummary) -> str:
        path = f"runs/flow-run/{summary.flow_run_id}"
        if self.server is None:
            return f"{ui_url()}/{path}"
        return f"{DEFAULT_UI_URL}/{path} after `prefect server start`"

    def _fail(self, message: str, display: Display, status: int = EXIT_FAILED) -> int:
        from tasks.terminal.display import print_error

        print_error(message)
        if self.command.json:
            stages = {name: record.model_dump() for name, record in display.stages.items()}
            print(json.dumps({"error": message, "stages": stages}))
        return status


def _ending(number: int) -> str:
    return f"{ENDINGS[signal.Signals(number)]}. {KEPT}"


def _quit(number: int, _frame: object) -> NoReturn:
    """End at once while the program is still loading."""
    sys.stderr.write(f"\nfailed {_ending(number)}\n")
    if "--json" in sys.argv:
        print(json.dumps({"error": _ending(number), "stages": {}}))
    sys.exit(SIGNAL_EXIT + number)
