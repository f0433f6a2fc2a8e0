"""Reading the command line and the `MNIST_*` environment into the settings.

    MNIST_EPOCHS=6 python flows/mnist_flow.py --model cnn --json

The command line wins over the environment, the environment over the defaults.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

from pydantic import BeforeValidator, ValidationError
from pydantic_core import from_json
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, NoDecode, SettingsConfigDict

from tasks.settings import LocalRunSettings, RunSettings, Severities

PREFIX = "MNIST_"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_LEVEL_VARIABLE = f"{PREFIX}LOG_LEVEL"
SERVER_WAIT_VARIABLE = f"{PREFIX}SERVER_WAIT"
SERVER_WAIT_SECONDS = 20.0

EPILOG = """\
Each option but --json can also be set by an environment variable: MNIST_EPOCHS=6 is
--epochs 6.
Exit status: 0 the run completed, 1 it failed, 2 the command line was wrong, 130 Ctrl-C,
143 SIGTERM, 129 SIGHUP.
"""


@dataclass(frozen=True)
class CommandLine:
    """What was asked for: the run, and how its terminal behaves."""

    settings: RunSettings
    log_level: str
    json: bool
    server_wait_seconds: float


def _pairs(severity: object) -> object:
    """`duplicates=error,drift=off` as a dict; JSON does as well."""
    if not isinstance(severity, str):
        return severity
    if severity.startswith("{"):
        return from_json(severity)
    return {name: value for name, _, value in (p.partition("=") for p in severity.split(","))}


class _RunSettingsReader(LocalRunSettings, BaseSettings):
    severity: Annotated[Severities, NoDecode, BeforeValidator(_pairs)] = {}

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _metavar_formatter(
        self, action: argparse.Action, default_metavar: Any
    ) -> Callable[[int], tuple[str, ...]]:
        if action.dest == "severity":  # its type would fill several lines
            action.metavar = "CHECK=SEVERITY"
        return super()._metavar_formatter(action, default_metavar)

    def _get_help_string(self, action: argparse.Action) -> str:
        return (action.help or "").replace(" (default: None)", "")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        known = sorted(self._option_string_actions)
        for unknown in re.findall(r"--[\w-]+", message) if "unrecognized" in message else []:
            if close := difflib.get_close_matches(unknown, known, n=1, cutoff=0.7):
                message += f" (did you mean {close[0]}?)"
        self.exit(2, f"{self.prog}: error: {message}\nSee {self.prog} --help.\n")


def parse(arguments: Sequence[str]) -> CommandLine:
    """Read the command line and the environment.

    Exits with status 2, saying what is allowed, when either is wrong.
    """
    parser = _Parser(
        prog="mnist_flow.py",
        description="Load, validate and preprocess a dataset, train and evaluate a Keras model.",
        epilog=EPILOG,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        _RunSettingsReader, root_parser=parser
    )
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default=os.environ.get(LOG_LEVEL_VARIABLE) or "WARNING",
        help="what is logged to the terminal besides the progress (default: WARNING)",
    )
    parser.add_argument(
        "--server-wait",
        metavar="float",
        default=os.environ.get(SERVER_WAIT_VARIABLE) or SERVER_WAIT_SECONDS,
        type=_seconds,
        help="how many seconds to wait for a configured Prefect server that does not answer "
        "(default: 20)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with the result to standard output",
    )
    known = parser.parse_args(arguments)
    if known.log_level not in LOG_LEVELS:  # argparse does not check a default
        parser.error(f"{LOG_LEVEL_VARIABLE}: choose from {', '.join(LOG_LEVELS)}")
    for name, value in vars(known).items():
        if value in ("", [""]):  # to pydantic-settings it would count as not given
            parser.error(f"--{name.replace('_', '-')}: a value must not be empty")
    _reject_unknown_variables(parser)
    try:
        read = CliApp.run(_RunSettingsReader, cli_args=known, cli_settings_source=source)
    except ValidationError as error:
        parser.error("; ".join(_explain(detail) for detail in error.errors()))
    settings = LocalRunSettings.model_validate(read.model_dump())
    return CommandLine(settings, known.log_level, known.json, known.server_wait)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"seconds, 0 or more. Received: {text!r}")
    return seconds


def _explain(detail: object) -> str:
    assert isinstance(detail, dict)
    name = str(detail["loc"][0])
    option, variable = "--" + name.replace("_", "-"), PREFIX + name.upper()
    origin = f" (from {variable})" if os.environ.get(variable, object()) == detail["input"] else ""
    if detail["type"] == "value_error":  # one of ours, which says what it received
        return f"{option}{origin}: {detail['ctx']['error']}"
    return f"{option}{origin}: {detail['msg']}. Received: {detail['input']!r}"


def _reject_unknown_variables(parser: _Parser) -> None:
    names = (*RunSettings.model_fields, "log_level", "server_wait")
    known = [PREFIX + name.upper() for name in names]
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in known:
            close = difflib.get_close_matches(variable, known, n=1, cutoff=0.8)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            parser.error(f"{variable} in the environment is not a setting ({hint})")
