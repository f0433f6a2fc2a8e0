"""The stack at the terminal, as the Makefile starts it: server, worker and what looks after them.

What is started here finds its secrets in the stack's files, through the environment and
Prefect's profile, never on a command line.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deployments import commands
from deployments.commands import (
    ROOT,
    client_environment,
    make_compose_secrets,
    server_environment,
)
from tasks.errors import PipelineError
from tasks.server.home import (
    AUTH,
    SERVER_FILE,
    Stack,
    open_stack,
    require_certificates,
    stack_folder,
)
from tasks.settings import RunSettings
from tasks.terminal.streams import on_any_streams


@on_any_streams
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        require_certificates()
        return int(options.run(options))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return 1


def _server() -> int:
    stack = open_stack()
    print(f"API       {stack.api_url}")
    print(f"UI        {stack.pages}")
    print(f"database  {stack.database_kind}")
    print(f"log in    with the value of {AUTH} in")
    print(f"          {stack.folder / SERVER_FILE}")
    return _become(commands.SERVER, server_environment(stack))


def _ui() -> int:
    from deployments.ui import show_ui

    _end_tidily()
    return show_ui(open_stack())


def _deploy(options: argparse.Namespace) -> int:
    return _become((*commands.DEPLOY, *options.kinds), client_environment(open_stack()))


def _doctor() -> int:
    stack, told = _as_client()
    from deployments.doctor import examine

    return examine(stack, told)


def _smoke() -> int:
    stack, _ = _as_client()
    from deployments.smoke import smoke

    return smoke(stack)


def _as_client() -> tuple[Stack, dict[str, str]]:
    """Let Prefect, once imported, find the stack's server; returns the operator's variables too."""
    stack, told = open_stack(), dict(os.environ)
    os.environ.clear()
    os.environ.update(client_environment(stack, told))
    return stack, told


def _backup(options: argparse.Namespace) -> int:
    from deployments.archive import backup

    _end_tidily()
    if not (stack_folder() / SERVER_FILE).exists():
        rule = "There must be something to keep."
        raise PipelineError(rule, received="no secrets yet", where=stack_folder())
    print(*backup(open_stack(), _models(), options.file), sep="\n")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from deployments.archive import restore

    _end_tidily()
    print(*restore(options.file, stack_folder(), _models(), replace=options.replace), sep="\n")
    print("Next: `make server`, `make deploy`, `make worker`, `make doctor`.")
    return 0


def _end_tidily() -> None:
    """Let a signal that ends this process leave nothing half-written, and no server behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _models() -> Path:
    return RunSettings(model_dir=os.environ.get("MNIST_MODEL_DIR") or None).model_root


def _purge(options: argparse.Namespace) -> int:
    from deployments.purge import purge

    return purge(ask=not options.yes)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deployments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run in COMMANDS.items():
        commands.add_parser(name).set_defaults(run=lambda _, run=run: run())
    for name, with_options in WITH_OPTIONS.items():
        command = commands.add_parser(name)
        command.set_defaults(run=with_options)
        if name == "deploy":
            command.add_argument("kinds", nargs="*", help="other workers: docker, kubernetes")
        elif name == "purge":
            command.add_argument("--yes", action="store_true", help="ask nothing")
        else:
            command.add_argument("file", type=_path, help="the archive")
        if name == "restore":
            there = "move aside what is there"
            command.add_argument("--replace", action="store_true", help=there)
    return parser


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - pathlib's raises for unknown users


COMMANDS = {
    "ui": _ui,
    "server": _server,
    "worker": lambda: _become(commands.WORKER, client_environment(open_stack())),
    "doctor": _doctor,
    "smoke": _smoke,
    "compose-secrets": _compose_secrets,
}

WITH_OPTIONS = {"deploy": _deploy, "backup": _backup, "restore": _restore, "purge": _purge}

if __name__ == "__main__":
    sys.exit(main())
