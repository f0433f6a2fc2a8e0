"""Figures of merit from predicted probabilities and true labels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int

from tasks.records import ArrayRef, ClassMetrics, Metrics

# Keras's own bound on probabilities before the logarithm, so that losses compare.
EPSILON = 1e-7


def score(
    probabilities: Float32[np.ndarray, "image class"],
    labels: Int[np.ndarray, " image"],
    stored: ArrayRef,
) -> Metrics:
    """Accuracy, categorical cross-entropy, confusion and per-class precision, recall, F1.

    A fraction whose denominator is zero counts as 0.

    Args:
        probabilities: rows sum to 1.
        labels: 0 … classes - 1.
        stored: where the probabilities are kept.
    """
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    right, actual, claimed = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratio(right, claimed), _ratio(right, actual)
    f1 = _ratio(2 * right, actual + claimed)
    true_probability = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return Metrics(
        accuracy_fraction=float(right.sum() / len(labels)),
        loss=float(-np.log(true_probability.clip(EPSILON, 1 - EPSILON)).mean()),
        images=len(labels),
        per_class=tuple(
            ClassMetrics(
                label=label,
                images=int(actual[label]),
                precision=float(precision[label]),
                recall=float(recall[label]),
                f1=float(f1[label]),
            )
            for label in range(classes)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        probabilities=stored,
    )


def _ratio(
    part: Int[np.ndarray, " class"], whole: Int[np.ndarray, " class"]
) -> Float[np.ndarray, " class"]:
    ratio: np.ndarray = part / np.maximum(whole, 1)
    return ratio
