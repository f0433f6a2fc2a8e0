"""What callbacks hear of a training, and what is left to Keras's own loop."""

import logging

import numpy as np
import pytest
from trainings import PLAN, HearsOfBatches, bits, fit_noise, noise, train

from tasks.learning.backend import keras, tf
from tasks.learning.network import weights_digest
from tasks.learning.seeding import seeded
from tasks.learning.training import epoch_listener
from tasks.records import EpochMetrics


def said_by_the_trainer(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Without TensorFlow's own warnings, which depend on what this process trained before."""
    records = (record for record in caplog.records if record.name == "tasks.learning.training")
    return [record.getMessage() for record in records]


class InPython(keras.layers.Layer):
    """Hands its inputs on through Python, which XLA cannot compile and a graph can call."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if keras.backend.is_keras_tensor(inputs):
            return inputs
        outputs = tf.numpy_function(lambda values: values, [inputs], tf.float32, stateful=False)
        return tf.ensure_shape(outputs, inputs.shape)


class Reluctant(keras.Sequential):
    """Refuses both ways of compiling it, and then lets Keras train it."""

    refusals = 2

    def train_step(self, data: object) -> object:
        if self.refusals:
            self.refusals -= 1
            # One of the errors for which the trainer turns to Keras's own loop.
            raise NotImplementedError("not in a program of yours")
        return super().train_step(data)


def test_callback_that_hears_of_batches_is_served_by_keras(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = HearsOfBatches()
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        _, history = train(PLAN, callbacks=[listener])
    assert listener.batches == 2 * 3  # 48 images by 16, twice
    assert len(history["accuracy"]) == 2
    assert said_by_the_trainer(caplog) == [
        "trained by Keras's own loop: HearsOfBatches wants to hear of batches"
    ]


def test_model_that_xla_cannot_compile_is_compiled_as_a_graph(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def trained(*layers: keras.layers.Layer) -> np.ndarray:
        head = keras.layers.Dense(3, "softmax", use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((48,)), *layers, head])
        model.compile(optimizer="sgd", loss="categorical_crossentropy")
        fit_noise(model, PLAN, *noise(48, 48, 3))
        return np.concatenate([values.ravel() for values in model.get_weights()])

    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        through_python = trained(InPython())
    np.testing.assert_allclose(through_python, trained(), rtol=1e-4, atol=1e-6)
    assert said_by_the_trainer(caplog) == []


def test_model_that_cannot_be_compiled_is_trained_by_keras(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Reluctant([keras.Input((48,)), keras.layers.Dense(3, "softmax")])
    model.compile(optimizer="sgd", loss="categorical_crossentropy")
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        history = fit_noise(model, PLAN, *noise(48, 48, 3))
    assert len(history["loss"]) == 2
    assert said_by_the_trainer(caplog) == ["trained by Keras's own loop: not in a program of yours"]


def test_model_that_asks_to_run_eagerly_is_trained_by_keras(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = keras.Sequential([keras.Input((48,)), keras.layers.Dense(3, "softmax")])
    model.compile(optimizer="sgd", loss="categorical_crossentropy", run_eagerly=True)
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        history = fit_noise(model, PLAN, *noise(48, 48, 3))
    assert len(history["loss"]) == 2
    assert said_by_the_trainer(caplog) == ["trained by Keras's own loop: it asks to run eagerly"]


def test_callbacks_for_epochs_hear_true_metrics_and_the_model_is_compiled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[tuple[int, EpochMetrics]] = []
    listener = epoch_listener(lambda epoch, metrics: heard.append((epoch, metrics)))
    assert isinstance(listener, keras.callbacks.LambdaCallback)
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        _, history = train(PLAN, callbacks=[listener])
    assert heard == [
        (number + 1, EpochMetrics(loss=loss, accuracy_fraction=accuracy))
        for number, (loss, accuracy) in enumerate(
            zip(history["loss"], history["accuracy"], strict=True)
        )
    ]
    assert len(heard) == 2
    assert said_by_the_trainer(caplog) == []


@pytest.mark.parametrize("callbacks", [[], [HearsOfBatches()]], ids=["compiled", "by Keras"])
@pytest.mark.parametrize("shape", [(8, 6, 1), (6, 8), (48,)])
def test_validation_data_is_given_the_shape_that_the_model_takes(
    shape: tuple[int, ...], callbacks: list[keras.callbacks.Callback]
) -> None:
    with seeded(0):
        layers = [keras.layers.Conv2D(2, 3)] if len(shape) == 3 else []
        head = [keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
        model = keras.Sequential([keras.Input(shape), *layers, *head])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    x, y = noise(20, 48, 3)
    history = fit_noise(model, PLAN, *noise(48, 48, 3), callbacks, validation_data=(x, y))
    loss, accuracy = model.evaluate(x.reshape(20, *shape), y, verbose=0)
    assert len(history["val_loss"]) == 2
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)


def test_early_stopping_stops() -> None:
    stopping = keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=2)
    _, history = train(PLAN, callbacks=[stopping], epochs=9)
    assert len(history["loss"]) == 3


def test_learning_rate_of_a_callback_is_followed(reference: keras.Model) -> None:
    """After the second epoch the rate is zero: the weights stay."""
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.001 if epoch < 2 else 0.0)
    after_three, _ = train(PLAN, callbacks=[schedule], epochs=3)
    assert weights_digest(after_three) == weights_digest(reference)


def test_schedule_of_the_optimizer_is_followed() -> None:
    """Zero from the fourth step on: 48 images by 16 are three steps an epoch."""

    def trained(epochs: int) -> bytes:
        with seeded(0):
            model = keras.Sequential([keras.Input((48,)), keras.layers.Dense(3, "softmax")])
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.0])
        model.compile(keras.optimizers.SGD(rate), "categorical_crossentropy")
        fit_noise(model, PLAN, *noise(48, 48, 3), epochs=epochs)
        return bits(model)

    assert trained(3) == trained(1)
