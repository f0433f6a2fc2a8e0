"""`fit` beside Keras's own: the same callbacks hear the same, weights and figures are the same.

The oracle is `keras.Model.fit` over the same batches. What `fit` does not do as Keras does, it
refuses in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from trainings import PLAN, bits, fit_noise, noise

from tasks.errors import ModelError
from tasks.learning import training
from tasks.learning.arguments import flat, held_out
from tasks.learning.backend import keras, tf
from tasks.learning.seeding import seeded
from tasks.learning.training import EVALUATE_BATCH, epoch_order, fit

X, Y = noise(48, 48, 3)
HELD_OUT = noise(20, 48, 3)
WEIGHTS = np.linspace(0, 2, 48, dtype=np.float32)
OF_EPOCHS = [
    *("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end"),
    *("on_test_begin", "on_test_end", "on_test_batch_begin", "on_test_batch_end"),
]
OF_BATCHES = ["on_batch_begin", "on_batch_end"]
OF_TRAIN_BATCHES = ["on_train_batch_begin", "on_train_batch_end"]

Heard = list[tuple[Any, ...]]


def network(*layers: keras.layers.Layer, **compiled: Any) -> keras.Model:
    with seeded(0):
        head = keras.layers.Dense(3, "softmax")
        model = keras.Sequential([keras.Input((48,)), *layers, head])
    usual = {"optimizer": "sgd", "loss": "categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(**(usual | compiled))
    return model


class InOrder(keras.utils.PyDataset):
    """The batches of 16 that Keras's own loop is given: images, labels and perhaps weights."""

    def __init__(self, *arrays: np.ndarray) -> None:
        super().__init__()
        self.arrays, self.epoch = arrays, -1
        self.order = np.arange(48)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        rows = self.order[16 * index : 16 * index + 16]
        return tuple(array[rows] for array in self.arrays)

    def on_epoch_begin(self) -> None:
        self.epoch += 1
        self.order = epoch_order(PLAN.seed, self.epoch, 48)


def plain_fit(model: keras.Model, *arrays: np.ndarray, **options: Any) -> keras.callbacks.History:
    """What Keras itself makes of it."""
    batches = InOrder(*arrays)
    options = {"validation_batch_size": EVALUATE_BATCH, "verbose": 0} | options
    return model.fit(batches, epochs=PLAN.epochs, shuffle=False, **options)


def assert_same(expected: Any, actual: Any) -> None:
    """Floats to five digits, for sums are taken in another order; all else exactly."""
    assert type(expected) is type(actual)
    if isinstance(expected, dict):
        assert list(expected) == list(actual)
        assert_same([*expected.values()], [*actual.values()])
    elif isinstance(expected, list | tuple):
        assert len(expected) == len(actual)
        for one, other in zip(expected, actual, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float | np.ndarray):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    else:
        assert expected == actual


# --- what callbacks hear --------------------------------------------------------------------


def hook(name: str, heard: Heard) -> Callable[..., None]:
    """Writes down its name and all that it is told."""
    if name.startswith(("on_train_", "on_test_")) and "batch" not in name:
        return lambda logs=None: heard.append((name, logs))
    return lambda number, logs=None: heard.append((name, number, logs))


def subclass(names: list[str], heard: Heard) -> keras.callbacks.Callback:
    methods = {name: staticmethod(hook(name, heard)) for name in names}
    return type("Subclass", (keras.callbacks.Callback,), methods)()


def lambda_callback(names: list[str], heard: Heard) -> keras.callbacks.Callback:
    return keras.callbacks.LambdaCallback(**{name: hook(name, heard) for name in names})


def on_the_instance(names: list[str], heard: Heard) -> keras.callbacks.Callback:
    callback = keras.callbacks.Callback()
    for name in names:
        setattr(callback, name, hook(name, heard))
    return callback


class TellsParameters(keras.callbacks.Callback):
    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self.heard = heard

    def on_train_begin(self, logs: object = None) -> None:
        del logs
        self.heard.append(("parameters", self.params))


