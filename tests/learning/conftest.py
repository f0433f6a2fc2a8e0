"""Whatever a test of this room computes first, it computes with the default threads."""

from __future__ import annotations

import pytest
from trainings import PLAN, train

from tasks.learning.backend import keras


@pytest.fixture(scope="session", autouse=True)
def _default_threads(default_threads: None) -> None:
    pass


@pytest.fixture(scope="session")
def reference() -> keras.Model:
    """What one training comes to, not to be changed; other trainings are compared with it."""
    return train(PLAN)[0]
