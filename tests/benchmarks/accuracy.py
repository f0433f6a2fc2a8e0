"""How accurate each recipe is, over several seeds.

    make seeds      every recipe, trained on all training images, on the test images
    make recipes    the candidates that the recipes were chosen from, trained on the first 50,000
                    training images and scored on the other 10,000: no test image is looked at

Plain `keras.Model.fit` of the reference experiment stands beside them. How long each takes is
measured by `make bench`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.cache.blobs import Store
from tasks.learning.backend import keras
from tasks.learning.network import build_model
from tasks.learning.training import fit, predict
from tasks.records import ARRAY_NAMES, DatasetRef
from tasks.settings import RunSettings

MNIST = Path(__file__).parents[2] / "tasks" / "sources" / "mnist.npz"
HELD_OUT = 10_000
PLAIN = "plain Keras, fit"


@dataclass(frozen=True)
class Row:
    """One line of a table: settings, or None for plain Keras, and the seeds to train them with."""

    name: str
    settings: dict[str, object] | None
    seeds: int


SEEDS = [
    Row(PLAIN, None, 10),
    Row("mlp", {"model": "mlp"}, 10),
    Row("mlp, fast", {"model": "mlp", "recipe": "fast"}, 10),
    Row("mlp, long", {"model": "mlp", "recipe": "long"}, 5),
    Row("cnn", {"model": "cnn"}, 5),
    Row("cnn, long", {"model": "cnn", "recipe": "long"}, 5),
]


def candidates() -> Iterator[Row]:
    """What was tried before the recipes were chosen."""
    fast = {"model": "mlp", "recipe": "fast"}
    yield Row(PLAIN, None, 3)
    for change in (
        {},
        {"shift_pixels": 0},
        {"label_smoothing": 0.0},
        {"schedule": "constant", "learning_rate": 0.001},
        {"learning_rate": 0.0025},
        {"learning_rate": 0.01},
        {"batch_size": 100},
        {"batch_size": 500},
        {"epochs": 12},
        {"epochs": 60},
    ):
        yield Row(f"mlp, fast{_named(change)}", fast | change, 3)
    cnn = {"model": "cnn", "recipe": "fast"}
    for change in (
        {},
        {"shift_pixels": 1},
        {"label_smoothing": 0.0},
        {"label_smoothing": 0.05},
        {"learning_rate": 0.0025},
        {"learning_rate": 0.01},
        {"batch_size": 125},
        {"hidden_units": 128},
        {"epochs": 5},
        {"epochs": 7},
        {"epochs": 8},
        {"epochs": 12},
        {"epochs": 20},
    ):
        yield Row(f"cnn, fast{_named(change)}", cnn | change, 2)


def _named(change: dict[str, object]) -> str:
    return "".join(f", {name.replace('_', ' ')} {value}" for name, value in change.items())


def stored_mnist(store: Store, *, held_out: bool) -> DatasetRef:
    """MNIST as `preprocess` hands it on; with `held_out`, training images stand in for test."""
    with np.load(MNIST) as archive:
        arrays = {name: archive[name] for name in ARRAY_NAMES}
    if held_out:
        for axis in ("x", "y"):
            whole = arrays[f"{axis}_train"]
            arrays[f"{axis}_train"], arrays[f"{axis}_test"] = whole[:-HELD_OUT], whole[-HELD_OUT:]
    for name in ("x_train", "x_test"):
        arrays[name] = arrays[name].reshape(-1, 784).astype(np.float32) / np.float32(255)
    for name in ("y_train", "y_test"):
        arrays[name] = np.eye(10, dtype=np.float32)[arrays[name]]
    stored = {name: store.put_array(array) for name, array in arrays.items()}
    return DatasetRef(name="mnist", height=28, width=28, class_names=tuple("0123456789"), **stored)


def train(row: Row, seed: int, ready: DatasetRef, store: Store) -> keras.Model:
    """A model built and trained."""
    images, labels = store.open_array(ready.x_train), store.open_array(ready.y_train)
    plan = RunSettings.model_validate({"seed": seed, **(row.settings or {})}).plan
    model = build_model(plan, ready)
    if row.settings is None:
        model.fit(images, labels, epochs=plan.epochs, batch_size=plan.batch_size, verbose=0)
    else:
        fit(model, images, labels, plan, image_shape=(28, 28))
    return model


def measure(row: Row, ready: DatasetRef, store: Store) -> list[float]:
    """Accuracies, one a seed."""
    images = store.open_array(ready.x_test)
    truth = store.open_array(ready.y_test).argmax(axis=1)
    accuracies = []
    for seed in range(row.seeds):
        model = train(row, seed, ready, store)
        accuracies.append(float(np.mean(predict(model, images).argmax(axis=1) == truth)))
        print(f"  {row.name}, seed {seed}: {accuracies[-1]:.4f}", file=sys.stderr)
        keras.backend.clear_session()
    return accuracies


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", action="store_true", help="the candidates, no test image")
    parser.add_argument("--only", default="", help="rows whose name begins so, besides plain Keras")
    options = parser.parse_args()
    rows = list(candidates()) if options.held_out else SEEDS
    rows = [row for row in rows if row.name.startswith((PLAIN, options.only))]
    print("| recipe | seeds | accuracy, mean ± standard deviation | lowest |")
    print("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(root=Path(folder))
        store.prepare()
        ready = stored_mnist(store, held_out=options.held_out)
        for row in rows:
            accuracies = measure(row, ready, store)
            mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
            print(
                f"| {row.name} | {row.seeds} | {100 * mean:.2f} ± {100 * spread:.2f} % "
                f"| {100 * min(accuracies):.2f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