@pytest.mark.parametrize(
    ("of_batches", "validation_data"),
    [([], None), ([], HELD_OUT), (OF_BATCHES, HELD_OUT), (OF_TRAIN_BATCHES, HELD_OUT)],
    ids=["epochs", "evaluations", "batches", "train batches"],
)
def test_callbacks_hear_what_they_hear_of_keras(
    of_batches: list[str], validation_data: Any
) -> None:
    names = [*OF_EPOCHS, *of_batches]

    def heard(train: Callable[..., object]) -> Heard:
        told: Heard = []
        ways = (subclass, lambda_callback, on_the_instance)
        callbacks = [*(way(names, told) for way in ways), TellsParameters(told)]
        train(network(), X, Y, callbacks=callbacks, validation_data=validation_data)
        return told

    expected = heard(plain_fit)
    unheard = () if validation_data else OF_EPOCHS[4:]
    assert {told[0] for told in expected} == {*names, "parameters"} - {*unheard}
    assert_same(expected, heard(fit_noise_by_plan))


def fit_noise_by_plan(
    model: keras.Model, x: np.ndarray, y: np.ndarray, **options: Any
) -> keras.callbacks.History:
    return fit(model, x, y, PLAN, **options)


def test_callbacks_may_come_one_by_one_or_in_lists_of_lists() -> None:
    first, second = keras.callbacks.Callback(), keras.callbacks.CallbackList()
    assert flat(None) == flat([]) == flat(()) == []
    assert flat(first) == flat([first]) == flat(iter([first])) == [first]
    assert flat([[first], [[second]]]) == [first, second]


def test_callbacks_that_come_in_an_iterator_are_heard() -> None:
    heard: Heard = []
    callbacks = iter([lambda_callback(["on_epoch_end"], heard)])
    fit(network(), X, Y, PLAN, callbacks=callbacks)
    assert [number for _, number, _ in heard] == [0, 1]


def test_hook_for_batches_that_comes_too_late_is_refused() -> None:
    late = keras.callbacks.Callback()
    late.on_train_begin = lambda logs: setattr(late, "on_batch_end", logs)
    with pytest.raises(ModelError, match=r"before training starts\. Received: Callback"):
        fit(network(), X, Y, PLAN, callbacks=[late])


def test_training_that_is_stopped_before_its_first_batch_takes_one_as_by_keras() -> None:
    def steps(train: Callable[..., object]) -> int:
        model = network()

        def stop(*_: object) -> None:
            model.stop_training = True

        train(model, X, Y, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=stop)])
        return int(model.optimizer.iterations.numpy())

    assert steps(plain_fit) == steps(fit_noise_by_plan) == 1


# --- models and their ways of training ------------------------------------------------------


