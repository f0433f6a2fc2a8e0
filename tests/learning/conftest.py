"""Whatever a test of this room computes first, it computes with the default threads."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _default_threads(default_threads: None) -> None:
    pass
