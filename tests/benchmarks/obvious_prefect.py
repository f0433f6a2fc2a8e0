"""The same experiment as the obvious Prefect flow: tasks that return arrays, cached by
inputs and task source, results stored as Prefect does by default.

python obvious_prefect.py mnist.npz
"""

import json
import sys
from typing import Any

import keras
import numpy as np
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
    if images.shape != (60000, 28, 28) or labels.max() != 9:
        raise ValueError("bad data")
    return arrays


@task(**CACHED)
def preprocess(arrays: Arrays) -> Arrays:
    x_train, y_train, x_test, y_test = arrays
    return (
        x_train.reshape(60000, 784).astype("float32") / 255,
        keras.utils.to_categorical(y_train, 10),
        x_test.reshape(10000, 784).astype("float32") / 255,
        keras.utils.to_categorical(y_test, 10),
    )


@task(**CACHED)
def train(arrays: Arrays) -> keras.Model:
    x_train, y_train, *_ = arrays
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=12, batch_size=100, verbose=2)
    return model


@task(**CACHED)
def evaluate(model: keras.Model, arrays: Arrays) -> dict[str, float]:
    *_, x_test, y_test = arrays
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    return {"accuracy": accuracy, "loss": loss}


@flow
def obvious(path: str) -> dict[str, float]:
    ready = preprocess(validate(load(path)))
    return evaluate(train(ready), ready)


if __name__ == "__main__":
    print(json.dumps(obvious(sys.argv[1])))
