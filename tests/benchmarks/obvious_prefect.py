"""The same experiment as the obvious Prefect flow: tasks that return arrays, cached by
inputs and task source, results stored as Prefect does by default.

python obvious_prefect.py mnist.npz --epochs 12
"""

import argparse
import json
from typing import Any

import keras
import numpy as np
from obvious_network import build_network
from prefect import flow, task
from prefect.cache_policies import INPUTS, TASK_SOURCE

CACHED: dict[str, Any] = {"cache_policy": INPUTS + TASK_SOURCE, "persist_result": True}
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@task(**CACHED)
def load(path: str) -> Arrays:
    with np.load(path) as archive:
        return archive["x_train"], archive["y_train"], archive["x_test"], archive["y_test"]


@task(**CACHED)
def validate(arrays: Arrays) -> Arrays:
    """Hands the arrays on, so that Prefect sees that preprocess depends on the check."""
    images, labels, *_ = arrays
    if images.shape != (len(labels), 28, 28) or labels.max() != 9:
        raise ValueError("bad data")
    return arrays


@task(**CACHED)
def preprocess(arrays: Arrays) -> Arrays:
    x_train, y_train, x_test, y_test = arrays
    return (
        x_train.reshape(-1, 784).astype("float32") / 255,
        keras.utils.to_categorical(y_train, 10),
        x_test.reshape(-1, 784).astype("float32") / 255,
        keras.utils.to_categorical(y_test, 10),
    )


@task(**CACHED)
def train(arrays: Arrays, epochs: int) -> keras.Model:
    x_train, y_train, *_ = arrays
    keras.utils.set_random_seed(0)
    model = build_network()
    model.fit(x_train, y_train, epochs=epochs, batch_size=100, verbose=2)
    return model


@task(**CACHED)
def evaluate(model: keras.Model, arrays: Arrays) -> dict[str, float]:
    *_, x_test, y_test = arrays
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    return {"accuracy": accuracy, "loss": loss}


@flow
def obvious(path: str, epochs: int) -> dict[str, float]:
    ready = preprocess(validate(load(path)))
    return evaluate(train(ready, epochs), ready)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--epochs", type=int, default=12)
    print(json.dumps(obvious(**vars(parser.parse_args()))))
