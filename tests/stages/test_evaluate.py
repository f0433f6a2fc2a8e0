"""Evaluate: what a model must give."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.errors import ModelError
from tasks.evaluate import require_finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_probability_that_is_no_number_is_refused(value: float) -> None:
    probabilities = np.full((4, 2), 0.5, np.float32)
    probabilities[1:3, 0] = value

    with pytest.raises(ModelError, match=r"others for 2 of 4 images \(in the test images of tiny"):
        require_finite(probabilities, "tiny")


def test_finite_probabilities_are_accepted() -> None:
    require_finite(np.full((4, 2), 0.5, np.float32), "tiny")
