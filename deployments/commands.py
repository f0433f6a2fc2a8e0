"""The commands of the stack and what they are told: the server, its services, a worker.

The compose file starts the same commands with the same variables; a test holds them together.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from deployments.credentials import CHOICES, CLIENT_AUTH, CLIENT_URL, SECRETS, UI_API_URL, Stack

ROOT = Path(__file__).parents[1]
PREFECT_FILE = "deployments/prefect.yaml"
POOL = "mnist"
DAY_SECONDS = 24 * 60 * 60

SERVER = ("prefect", "server", "start")
# For a server that leaves the services to a process of their own, as in the compose file.
API_ONLY = (*SERVER, "--no-services")
SERVICES = ("prefect", "server", "services", "start")
DEPLOY = ("python", "-m", "deployments.deploy")
WORKER = ("python", "-m", "deployments.worker")

NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

# What every server is told, wherever it runs. What the operator has set goes first.
SERVER_SETTINGS = {
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * DAY_SECONDS),
    # The newer of Prefect's two UIs tells a company's server about each visit, whatever is set.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Kept in memory, which is the default, the turn that a run has taken would be taken for ever
    # once the server is started again, and no later run would begin.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
}

# What every worker is told, and through it every run.
WORKER_SETTINGS = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",  # seconds; a run that misses three is dead
    "PREFECT_CLIENT_MAX_RETRIES": "8",  # 2 + 4 + … + 256 s: a server may be away for minutes
    "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": "deployments.console.LastingConsole",
    "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
    "PREFECT_WORKER_WEBSERVER_PORT": "8080",
}


def server_environment(stack: Stack, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of the stack's server."""
    return {
        **SERVER_SETTINGS,
        **_own(environment, stack),
        **NO_TELEMETRY,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": stack.origins,
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(stack.folder / "ui"),
        **stack.server,
        UI_API_URL: stack.ui_api_url,
    }


def client_environment(stack: Stack, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of what talks to the server: it knows how to log in, by the profile."""
    return {**WORKER_SETTINGS, **_own(environment, stack), **NO_TELEMETRY}


def command(arguments: tuple[str, ...]) -> list[str]:
    """A command with the Prefect that belongs to this Python."""
    name, *others = arguments
    return [str(Path(sys.executable).with_name(name)), *others]


def _own(environment: Mapping[str, str], stack: Stack) -> dict[str, str]:
    """The operator's environment without what the stack's files say."""
    profile = ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
    decided = {CLIENT_URL, CLIENT_AUTH, *profile, *CHOICES, *SECRETS}
    kept = {name: value for name, value in environment.items() if name not in decided}
    return {**kept, "PREFECT_HOME": str(stack.folder)}
