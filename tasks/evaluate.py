"""Evaluate: how well a model does on images it has never seen."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from prefect import get_run_logger

from tasks import IMPORTS
from tasks.cache.blobs import Store
from tasks.errors import ModelError
from tasks.learning.scores import score
from tasks.orchestration.stage import stage
from tasks.records import DatasetRef, Metrics, ModelRef, Network


@stage()
def evaluate(
    model: ModelRef, network: Network, threads: int, seed: int, ready: DatasetRef, store: Store
) -> Metrics:
    """Score a model on every test image.

    Reads x_test (image, pixel) float32 in [0, 1] and y_test (image, class) float32. `network`
    says which code the model consists of, if it is the user's own, and `seed` what this draws when
    it builds the model; `threads` decide the last bits.
    Raises ModelError if what the model gives are no numbers.
    """
    with IMPORTS:
        from tasks.learning.network import load_model
        from tasks.learning.training import predict

    with store.reading(model.keras_file) as path:
        trained = load_model(path, network, threads, seed, ready)
    probabilities = predict(trained, store.open_array(ready.x_test))
    require_finite(probabilities, ready.name)
    labels = store.open_array(ready.y_test).argmax(axis=1)
    metrics = score(probabilities, labels, store.put_array(probabilities))
    get_run_logger().info(
        "accuracy %.4f (%.4f to %.4f), loss %.4f on %d test images",
        *(metrics.accuracy_fraction, *metrics.accuracy_interval, metrics.loss, metrics.images),
    )
    return metrics


def require_finite(probabilities: Float32[np.ndarray, "image class"], where: str) -> None:
    """Raise ModelError unless every probability is a number."""
    if count := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        raise ModelError(
            "A model's probabilities must be finite numbers.",
            received=f"others for {count} of {len(probabilities)} images",
            where=f"the test images of {where}",
            advice="Look for a division or a logarithm without bounds in its layers.",
        )
