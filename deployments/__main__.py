"""The stack at the terminal, as the Makefile starts it: server, worker and what looks after them.

What is started here finds its secrets in the stack's files, through the environment and
Prefect's profile, never on a command line.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deployments import commands
from deployments.commands import ROOT, client_environment, server_environment
from tasks import expanded
from tasks.errors import PipelineError
from tasks.server import home
from tasks.terminal.streams import on_any_streams


@on_any_streams
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    run = options.pop("run")
    try:
        home.require_certificates()
        return int(run(**options))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return 1


def _server() -> int:
    stack = home.open_stack()
    print(f"API       {stack.api_url}")
    print(f"UI        {stack.pages}")
    print(f"database  {stack.database_kind}")
    print(f"log in    with the value of {home.AUTH} in")
    print(f"          {stack.folder / home.SERVER_FILE}")
    return _become(commands.SERVER, server_environment(stack))


def _ui() -> int:
    from deployments.ui import show_ui

    return show_ui(home.open_stack())


def _worker() -> int:
    return _become(commands.WORKER, client_environment(home.open_stack()))


def _deploy(kinds: list[str]) -> int:
    return _become((*commands.DEPLOY, *kinds), client_environment(home.open_stack()))


def _doctor() -> int:
    told = dict(os.environ)
    stack = _as_client()
    from deployments.doctor import examine

    return examine(stack, told)


def _smoke() -> int:
    stack = _as_client()
    from deployments.smoke import smoke

    return smoke(stack)


def _as_client() -> home.Stack:
    """Let Prefect, once imported, find the stack's server."""
    stack = home.open_stack()
    environment = client_environment(stack)
    os.environ.clear()
    os.environ.update(environment)
    return stack


def _backup(file: Path) -> int:
    from deployments.archive import backup

    if not (home.stack_folder() / home.SERVER_FILE).exists():
        rule = "There must be something to keep."
        raise PipelineError(rule, received="no secrets yet", where=home.stack_folder())
    print(*backup(home.open_stack(), commands.chosen_folders().model_root, file), sep="\n")
    return 0


def _restore(file: Path, *, replace: bool) -> int:
    from deployments.archive import restore

    models = commands.chosen_folders().model_root
    print(*restore(file, home.stack_folder(), models, replace=replace), sep="\n")
    print("Next: `make server`, `make deploy`, `make worker`, `make doctor`.")
    return 0


def _purge(*, yes: bool) -> int:
    from deployments.purge import purge

    return purge(ask=not yes)


def _compose_secrets() -> int:
    path = ROOT / "deployments" / ".env"
    made = commands.make_compose_secrets(path)
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
    adding = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[..., int]) -> argparse.ArgumentParser:
        added = adding.add_parser(run.__name__.strip("_").replace("_", "-"))
        added.set_defaults(run=run)
        return added

    for run in (_ui, _server, _worker, _doctor, _smoke, _compose_secrets):
        command(run)
    command(_deploy).add_argument("kinds", nargs="*", help="other workers: docker, kubernetes")
    command(_purge).add_argument("--yes", action="store_true", help="ask nothing")
    command(_backup).add_argument("file", type=_path, help="the archive")
    restoring = command(_restore)
    restoring.add_argument("file", type=_path, help="the archive")
    restoring.add_argument("--replace", action="store_true", help="move aside what is there")
    return parser


def _path(text: str) -> Path:
    return expanded(text).absolute()


def _end_tidily() -> None:
    """Let a signal that ends this process leave nothing half-written."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


if __name__ == "__main__":
    _end_tidily()
    sys.exit(main())
