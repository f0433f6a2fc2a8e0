"""The stack at the terminal: `make ui`, `server`, `deploy`, `worker`, `doctor`, `compose-secrets`.

What is started here finds its secrets in the stack's files, through the environment and
Prefect's profile, never on a command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from deployments import commands
from deployments.commands import (
    ROOT,
    client_environment,
    make_compose_secrets,
    server_environment,
)
from tasks.errors import PipelineError
from tasks.server.home import AUTH, SERVER_FILE, open_stack


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deployments", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("kinds", nargs="*", help="of workers, for `deploy`: docker, kubernetes")
    given = parser.parse_args(arguments)
    if given.kinds and given.command != "deploy":
        parser.error(f"{given.command} takes nothing else")
    try:
        return COMMANDS[given.command](*given.kinds)
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return 1


def _server() -> int:
    stack = open_stack()
    print(f"API       {stack.api_url}")
    print(f"UI        {stack.ui_api_url.removesuffix('/api')}")
    print(f"database  {stack.database_kind}")
    print(f"log in    with the value of {AUTH} in")
    print(f"          {stack.folder / SERVER_FILE}")
    return _become(commands.SERVER, server_environment(stack))


def _ui() -> int:
    from deployments.ui import show_ui

    return show_ui(open_stack())


def _deploy(*kinds: str) -> int:
    return _become((*commands.DEPLOY, *kinds), client_environment(open_stack()))


def _doctor() -> int:
    stack, told = open_stack(), dict(os.environ)
    os.environ.clear()
    os.environ.update(client_environment(stack, told))
    from deployments.doctor import examine

    return examine(stack, told)


def _compose_secrets() -> int:
    path = ROOT / "deployments" / ".env"
    made = make_compose_secrets(path)
    print(f"{path} {'was made' if made else 'is there already'}, for your eyes only.")
    return 0


def _become(arguments: tuple[str, ...], environment: dict[str, str]) -> int:
    """Go on as another program, which takes this one's signals."""
    sys.stdout.flush()
    os.chdir(ROOT)
    program = commands.command(arguments)
    os.execve(program[0], program, environment)  # noqa: S606 - no shell


COMMANDS: dict[str, Callable[..., int]] = {
    "ui": _ui,
    "server": _server,
    "deploy": _deploy,
    "worker": lambda: _become(commands.WORKER, client_environment(open_stack())),
    "doctor": _doctor,
    "compose-secrets": _compose_secrets,
}

if __name__ == "__main__":
    sys.exit(main())
