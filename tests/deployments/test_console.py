"""A run whose worker has died has nobody who reads what it writes."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

WRITES_WITHOUT_A_READER = """
import logging, os, sys
reader, writer = os.pipe()
os.dup2(writer, 2)
os.close(writer)
from {module} import {name}
log = logging.getLogger("run")
log.addHandler({name}(stream=sys.stderr))
log.error("heard")
os.close(reader)
log.error("unheard")
log.error("unheard")
os._exit(0)
"""


def status_of(module: str, name: str) -> int:
    program = WRITES_WITHOUT_A_READER.format(module=module, name=name)
    return subprocess.run([sys.executable, "-c", program], check=False).returncode


def test_run_goes_on_when_nobody_reads_its_log() -> None:
    assert status_of("deployments.outage", "LastingConsole") == 0


def test_prefects_own_handler_would_end_it() -> None:
    """The reason for ours: when this fails, ours can go."""
    assert status_of("prefect.logging.handlers", "PrefectConsoleHandler") == 1


def test_run_is_patient_with_its_server_from_its_first_line_on() -> None:
    program = """
import logging, sys
from deployments.outage import LastingConsole
from prefect._internal import observers
logging.getLogger("run").addHandler(LastingConsole(stream=sys.stderr))
logging.getLogger("run").error("heard")
from deployments.outage import patient_loop
sys.exit(observers.critical_service_loop is not patient_loop)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
