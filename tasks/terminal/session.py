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
from typing import TYPE_CHECKING, NoReturn

from tasks.errors import PipelineError
from tasks.server.configured import (
    is_configured,
    lost_server,
    read_environment_again,
    ui_url,
    wait_for_configured_server,
)
from tasks.server.home import UI_URL, open_stack, require_certificates
from tasks.server.own import OwnServer, without_heartbeats
from tasks.terminal.shadows import require_no_shadows
from tasks.terminal.streams import EXIT_FAILED, prepare_streams

if TYPE_CHECKING:  # imported below where needed: the server's start comes first
    from tasks.records import RunSummary, StageRecord
    from tasks.settings import RunSettings
    from tasks.terminal.display import Display

SIGNAL_EXIT = 128  # plus the signal's number, as shells have it
# What ends a run from outside, and what it is called.
ENDINGS = {
    signal.SIGINT: "Interrupted",
    signal.SIGTERM: "Terminated",
    signal.SIGHUP: "Hung up",
}

# Set before Prefect is imported. What the user has set stays.
ENVIRONMENT = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": "tasks.terminal.display.ConsoleHandler",
}


class Session:
    """A run from a terminal, with its command line and its Prefect server."""

    def __init__(self) -> None:
        """Start the run's own Prefect server, if it needs one, and read the command line.

        Exits with status 2 when the command line is wrong; the server then goes with it.
        """
        self.started = time.perf_counter()
        prepare_streams()
        gc.disable()  # imports make a million objects and no garbage; `_run` enables it again
        # What `nohup`, or a shell for what runs in the background, has set to be ignored stays so.
        self.endings = [each for each in ENDINGS if signal.getsignal(each) != signal.SIG_IGN]
        for number in self.endings:  # until `run` takes over: no traceback of an import
            signal.signal(number, _end_loading)
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.server: OwnServer | None = None
        try:
            require_no_shadows()
            require_certificates()
            if not {"-h", "--help"} & set(sys.argv) and not is_configured():
                stack = open_stack()
                if stack.serves:
                    os.environ.update({**stack.client, UI_URL: stack.pages})
                else:
                    self.server = OwnServer(stack)
        except PipelineError as error:
            _leave(str(error), EXIT_FAILED)
        from tasks.terminal.command_line import parse

        self.command = parse(sys.argv[1:])
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = self.command.log_level
        if self.command.log_level == "DEBUG":
            os.environ.setdefault("PREFECT_LOGGING_LEVEL", "DEBUG")
        if self.server:
            self.server.name_in_environment()
        read_environment_again()

    def run(self, flow: Callable[[RunSettings], RunSummary]) -> int:
        """Run a flow with the settings of the command line; returns the exit status."""
        from tasks.orchestration.signals import TerminationSignal, handle
        from tasks.terminal.display import Display, print_error, print_summary

        display = Display()
        handle(self.endings)
        try:
            with display.progress:
                summary = self._run(flow, display)
        except (Exception, KeyboardInterrupt, TerminationSignal) as error:  # noqa: BLE001
            message, status = self._account_of(error)
        else:
            summary = summary.model_copy(update={"stages": display.stages | summary.stages})
            seconds = time.perf_counter() - self.started
            print_summary(summary, seconds, self._how_to_watch(summary))
            if self.command.json:
                print(summary.model_dump_json(), flush=True)
            return 0
        print_error(message)
        _print_json(message, display.stages)
        return status

    def _run(self, flow: Callable[[RunSettings], RunSummary], display: Display) -> RunSummary:
        from tasks.orchestration.account import listening
        from tasks.terminal.preload import preload_for, remember

        settings = self.command.settings
        with ExitStack() as stack:
            if self.server:
                stack.callback(self.server.stop)
                display.waiting("Prefect's server starts")
                preload_for(settings)
                self.server.wait_until_ready()
            else:
                wait_for_configured_server(display.waiting, self.command.server_wait_seconds)
                display.pages = ui_url()
            gc.freeze()
            gc.enable()
            stack.callback(display.waiting, "Prefect's server records the run")
            try:
                with without_heartbeats(), listening(display):
                    return flow(settings)
            finally:
                if "evaluate" in display.stages and display.stages["evaluate"].state != "failed":
                    remember(settings)

    def _account_of(self, error: BaseException) -> tuple[str, int]:
        """One clear message, whatever has ended the run, and the exit status."""
        from tasks.orchestration.signals import told
        from tasks.terminal.display import console

        if number := told():  # whatever that has become on its way
            return _ending(number), SIGNAL_EXIT + number
        if isinstance(error, PipelineError):
            return str(error), EXIT_FAILED
        if self.command.log_level == "DEBUG":
            console.print_exception()
        advice = "Run again with --log-level DEBUG for the traceback."
        unexpected = f"Unexpected {type(error).__name__}: {error}\n{advice}"
        return str(lost_server(error) or unexpected), EXIT_FAILED

    def _how_to_watch(self, summary: RunSummary) -> str:
        place = f"{ui_url()}/runs/flow-run/{summary.flow_run_id}"
        return f"{place} once `make ui` runs" if self.server else place


def _ending(number: int) -> str:
    kept = "What the finished stages and epochs computed is kept: run again to go on from there."
    return f"{ENDINGS[signal.Signals(number)]}. {kept}"


def _print_json(error: str, stages: dict[str, StageRecord]) -> None:
    if "--json" in sys.argv:
        records = {name: record.model_dump() for name, record in stages.items()}
        print(json.dumps({"error": error, "stages": records}), flush=True)


def _end_loading(number: int, _frame: object) -> NoReturn:
    """Handle a signal while the program is loading: at once, not by an error.

    What is interrupted may be anything, and hand on an error of its own. Nothing is to be tidied
    up yet: the server of the run goes when this process has gone.
    """
    try:
        _say_failed(_ending(number))
        sys.stderr.flush()
    finally:
        os._exit(SIGNAL_EXIT + number)


def _leave(message: str, status: int) -> NoReturn:
    """End at once while the program is still loading."""
    _say_failed(message)
    sys.exit(status)


def _say_failed(message: str) -> None:
    sys.stderr.write(f"\nfailed {message}\n")
    _print_json(message, {})
