"""Figures of merit from predicted probabilities and true labels."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, Int

from tasks.records import ArrayRef, ClassMetrics, ConfidenceBin, Metrics, Mistake

# Keras's own bound on probabilities before the logarithm, so that losses compare. That of
# scikit-learn's log_loss is another.
EPSILON = 1e-7
Z_95 = 1.959963984540054  # the standard normal distribution has 95 % of its mass within
BINS = 10
MOST_MISTAKES = 25

Probabilities = Float32[np.ndarray, "image class"]
Labels = Int[np.ndarray, " image"]


def score(probabilities: Probabilities, labels: Labels, stored: ArrayRef) -> Metrics:
    """Every figure that the test images give; a fraction whose denominator is zero counts as 0.

    Rows of `probabilities` sum to 1, `labels` are 0 … classes - 1, `stored` says where the
    probabilities are kept. Imports scikit-learn (1 to 2 s).
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    classes = range(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == labels).sum())
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    figures = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    bins = reliability(probabilities, labels)
    return Metrics(
        accuracy_fraction=right / len(labels),
        accuracy_interval=wilson_interval(right, len(labels)),
        loss=float(-np.log(of_truth.clip(EPSILON, 1 - EPSILON)).mean()),
        images=len(labels),
        per_class=tuple(
            ClassMetrics(label=label, images=images, precision=precision, recall=recall, f1=f1)
            for label, precision, recall, f1, images in zip(
                classes, *(column.tolist() for column in figures), strict=True
            )
        ),
        confusion=confusion_matrix(labels, predicted, labels=classes).tolist(),
        calibration_error=calibration_error(bins),
        reliability=bins,
        mistakes=confident_mistakes(probabilities, labels),
        probabilities=stored,
    )


def wilson_interval(right: int, images: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of accuracies that explain `right` of `images`, 95 % unless `z` says else.

    (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), of p = right / images and n = images:
    E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, J. Am.
    Stat. Assoc. 22 (1927). Unlike the textbook's p ± z·sqrt(p(1-p)/n), it holds near 0 and 1.
    """
    p, n = right / images, images
    centre = p + z**2 / (2 * n)
    margin = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def reliability(probabilities: Probabilities, labels: Labels) -> tuple[ConfidenceBin, ...]:
    """Ten bins ((m-1)/10, m/10] of the predicted class's probability; an empty one is all 0.

    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    inner_edges = (np.arange(1, BINS) / BINS).astype(np.float32)
    bins = np.digitize(confidence, inner_edges, right=True)
    counts = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, values, minlength=BINS) for values in (confidence, right))
    columns = [*(values / np.maximum(counts, 1) for values in sums), counts]
    return tuple(
        ConfidenceBin(confidence=mean, accuracy_fraction=accuracy, images=count)
        for mean, accuracy, count in zip(*(c.tolist() for c in columns), strict=True)
    )


def calibration_error(bins: tuple[ConfidenceBin, ...]) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy, weighed by images."""
    gaps = sum(b.images * abs(b.confidence - b.accuracy_fraction) for b in bins)
    return gaps / sum(b.images for b in bins)


def confident_mistakes(probabilities: Probabilities, labels: Labels) -> tuple[Mistake, ...]:
    """The wrong predictions with the highest probabilities, at most 25; ties by row."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")[:MOST_MISTAKES]]
    columns = (worst, labels[worst], predicted[worst], confidence[worst])
    return tuple(
        Mistake(row=row, label=label, predicted=taken_for, confidence=certainty)
        for row, label, taken_for, certainty in zip(*(c.tolist() for c in columns), strict=True)
    )
