"""The stack at the terminal: `python -m deployments server | deploy | worker | doctor`.

`make server` and the like call it. Everything that is started here finds its secrets in the
stack's files, through the environment and Prefect's profile, never on a command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from deployments.commands import (
    DEPLOY,
    ROOT,
    SERVER,
    WORKER,
    client_environment,
    command,
    server_environment,
)
from deployments.credentials import (
    AUTH,
    Stack,
    make_compose_secrets,
    open_stack,
    server_file,
    stack_folder,
)
from tasks.errors import PipelineError

EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deployments", description=__doc__)
    parser.add_argument("command", choices=[*COMMANDS, "compose-secrets"])
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "compose-secrets":
            return _compose_secrets()
        return COMMANDS[chosen.command](open_stack(stack_folder()))
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return EXIT_FAILED


def _server(stack: Stack) -> int:
    print(f"API       {stack.api_url}")
    print(f"UI        {stack.ui_api_url.removesuffix('/api')}")
    print(f"database  {stack.database_kind}")
    print(f"log in    with the value of {AUTH} in")
    print(f"          {server_file(stack.folder)}")
    return _become(SERVER, server_environment(stack))


def _worker(stack: Stack) -> int:
    return _become(WORKER, client_environment(stack))


def _deploy(stack: Stack) -> int:
    return _become(DEPLOY, client_environment(stack))


def _doctor(stack: Stack) -> int:
    os.environ.update(client_environment(stack))
    from deployments.doctor import examine

    return examine(stack)


def _compose_secrets() -> int:
    path = ROOT / "deployments" / ".env"
    made = make_compose_secrets(path)
    print(f"{path} {'was made' if made else 'is there already'}, for your eyes only.")
    return 0


def _become(arguments: tuple[str, ...], environment: dict[str, str]) -> int:
    """Go on as another program, which takes this one's signals."""
    sys.stdout.flush()
    os.chdir(ROOT)
    program = command(arguments)
    os.execve(program[0], program, environment)  # noqa: S606 - no shell


COMMANDS = {"server": _server, "deploy": _deploy, "worker": _worker, "doctor": _doctor}

if __name__ == "__main__":
    sys.exit(main())
