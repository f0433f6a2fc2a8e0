"""The run's own Prefect server, for when none is configured.

It is a subprocess over the user's ordinary Prefect database, on a free loopback port, and
it is started before Prefect is imported, so that both load at the same time. The pipe to
its standard input is its lease: when this process ends, however it ends, the pipe closes
and the server drains and stops.

Nothing here imports Prefect while the program starts.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import ServerError

START_TIMEOUT_SECONDS = 90.0  # the first run ever creates the database: 6 to 10 s, or more
STOP_TIMEOUT_SECONDS = 10.0
CHECK_TIMEOUT_SECONDS = 5.0
READY = b"ready\n"
# An address, or a profile other than the default one: Prefect knows profiles of its own.
MENTION_OF_AN_API = re.compile(
    r"api[_.]?url|\[api\]|PREFECT_PROFILE|^active\s*=\s*[\"'](?!ephemeral[\"'])",
    re.IGNORECASE | re.MULTILINE,
)

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


class OwnServer:
    """A Prefect server that lives as long as this run."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tasks.server.process",
                    str(listener.fileno()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C reaches the run, which then closes the pipe
                env={**os.environ, **SERVER_ENVIRONMENT},
            )

    def wait_until_ready(self) -> None:
        """Return when the server answers. Raises ServerError when it will not."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_SECONDS)
        if not readable or self._process.stdout.readline() != READY:
            self._process.kill()
            raise ServerError(
                "The run's own Prefect server must start.",
                received=self._last_words() or f"no answer in {START_TIMEOUT_SECONDS:.0f} s",
                where="the Prefect server process",
                advice="Run `prefect server database upgrade -y`, or start a server with "
                "`prefect server start` and set PREFECT_API_URL.",
            )

    def stop(self) -> None:
        """Send what is still to be recorded, let the server write it, wait until it is gone."""
        if "prefect" in sys.modules:
            from prefect.events.worker import EventsWorker
            from prefect.logging.handlers import APILogWorker

            # What either still held, it would try to send to a server that is gone, and with
            # its retries it would keep this process from ending for a minute or two.
            workers = (APILogWorker, EventsWorker)
            for worker in workers:  # that items remain is why this waits, and no warning
                logging.getLogger(worker.__name__).setLevel(logging.ERROR)
            for worker in workers:
                worker.drain_all(timeout=STOP_TIMEOUT_SECONDS)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines() or [""]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b.*:", line)]
        return (errors or lines)[-1].strip()


def is_configured() -> bool:
    """Whether the environment, a profile or a settings file names a Prefect API.

    Prefect itself is asked only when one of the places that it reads mentions an API at
    all: importing it takes longer than everything else here.
    """
    if os.environ.get("PREFECT_API_URL"):
        return True
    if not os.environ.get("PREFECT_PROFILE") and not any(
        _mentions_api(path) for path in _settings_files()
    ):
        return False
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def wait_for_configured_server(on_waiting: Callable[[str], None], timeout_seconds: float) -> None:
    """Return when the configured server answers.

    Args:
        on_waiting: told what is waited for, if the first try finds no answer.
        timeout_seconds: how long to try.

    Raises:
        ServerError: no answer in that time.
    """
    from prefect.settings import PREFECT_API_URL

    url = str(PREFECT_API_URL.value())
    deadline = time.monotonic() + timeout_seconds
    pause_seconds = 0.25
    while problem := _health_problem(url):
        on_waiting(f"waiting for the Prefect server at {url}")
        if time.monotonic() + pause_seconds > deadline:
            raise ServerError(
                "The configured Prefect server must answer.",
                received=f"{problem}, for {timeout_seconds:.0f} s",
                where=url,
                advice="Start it with `prefect server start`, or unset PREFECT_API_URL "
                "to let the run bring up its own.",
            )
        time.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, 4.0)


def lost_server(error: Exception) -> ServerError | None:
    """What to say of an error that came up because the server went away; None for another."""
    import httpx
    from prefect.settings import PREFECT_API_URL

    if not isinstance(error, httpx.TransportError):
        return None
    return ServerError(
        "The Prefect server must answer until the run has ended.",
        received=f"{type(error).__name__}: {error}",
        where=str(PREFECT_API_URL.value()),
        advice="What the finished stages and epochs computed is kept: start the server again, "
        "then the run, which goes on from there.",
    )


def _health_problem(url: str) -> str:
    """Why the server does not answer; empty when it does. Without the retries of its client."""
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=CHECK_TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def without_heartbeats() -> Iterator[None]:
    """Send no heartbeats from the flow runs inside the block.

    They let a server notice that a run nobody watches has died. A run from a terminal is
    watched, and the thread that sends them would hold up its end for up to a second.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def ui_url() -> str:
    """Where the configured server shows its UI."""
    from prefect.settings import PREFECT_UI_URL

    return str(PREFECT_UI_URL.value())


def _settings_files() -> list[Path]:
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    return [profiles, Path(".env"), Path("prefect.toml"), Path("pyproject.toml")]


def _mentions_api(path: Path) -> bool:
    try:
        text = path.read_text()
    except OSError:
        return False
    except UnicodeDecodeError:
        return True  # Prefect will say what is wrong with it
    if path.name == "pyproject.toml":
        try:
            return "prefect" in tomllib.loads(text).get("tool", {})
        except tomllib.TOMLDecodeError:
            return True  # Prefect will say what is wrong with it
    return MENTION_OF_AN_API.search(text) is not None
