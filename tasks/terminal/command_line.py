"""Reading the command line and the `MNIST_*` environment into the settings.

    MNIST_EPOCHS=6 python flows/mnist_flow.py --model cnn --json

The command line wins over the environment, the environment over the defaults.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import from_json
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, NoDecode, SettingsConfigDict

from tasks.settings import SEVERITY, LocalRunSettings, RunSettings, Severities

PREFIX = "MNIST_"
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


class _Options(LocalRunSettings, BaseSettings):
    """Every option that has a variable as well: the run's parameters, and two of the terminal."""

    severity: Annotated[Severities, NoDecode, BeforeValidator(_pairs)] = Field(
        default={},
        description=f"{RunSettings.model_fields['severity'].description}, as in duplicates=error; "
        f"of {', '.join(SEVERITY)}, each a warning unless set",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="WARNING", description="what is logged to the terminal besides the progress"
    )
    server_wait: float = Field(
        default=20.0,
        ge=0,
        allow_inf_nan=False,
        description="how many seconds to wait for a configured Prefect server that does not answer",
    )

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )


class _Parser(argparse.ArgumentParser):
    def _add_action(self, action: Any) -> Any:
        action.help = re.sub(r" \(default: (None|\{\})\)$", "", action.help or "")
        if action.dest == "severity":  # its type would fill several lines
            action.metavar = "CHECK=SEVERITY"
        return super()._add_action(action)

    def error(self, message: str) -> NoReturn:
        for unknown in re.findall(r"--[\w-]+", message) if "unrecognized" in message else []:
            message += _did_you_mean(unknown, self._option_string_actions, 0.7)
        self.exit(2, f"{self.prog}: error: {message}\nSee {self.prog} --help.\n")


def parse(arguments: Sequence[str]) -> CommandLine:
    """Exit with status 2, saying what is allowed, when a value or variable is wrong."""
    parser = _Parser(
        prog="mnist_flow.py",
        description="Load, validate and preprocess a dataset, train and evaluate a Keras model.",
        epilog=EPILOG,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
        allow_abbrev=False,
    )
    source = CliSettingsSource[_Parser](_Options, root_parser=parser)
    json_help = "print one JSON object with the result to standard output"
    parser.add_argument("--json", action="store_true", help=json_help)
    known = parser.parse_args(arguments)
    for name, value in vars(known).items():
        if value in ("", [""]):  # to pydantic-settings it would count as not given
            parser.error(f"{_option(name)}: a value must not be empty")
    _reject_near_misses(parser)
    try:
        read = CliApp.run(_Options, cli_args=known, cli_settings_source=source)
    except ValidationError as error:
        parser.error("; ".join(_explain(detail) for detail in error.errors()))
    settings = read.model_dump(include=set(LocalRunSettings.model_fields))
    return CommandLine(
        LocalRunSettings.model_validate(settings), read.log_level, known.json, read.server_wait
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _explain(detail: Any) -> str:
    name, received = str(detail["loc"][0]), detail["input"]
    variable = PREFIX + name.upper()
    origin = f" (from {variable})" if os.environ.get(variable, object()) == received else ""
    if detail["type"] == "value_error":  # one of ours, which says what it received
        return f"{_option(name)}{origin}: {detail['ctx']['error']}"
    return f"{_option(name)}{origin}: {detail['msg']}. Received: {received!r}"


def _reject_near_misses(parser: _Parser) -> None:
    """Refuse mistyped variables. Others of our prefix are somebody else's, Kubernetes' say."""
    known = [name.upper() for name in _Options.model_fields]
    for variable in os.environ:
        name = variable.removeprefix(PREFIX)
        hint = _did_you_mean(name, known, 0.8, PREFIX)
        if variable.startswith(PREFIX) and name not in known and hint:
            parser.error(f"{variable} in the environment is not a setting{hint}")


def _did_you_mean(unknown: str, known: Iterable[str], cutoff: float, prefix: str = "") -> str:
    close = difflib.get_close_matches(unknown, sorted(known), 1, cutoff)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
