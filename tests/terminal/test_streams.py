"""Standard streams that are closed, full, or read by nobody, of real commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT

LISTS = "-m tasks.terminal.cache_command --cache-dir {cache} list"
OPERATES = "-m deployments --help"
ON_STANDARD_OUTPUT = "Standard output must take the result. Received: No space left on device"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line as typed into bash, with the status of the first command in a pipe."""
    return subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {line}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(params=[LISTS, OPERATES], ids=["mnist-cache", "deployments"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{sys.executable} {request.param.format(cache=tmp_path)}"


def test_reader_that_has_gone_ends_a_command_quietly(command: str) -> None:
    done = shell(f"{command} | exec 0<&-")
    assert (141, "") == (done.returncode, done.stderr)


def test_full_disk_is_one_clear_error(command: str) -> None:
    done = shell(f"{command} > /dev/full")
    assert done.returncode == 1
    assert ON_STANDARD_OUTPUT in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2> /dev/full"])
def test_closed_streams_and_full_messages_change_nothing(command: str, how: str) -> None:
    done = shell(f"{command} {how}")
    assert (0, "") == (done.returncode, done.stderr)


CLOSED_NUMBERS = """
import os
from tasks.terminal.streams import prepare_streams
prepare_streams()
assert os.open("/dev/null", os.O_RDONLY) > 2
print("to nobody")
"""


def test_files_do_not_get_the_numbers_of_closed_streams() -> None:
    assert shell(f"{sys.executable} -c '{CLOSED_NUMBERS}' <&- >&- 2>&-").returncode == 0
