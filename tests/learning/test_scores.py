"""Figures of merit, against figures worked out by hand.

Five images, three classes. Class 2 is never predicted.

    true  probabilities      predicted  of the true class
    0     0.50  0.25  0.25   0          1/2
    0     0.25  0.50  0.25   1          1/4
    1     0.25  0.50  0.25   1          1/2
    1     0.25  0.50  0.25   1          1/2
    2     0.50  0.25  0.25   0          1/4
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, log_loss

from tasks.learning.scores import (
    MOST_MISTAKES,
    calibration_error,
    confident_mistakes,
    reliability,
    score,
    wilson_interval,
)
from tasks.records import ArrayRef, ConfidenceBin, Metrics

STORED = ArrayRef(sha256="0" * 64, size_bytes=188, dtype="float32", shape=(5, 3))
A, B, C = [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]  # predicting 0, 1, 2


def scored(probabilities: list[list[float]], labels: list[int]) -> Metrics:
    return score(np.array(probabilities, np.float32), np.array(labels), STORED)


@pytest.fixture
def metrics() -> Metrics:
    return scored([A, B, B, B, A], [0, 0, 1, 1, 2])


def test_accuracy_is_the_fraction_of_right_predictions(metrics: Metrics) -> None:
    assert metrics.accuracy_fraction == 3 / 5


def test_confusion_counts_predictions_by_true_class(metrics: Metrics) -> None:
    assert metrics.confusion == ((1, 1, 0), (0, 2, 0), (1, 0, 0))


def test_loss_is_the_mean_negative_logarithm_of_the_true_class(metrics: Metrics) -> None:
    """Of 1/2, 1/4, 1/2, 1/2, 1/4, that is of 7 factors 1/2."""
    assert metrics.loss == pytest.approx(7 * math.log(2) / 5, rel=1e-12)


def test_images_are_counted_in_all_and_by_class(metrics: Metrics) -> None:
    assert metrics.images == 5
    assert [c.images for c in metrics.per_class] == [2, 2, 1]


def test_precision_is_the_right_part_of_what_was_predicted(metrics: Metrics) -> None:
    assert [c.precision for c in metrics.per_class] == [1 / 2, 2 / 3, 0]


def test_recall_is_the_right_part_of_what_was_there(metrics: Metrics) -> None:
    assert [c.recall for c in metrics.per_class] == [1 / 2, 1, 0]


def test_f1_is_the_harmonic_mean_of_precision_and_recall(metrics: Metrics) -> None:
    assert [c.f1 for c in metrics.per_class] == [1 / 2, 4 / 5, 0]


def test_classes_are_listed_in_order(metrics: Metrics) -> None:
    assert [c.label for c in metrics.per_class] == [0, 1, 2]


def test_place_of_the_probabilities_is_passed_on(metrics: Metrics) -> None:
    assert metrics.probabilities == STORED


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [([A, B, A], [0, 1, 2]), ([A, B, C], [0, 1, 1])],
    ids=["never predicted", "without images"],
)
def test_class_with_an_empty_denominator_scores_zero(
    probabilities: list[list[float]], labels: list[int]
) -> None:
    """And numpy does not warn of a division by zero."""
    last = scored(probabilities, labels).per_class[2]

    assert (last.precision, last.recall, last.f1) == (0, 0, 0)


def test_class_that_neither_occurs_nor_is_predicted_scores_zero() -> None:
    last = scored([A, B], [0, 1]).per_class[2]

    assert (last.images, last.precision, last.recall, last.f1) == (0, 0, 0, 0)


def test_certain_and_right_predictions_score_one() -> None:
    metrics = scored([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0, 1, 2])

    assert metrics.accuracy_fraction == 1
    assert [(c.precision, c.recall, c.f1) for c in metrics.per_class] == [(1, 1, 1)] * 3


def test_certain_and_wrong_prediction_costs_a_finite_loss() -> None:
    """Keras bounds probabilities by 1e-7, so that the logarithm is finite."""
    assert scored([[1, 0, 0]], [1]).loss == pytest.approx(7 * math.log(10), rel=1e-12)


def test_tie_goes_to_the_lower_class() -> None:
    assert scored([[0.25, 0.375, 0.375]], [2]).confusion == ((0, 0, 0), (0, 0, 0), (0, 1, 0))


def test_interval_of_half_right_of_four() -> None:
    """With z = 2: (1/2 + 1/2 ± 2·sqrt(1/16 + 1/16)) / (1 + 1) = (1 ± 1/sqrt(2)) / 2."""
    low, high = wilson_interval(2, 4, z=2.0)

    assert low == pytest.approx((1 - 1 / math.sqrt(2)) / 2, rel=1e-12)
    assert high == pytest.approx((1 + 1 / math.sqrt(2)) / 2, rel=1e-12)


@pytest.mark.parametrize(("right", "images"), [(9751, 10_000), (0, 7), (7, 7), (1, 1), (3, 5)])
def test_interval_is_that_of_scipy(right: int, images: int) -> None:
    oracle = binomtest(right, images).proportion_ci(method="wilson")

    assert wilson_interval(right, images) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_interval_is_part_of_the_metrics(metrics: Metrics) -> None:
    assert metrics.accuracy_interval == wilson_interval(3, 5)


def test_confidences_fall_into_ten_bins_open_below_and_closed_above() -> None:
    """0.5 belongs to (0.4, 0.5], 0.625 to (0.6, 0.7], 1 to (0.9, 1]."""
    rows = np.array([[0.5, 0.5], [0.375, 0.625], [0.375, 0.625], [1, 0]], np.float32)

    bins = reliability(rows, np.array([0, 1, 0, 1]))

    assert [b.images for b in bins] == [0, 0, 0, 0, 1, 0, 2, 0, 0, 1]
    assert bins[4] == ConfidenceBin(confidence=0.5, accuracy_fraction=1, images=1)
    assert bins[6] == ConfidenceBin(confidence=0.625, accuracy_fraction=0.5, images=2)
    assert bins[9] == ConfidenceBin(confidence=1, accuracy_fraction=0, images=1)
    assert bins[0] == ConfidenceBin(confidence=0, accuracy_fraction=0, images=0)


def test_calibration_error_is_the_gap_weighed_by_images() -> None:
    """(1·|0.5 - 1| + 2·|0.625 - 0.5| + 1·|1 - 0|) / 4."""
    rows = np.array([[0.5, 0.5], [0.375, 0.625], [0.375, 0.625], [1, 0]], np.float32)

    assert calibration_error(reliability(rows, np.array([0, 1, 0, 1]))) == 1.75 / 4


def test_mistakes_come_with_the_surest_first_and_ties_by_row() -> None:
    rows = np.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [1, 0]], np.float32)

    mistakes = confident_mistakes(rows, np.array([1, 1, 0, 0, 0]))

    assert [(m.row, m.label, m.predicted, m.confidence) for m in mistakes] == [
        (1, 1, 0, 0.75),
        (2, 0, 1, 0.75),
        (3, 0, 1, 0.75),
        (0, 1, 0, 0.5),
    ]


def test_no_more_mistakes_are_listed_than_can_be_looked_at() -> None:
    rows = np.tile(np.float32([1, 0]), (40, 1))

    assert len(confident_mistakes(rows, np.ones(40, int))) == MOST_MISTAKES == 25


def test_right_predictions_are_no_mistakes() -> None:
    assert scored([A, B, C], [0, 1, 2]).mistakes == ()


def test_figures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    rows = random.dirichlet(np.ones(5), 500).astype(np.float32)
    labels = random.integers(0, 5, 500)

    metrics = score(rows, labels, STORED)

    assert metrics.accuracy_fraction == accuracy_score(labels, rows.argmax(axis=1))
    normalised = rows / rows.sum(axis=1, keepdims=True, dtype=np.float64)
    assert metrics.loss == pytest.approx(log_loss(labels, normalised), rel=1e-6)