class OwnLogs(keras.Sequential):
    """What it tells of a batch are no metrics of its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        return {"twice": 2 * super().train_step(data)["loss"]}


class OwnFunction(keras.Sequential):
    """Trains by a function of its own, which counts its calls."""

    calls = 0

    def make_train_function(self, force: bool = False) -> None:
        del force
        usual = self._make_function(self.train_step)

        def train_function(iterator: Any) -> Any:
            self.calls += 1
            return usual(iterator)

        self.train_function = train_function


def test_logs_of_its_own_that_a_step_hands_back_are_told() -> None:
    def history(train: Callable[..., Any]) -> dict[str, list[float]]:
        with seeded(0):
            model = OwnLogs([keras.Input((48,)), keras.layers.Dense(3, "softmax")])
        model.compile("sgd", "categorical_crossentropy")
        return train(model, X, Y, validation_data=HELD_OUT).history

    expected = history(plain_fit)
    assert [*expected] == ["twice", "val_loss"]
    assert_same(expected, history(fit_noise_by_plan))


def test_training_function_of_its_own_is_used() -> None:
    model = OwnFunction([keras.Input((48,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "categorical_crossentropy")
    fit(model, X, Y, PLAN)
    assert model.calls == 2 * 3


def test_metric_with_a_figure_for_each_class_is_told() -> None:
    def history(train: Callable[..., Any]) -> dict[str, list[Any]]:
        return train(network(metrics=[keras.metrics.F1Score()]), X, Y).history

    assert_same(history(plain_fit), history(fit_noise_by_plan))


def test_averaged_weights_are_the_final_ones() -> None:
    """`use_ema`: the optimizer puts its averages in the place of the weights at the end."""

    def weights(train: Callable[..., object]) -> list[np.ndarray]:
        model = network(optimizer=keras.optimizers.SGD(0.5, use_ema=True))
        train(model, X, Y)
        return model.get_weights()

    assert_same(weights(plain_fit), weights(fit_noise_by_plan))


def test_random_layers_draw_as_often_as_by_keras() -> None:
    """Noise where others are deterministic: looking at the model beforehand draws none."""

    class Noisy(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seed = keras.random.SeedGenerator(4)

        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return inputs + keras.random.normal(tf.shape(inputs), seed=self.seed)

    def state(train: Callable[..., object]) -> list[int]:
        noisy = Noisy()
        train(network(noisy), X, Y)
        return noisy.seed.state.numpy().tolist()

    assert state(plain_fit) == state(fit_noise_by_plan)


def test_epochs_are_trained_in_two_goes_by_keras_as_well() -> None:
    def trained(*goes: tuple[int, int]) -> bytes:
        model = network()
        for start, end in goes:
            callbacks = [lambda_callback(["on_batch_end"], [])]
            fit_noise(model, PLAN, X, Y, callbacks, initial_epoch=start, epochs=end)
        return bits(model)

    assert trained((0, 2)) == trained((0, 1), (1, 2))


def test_images_are_given_as_they_are_to_a_model_that_does_not_say_what_it_takes() -> None:
    class Takes(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.head = keras.layers.Flatten(), keras.layers.Dense(3, "softmax")

        def call(self, images: tf.Tensor) -> tf.Tensor:
            assert tuple(images.shape[1:]) == (8, 6)
            return self.head(self.flat(images))

    model = Takes()
    model.compile("sgd", "categorical_crossentropy")
    x, y = HELD_OUT
    history = fit(model, X.reshape(48, 8, 6), Y, PLAN, validation_data=(x.reshape(20, 8, 6), y))
    assert len(history.history["val_loss"]) == 2


def test_images_of_any_size_are_given_as_they_are() -> None:
    images = keras.Input((None, None, 1))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(images))
    model = keras.Model(images, keras.layers.Dense(3, "softmax")(features))
    model.compile("sgd", "categorical_crossentropy")
    assert len(fit(model, X.reshape(48, 8, 6, 1), Y, PLAN).history["loss"]) == 2


# --- weights of images, and held-out images -------------------------------------------------

HEARS_OF_BATCHES = {"callbacks": [lambda_callback(["on_batch_end"], [])]}


@pytest.mark.parametrize("others", [{}, HEARS_OF_BATCHES], ids=["compiled", "by Keras"])
def test_images_are_weighed_as_by_keras(others: dict[str, Any]) -> None:
    expected, actual = (network(weighted_metrics=["accuracy"]) for _ in range(2))
    told = plain_fit(expected, X, Y, WEIGHTS)
    assert_same(told.history, fit(actual, X, Y, PLAN, sample_weight=WEIGHTS, **others).history)
    assert_same(expected.get_weights(), actual.get_weights())


@pytest.mark.parametrize(
    ("labels", "loss"),
    [(Y, "categorical_crossentropy"), (Y.argmax(axis=1), "sparse_categorical_crossentropy")],
    ids=["one-hot", "numbers"],
)
def test_classes_are_weighed_as_by_keras(labels: np.ndarray, loss: str) -> None:
    by_class = {0: 3.0, 2: 0.5}  # what is not named weighs 1
    expected, actual = network(loss=loss), network(loss=loss)
    told = plain_fit(expected, X, labels, class_weight=by_class)
    assert_same(told.history, fit(actual, X, labels, PLAN, class_weight=by_class).history)
    assert_same(expected.get_weights(), actual.get_weights())


@pytest.mark.parametrize("batch", [7, 10, 1000])
@pytest.mark.parametrize(
    "given",
    [
        lambda: (*HELD_OUT, WEIGHTS[:20].astype(np.float64)),
        lambda: tf.data.Dataset.from_tensor_slices(HELD_OUT).batch(7),
    ],
    ids=["weighed", "Dataset"],
)
def test_validation_data_is_evaluated_as_by_keras(
    monkeypatch: pytest.MonkeyPatch, given: Callable[[], Any], batch: int
) -> None:
    """In whole batches, with a smaller one behind them, and in none but that."""
    monkeypatch.setattr(training, "EVALUATE_BATCH", batch)
    expected = plain_fit(network(), X, Y, validation_data=given(), validation_batch_size=batch)
    actual = fit(network(), X, Y, PLAN, validation_data=given())
    assert_same(expected.history, actual.history)


def test_validation_labels_may_be_numbers() -> None:
    data = (HELD_OUT[0], HELD_OUT[1].argmax(axis=1))
    numbers, loss = Y.argmax(axis=1), "sparse_categorical_crossentropy"
    expected = plain_fit(network(loss=loss), X, numbers, validation_data=data)
    actual = fit(network(loss=loss), X, numbers, PLAN, validation_data=data)
    assert_same(expected.history, actual.history)


def test_validation_data_may_come_in_any_form() -> None:
    x, y = HELD_OUT
    for images in (x, x.reshape(20, 8, 6), tf.constant(x), pd.DataFrame(x)):
        for labels in (y, y.tolist()):
            taken, truth, weights = held_out([images, labels], (6, 8)) or ()
            np.testing.assert_array_equal(taken, x.reshape(20, 6, 8))
            assert truth is labels
            assert weights is None
    batches = InOrder(X, Y)
    assert held_out(batches, (6, 8)) == (batches, None, None)


# --- what is refused ------------------------------------------------------------------------


def two_inputs() -> keras.Model:
    inputs = [keras.Input((24,)), keras.Input((24,))]
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(inputs)))
    model.compile("sgd", "mse")
    return model


def generated() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield HELD_OUT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size.* greater than or equal to 1. Received: 0"),
        ({"batch_size": -3}, "batch_size.* greater than or equal to 1. Received: -3"),
        ({"epochs": 0}, "epochs.* greater than or equal to 1. Received: 0"),
        ({"initial_epoch": -1}, "0 … 2. Received: -1"),
        ({"shift_pixels": 1}, "image_shape.*Received: None"),
        ({"image_shape": (5, 5)}, r"image_shape.*Received: \(5, 5\)"),
        ({"rows": np.arange(48) < 9}, "Received: 48 of dtype bool"),
        ({"rows": np.array([], np.int32)}, "Received: 0 of dtype int32"),
        ({"rows": np.array([3, 48])}, "Received: 3 … 48"),
        ({"rows": np.array([3, -1])}, "Received: -1 … 3"),
        ({"sample_weight": WEIGHTS[:9]}, "as many.*Received: 48 images, 48 labels, 9 weights"),
        ({"sample_weight": WEIGHTS, "class_weight": {}}, "not both"),
        ({"validation_data": (X[:, :40], Y)}, r"Received: images of shape \(40,\)"),
        ({"validation_data": (X, Y[:9])}, "Received: 48 images, 9 labels"),
        ({"validation_data": generated()}, "read again after each epoch. Received: generator"),
        ({"steps_per_epoch": 2, "verbose": 1}, "Received: steps_per_epoch, verbose"),
        ({"validation_split": 0.1}, "Received: validation_split"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fit_noise(network(), PLAN, X, Y, **options)


def test_labels_that_are_too_few_are_refused() -> None:
    with pytest.raises(ModelError, match=r"as many.*Received: 48 images, 47 labels"):
        fit(network(), X, Y[:-1], PLAN)


def test_model_that_is_not_compiled_is_refused() -> None:
    with pytest.raises(ModelError, match="must be compiled"):
        fit(keras.Sequential([keras.Input((48,)), keras.layers.Dense(3)]), X, Y, PLAN)


def test_model_with_several_inputs_is_refused() -> None:
    with pytest.raises(ModelError, match=r"one input\. Received: 2"):
        fit(two_inputs(), X, Y, PLAN)
