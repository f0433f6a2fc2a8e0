"""Standard streams that are closed, full, or read by nobody any more.

>&- 2>&- <&-   closed: taken as /dev/null, so that no other file gets their numbers
| head         what is left is not written, and the exit status is 141, as shells have it
> /dev/full    standard output: the command fails and says why; standard error: it goes on
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TextIO, TypeVar, cast

from tasks.errors import PipelineError

P = ParamSpec("P")
R = TypeVar("R")
EXIT_FAILED = 1
EXIT_BROKEN_PIPE = 141  # 128 and SIGPIPE


def on_any_streams(main: Callable[P, R]) -> Callable[P, R]:
    """Let a command's main function write to whatever the streams are."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        before = sys.stdout, sys.stderr
        prepare_streams()
        try:
            status = main(*args, **kwargs)
            sys.stdout.flush()
        finally:
            sys.stdout, sys.stderr = before
        return status

    return run


def prepare_streams() -> None:
    """Make the three streams safe to use, from now on in this process."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if not isinstance(sys.stdout, _Output):
        sys.stdout = cast(TextIO, _Output(sys.stdout or open(os.devnull, "w")))  # noqa: SIM115, PTH123
    if not isinstance(sys.stderr, _Messages):
        sys.stderr = cast(TextIO, _Messages(sys.stderr or open(os.devnull, "w")))  # noqa: SIM115, PTH123


class _Stream:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Messages(_Stream):
    """Standard error: what cannot be shown does not end a training."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class _Output(_Stream):
    """Standard output: a result that cannot be written is an error."""

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._fail(error)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> NoReturn:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # what is still buffered goes there
        if isinstance(error, BrokenPipeError):
            sys.exit(EXIT_BROKEN_PIPE)
        failure = PipelineError(
            "Standard output must take the result.",
            received=error.strerror or error,
            where="standard output",
            advice="Make room on the disk, or write it elsewhere.",
        )
        sys.stderr.write(f"failed {failure}\n")
        sys.exit(EXIT_FAILED)
