"""This process computes with as many threads as a plan says unless told otherwise."""

from __future__ import annotations

import pytest

from tasks.learning.backend import use_threads
from tasks.settings import RunSettings


@pytest.fixture(scope="session", autouse=True)
def _default_threads() -> None:
    use_threads(RunSettings().plan.threads)
