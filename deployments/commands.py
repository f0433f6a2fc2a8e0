"""The commands of the stack and what they are told: the server, its services, a worker.

The compose file reads the same files in `environment/`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.server import home
from tasks.server.home import Stack
from tasks.settings import RunSettings

ROOT = Path(__file__).parents[1]
PREFECT_FILE = "deployments/prefect.yaml"
POOL = "mnist"

SERVER = ("python", "-m", "deployments.server")
DEPLOY = ("python", "-m", "deployments.deploy")
WORKER = ("python", "-m", "deployments.worker")

PROFILE = ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
COMPOSE_PASSWORDS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD")

FOR_ALL, FOR_SERVERS, FOR_CLIENTS = (
    home.read_variables(ROOT / "deployments" / "environment" / f"{whose}.env")
    for whose in ("everywhere", "servers", "clients")
)


def server_environment(stack: Stack, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of the stack's server."""
    return {
        **FOR_SERVERS,
        **_own(environment, stack),
        **FOR_ALL,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": stack.origins,
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(stack.folder / "ui"),
        **stack.server,
        home.UI_API_URL: stack.ui_api_url,
    }


def client_environment(stack: Stack, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of what talks to the server: it knows how to log in, by the profile."""
    return {**FOR_CLIENTS, **_own(environment, stack), **FOR_ALL}


def command(arguments: tuple[str, ...]) -> list[str]:
    """A command with the Prefect that belongs to this Python."""
    return [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]


def by_hand(arguments: str) -> str:
    """A command of Prefect's as it is typed in the repository's root, for the server in use."""
    folder = os.environ.get("PREFECT_HOME")
    profile = f"PREFECT_HOME={shlex.quote(folder)} " if folder else ""
    return f"`{profile}.venv/bin/prefect {arguments}`"


def chosen_folders() -> RunSettings:
    """Where runs from this terminal keep what they compute."""
    cache, models = (os.environ.get(f"MNIST_{kind}_DIR") or None for kind in ("CACHE", "MODEL"))
    return RunSettings(cache_dir=cache, model_dir=models)


def make_compose_secrets(path: Path) -> bool:
    """Make compose's file of secrets; False if it is there. Raises PipelineError if not private."""
    passwords = {name: home.new_password() for name in COMPOSE_PASSWORDS}
    return home.make_private(path, home.as_lines({**passwords, **home.new_secrets()}))


def _own(environment: Mapping[str, str], stack: Stack) -> dict[str, str]:
    """The operator's environment without what the stack's files say."""
    decided = {*home.CLIENT, *home.CHOICES, *home.SECRETS, *PROFILE}
    kept = {name: value for name, value in environment.items() if name not in decided}
    return {**kept, "PREFECT_HOME": str(stack.folder)}
