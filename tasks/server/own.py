"""The run's own Prefect server, for when none is configured and the project's is not up.

It is a subprocess over the project's database, on a free loopback port, with a password of its own,
and it is started before Prefect is imported, so that both load at the same time. The pipe to its
standard input is its lease: when this process ends, however it ends, the pipe closes and the server
drains and stops.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

from tasks.errors import ServerError
from tasks.server import home
from tasks.server.home import FOLDER_VARIABLE, Stack, open_stack

START_TIMEOUT_SECONDS = 90.0  # the first run ever creates the database: 6 to 10 s, or more
STOP_TIMEOUT_SECONDS = 10.0

# What a server for one run does without: the UI, telemetry, block registration, logging.
SERVER_ENVIRONMENT = {
    "PREFECT__SERVER_EPHEMERAL": "1",  # records task runs and events; no scheduler, no clean-up
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_UI_ENABLED": "0",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
    # Otherwise it imports every package that extends Prefect to see whether it has blocks.
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "0",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_LEVEL": "ERROR",
}
# What to do, by what the server's last words contain.
ADVICE = {
    "Can't locate revision": "This database is of a newer Prefect. Install that one, or choose "
    f"another folder with {FOLDER_VARIABLE}.",
    "disk I/O error|is full|No space left|File too large": "Make room on the disk, or raise the "
    f"limit on files (`ulimit -f`), or choose another folder with {FOLDER_VARIABLE}.",
    "unable to open|readonly|Permission denied": "Check the folder's owner and permissions, or "
    f"choose another one with {FOLDER_VARIABLE}.",
}
HELP = "Run `make server`, which says more."


class OwnServer:
    """A Prefect server that lives as long as this run."""

    def __init__(self, stack: Stack) -> None:
        self.login = f"run:{home.new_password()}"
        self.pages = stack.pages  # where the run can be seen afterwards
        self._folder = stack.folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
            self._process = subprocess.Popen(
                # Not from the current folder, which may have other `tasks`.
                [sys.executable, "-P", "-m", "tasks.server.process", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C reaches the run, which then closes the pipe
                env={
                    **os.environ,
                    **SERVER_ENVIRONMENT,
                    "PREFECT_HOME": str(stack.folder),
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    **{name: stack.server[name] for name in (home.DATABASE, home.ENCRYPTION_KEY)},
                    home.AUTH: self.login,
                },
            )

    def name_in_environment(self) -> None:
        """Let Prefect find it, past any proxy."""
        login = {home.CLIENT_URL: self.url, home.CLIENT_AUTH: self.login}
        os.environ.update({**login, home.UI_URL: self.pages})
        for variable in ("NO_PROXY", "no_proxy"):
            os.environ[variable] = ",".join(filter(None, [os.environ.get(variable), "127.0.0.1"]))

    def wait_until_ready(self) -> None:
        """Return when the server answers. Raises ServerError when it will not."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_SECONDS)
        if not readable or self._process.stdout.readline() != b"ready\n":
            self._process.kill()
            words = self._last_words() or f"no answer in {START_TIMEOUT_SECONDS:.0f} s"
            raise ServerError(
                "The run's own Prefect server must start.",
                received=words,
                where=self._folder,
                advice=next(
                    (told for cause, told in ADVICE.items() if re.search(cause, words)), HELP
                ),
            )

    def stop(self) -> None:
        """Send what is still to be recorded, let the server write it, wait until it is gone."""
        _send_what_waits()
        with self._log, self._process as process:  # which closes its pipes, the lease first
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or [""]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b.*:", line)]
        return (errors or lines)[-1].strip()


@contextmanager
def some_server() -> Iterator[None]:
    """In the block, Prefect has a server: as configured, the project's, or one of this process.

    The last lives as long as the process, for the runs that follow. Raises ServerError.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_UI_URL,
        temporary_settings,
    )

    if PREFECT_API_URL.value():
        yield
        return
    stack = open_stack()
    url, login = stack.client.values() if stack.serves else _of_this_process(stack.folder)
    found = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: login, PREFECT_UI_URL: stack.pages}
    with without_heartbeats(), temporary_settings(found):
        yield


@cache
def _of_this_process(folder: Path) -> tuple[str, str]:
    server = OwnServer(open_stack(folder))
    atexit.register(server.stop)
    server.wait_until_ready()
    return server.url, server.login


def _send_what_waits() -> None:
    """Empty Prefect's queues of logs and events.

    What these still held when the server is gone, Prefect would try to send again and again,
    and keep this process from ending for a minute or two.
    """
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    workers = (APILogWorker, EventsWorker)
    for worker in workers:  # that items remain is why this waits, and no warning
        logging.getLogger(worker.__name__).setLevel(logging.ERROR)
    for worker in workers:
        worker.drain_all(timeout=STOP_TIMEOUT_SECONDS)


def without_heartbeats() -> AbstractContextManager[object]:
    """Send no heartbeats from the flow runs inside the block.

    They let a server notice that a run nobody watches has died. A run from a terminal is
    watched, and the thread that sends them would hold up its end for up to a second.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
