"""The compiled trainer and the networks, with plain Keras as the oracle."""

import logging
import random
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from tasks.errors import ModelError
from tasks.learning.backend import keras, tf
from tasks.learning.network import build_model, weights_digest
from tasks.learning.seeding import seeded
from tasks.learning.training import epoch_listener, epoch_order, epoch_shifts, fit, predict
from tasks.records import ArrayRef, DatasetRef, EpochMetrics, TrainingPlan
from tasks.settings import RunSettings
from tasks.train import require_finite

PLAN = RunSettings(epochs=2, batch_size=16, seed=7).plan


def dataset(height: int, width: int, classes: int) -> DatasetRef:
    array = ArrayRef(sha256="0" * 64, size_bytes=0, dtype="uint8", shape=(0,))
    return DatasetRef(
        name="made",
        height=height,
        width=width,
        class_names=tuple(map(str, range(classes))),
        x_train=array,
        y_train=array,
        x_test=array,
        y_test=array,
    )


def noise(images: int, pixels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images (image, pixel) in [0, 1] and one-hot labels (image, class)."""
    drawn = np.random.default_rng(3)
    labels = np.eye(classes, dtype=np.float32)[drawn.integers(classes, size=images)]
    return drawn.random((images, pixels), dtype=np.float32), labels


def train(
    plan: TrainingPlan,
    images: int = 50,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: object,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Train on noise, 8 by 6 pixels in 3 classes; returns the model and its history."""
    model = build_model(plan, dataset(8, 6, 3))
    x, y = noise(images, 48, 3)
    return model, fit_noise(model, plan, x, y, callbacks, **options)


def fit_noise(
    model: keras.Model,
    plan: TrainingPlan,
    x: np.ndarray,
    y: np.ndarray,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: object,
) -> dict[str, list[float]]:
    """Options of the plan overrule it; the others are those of `fit`."""
    changes = {name: options.pop(name) for name in TrainingPlan.model_fields if name in options}
    return fit(model, x, y, plan.model_copy(update=changes), callbacks=callbacks, **options).history


def bits(model: keras.Model) -> bytes:
    """The weights, without the names that Keras numbers through."""
    return b"".join(values.tobytes() for values in model.get_weights())


class HearsOfBatches(keras.callbacks.Callback):
    """A callback that cannot be served by a compiled epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        del batch, logs
        self.batches += 1


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


def test_default_network_is_the_reference_experiment() -> None:
    model = build_model(PLAN, dataset(28, 28, 10))
    hidden, output = model.layers
    assert model.input_shape == (None, 784)
    assert (hidden.units, hidden.activation.__name__) == (64, "relu")
    assert (output.units, output.activation.__name__) == (10, "softmax")
    assert model.count_params() == 784 * 64 + 64 + 64 * 10 + 10
    assert type(model.loss).__name__ == "CategoricalCrossentropy"
    assert model.loss.label_smoothing == 0.0


def test_default_optimizer_is_rmsprop_at_keras_defaults() -> None:
    model = build_model(PLAN, dataset(28, 28, 10))
    expected = keras.optimizers.RMSprop(name=model.optimizer.name)
    assert model.optimizer.get_config() == expected.get_config()


@pytest.mark.parametrize("model_name", ["mlp", "cnn"])
def test_training_takes_the_steps_that_plain_keras_takes(model_name: str) -> None:
    """Same weights, same batches, an odd last batch: 50 images by 16 are 3 batches and 2 images."""
    plan = PLAN.model_copy(update={"model": model_name})
    oracle = build_model(plan, dataset(8, 6, 3))
    x, y = noise(50, 48, 3)
    for epoch in range(plan.epochs):
        order = epoch_order(plan.seed, epoch, 50)
        for start in range(0, 50, 16):
            rows = order[start : start + 16]
            oracle.train_on_batch(x[rows], y[rows])
    model, _ = train(plan)
    for expected, actual in zip(oracle.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_history_is_the_mean_over_all_images_as_they_were_met() -> None:
    """With a learning rate of almost nothing, every image meets the same network."""
    plan = PLAN.model_copy(update={"learning_rate": 1e-12, "epochs": 1})
    model, history = train(plan)
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(*noise(50, 48, 3), verbose=0)
    assert history["loss"] == [pytest.approx(loss, rel=1e-5)]
    assert history["accuracy"] == [pytest.approx(accuracy)]


def test_same_settings_give_the_same_bits() -> None:
    assert weights_digest(train(PLAN)[0]) == weights_digest(train(PLAN)[0])


def test_another_seed_gives_another_model() -> None:
    other = PLAN.model_copy(update={"seed": 8})
    assert weights_digest(train(PLAN)[0]) != weights_digest(train(other)[0])


def test_digest_ignores_how_often_a_model_was_saved(tmp_path: object) -> None:
    model, _ = train(PLAN)
    before = weights_digest(model)
    model.save(f"{tmp_path}/model.keras")
    assert weights_digest(keras.saving.load_model(f"{tmp_path}/model.keras")) == before


def test_order_of_an_epoch_is_a_permutation_of_its_own() -> None:
    first, second = epoch_order(0, 0, 1000), epoch_order(0, 1, 1000)
    assert sorted(first) == list(range(1000))
    assert (first != second).any()
    assert (first == epoch_order(0, 0, 1000)).all()


def test_fewer_images_than_a_batch_are_trained() -> None:
    _, history = train(PLAN, images=5)
    assert len(history["loss"]) == 2


def test_more_batches_than_one_call_takes_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four batches and a rest of two images: in calls of three, the fourth comes alone."""
    whole, _ = train(PLAN, images=66)
    monkeypatch.setattr("tasks.learning.training.XLA_BATCHES", 3)
    in_parts, _ = train(PLAN, images=66)
    assert weights_digest(in_parts) == weights_digest(whole)


def test_epochs_can_be_trained_in_two_goes() -> None:
    at_once, _ = train(PLAN)
    model, _ = train(PLAN, epochs=1)
    fit_noise(model, PLAN, *noise(50, 48, 3), initial_epoch=1)
    assert weights_digest(model) == weights_digest(at_once)


def test_memory_mapped_images_give_the_same_bits(tmp_path: Path) -> None:
    x, y = noise(50, 48, 3)
    np.save(tmp_path / "x.npy", x)
    model = build_model(PLAN, dataset(8, 6, 3))
    fit_noise(model, PLAN, np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    assert weights_digest(model) == weights_digest(train(PLAN)[0])


def test_part_of_a_memory_map_is_that_part(tmp_path: Path) -> None:
    x, y = noise(50, 48, 3)
    np.save(tmp_path / "x.npy", np.concatenate([np.zeros((7, 48), np.float32), x]))
    model = build_model(PLAN, dataset(8, 6, 3))
    fit_noise(model, PLAN, np.load(tmp_path / "x.npy", mmap_mode="r")[7:], y)
    assert weights_digest(model) == weights_digest(train(PLAN)[0])


def test_training_leaves_the_stored_images_as_they_are(tmp_path: Path) -> None:
    x, y = noise(50, 48, 3)
    np.save(tmp_path / "x.npy", x)
    before = (tmp_path / "x.npy").read_bytes()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    fit_noise(build_model(PLAN, dataset(8, 6, 3)), PLAN, mapped, y)
    assert (tmp_path / "x.npy").read_bytes() == before


def test_memory_mapped_images_are_not_copied(tmp_path: Path) -> None:
    """NumPy's memory is counted here; the benchmark measures that of the whole process."""
    x, y = noise(40_000, 48, 3)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = build_model(PLAN, dataset(8, 6, 3))
    tracemalloc.start()
    try:
        fit_noise(model, PLAN, mapped, y, epochs=1, batch_size=1000)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 2
    finally:
        tracemalloc.stop()


def test_dropout_is_drawn_from_the_seed() -> None:
    def with_dropout(seed: int) -> bytes:
        with seeded(seed):
            layers = [
                keras.Input((48,)),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(3, "softmax"),
            ]
            model = keras.Sequential(layers)
        model.compile(optimizer="sgd", loss="categorical_crossentropy", metrics=["accuracy"])
        fit_noise(model, PLAN, *noise(50, 48, 3))
        return bits(model)

    assert with_dropout(1) == with_dropout(1)
    assert with_dropout(1) != with_dropout(2)


def test_initial_weights_do_not_depend_on_what_other_threads_draw() -> None:
    """As Prefect's threads do for the pauses between their requests."""
    undisturbed = bits(build_model(PLAN, dataset(8, 6, 3)))
    ended = Event()

    def draw_on() -> None:
        while not ended.is_set():
            random.random()

    others = Thread(target=draw_on)
    others.start()
    try:
        disturbed = {bits(build_model(PLAN, dataset(8, 6, 3))) for _ in range(20)}
    finally:
        ended.set()
        others.join()
    assert {undisturbed} == disturbed


def test_seeding_is_for_this_thread_and_for_as_long_as_it_lasts() -> None:
    own = random.Random(3)
    expected = [own.random(), own.random()]
    before = random.random
    with seeded(3), ThreadPoolExecutor() as threads:
        first = random.random()
        others = threads.submit(random.random).result()
        second = random.random()
    assert expected == [first, second]
    assert others not in expected[1:]
    assert random.random is before


def test_images_are_moved_by_whole_pixels_and_background_comes_in() -> None:
    """An image of one ink pixel in the middle: the network's first batch shows where it went."""
    seen: list[np.ndarray] = []

    class Recorder(keras.layers.Layer):
        def call(self, inputs: object) -> object:
            seen.append(np.asarray(inputs))
            return inputs

    images = np.zeros((40, 5, 5), np.float32)
    images[:, 2, 2] = 1
    model = keras.Sequential([keras.Input((25,)), Recorder(), keras.layers.Dense(2, "softmax")])
    model.compile(optimizer="sgd", loss="categorical_crossentropy", run_eagerly=True)
    seen.clear()
    labels = np.eye(2, dtype=np.float32)[np.zeros(40, int)]
    fit_noise(
        model,
        PLAN,
        images.reshape(40, 25),
        labels,
        epochs=1,
        batch_size=40,
        shift_pixels=2,
        image_shape=(5, 5),
    )
    moved = seen[-1].reshape(40, 5, 5)
    expected = np.zeros((40, 5, 5), np.float32)
    down, right = epoch_shifts(PLAN.seed, 0, 40, 2).T
    expected[np.arange(40), 2 + down, 2 + right] = 1
    np.testing.assert_array_equal(moved, expected)
    assert {*down.tolist(), *right.tolist()} == {-2, -1, 0, 1, 2}


def test_shifted_training_is_the_same_compiled_and_by_keras() -> None:
    options = {"shift_pixels": 1, "image_shape": (8, 6)}
    compiled, _ = train(PLAN, **options)
    plain, _ = train(PLAN, callbacks=[HearsOfBatches()], **options)
    for expected, actual in zip(plain.get_weights(), compiled.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_callback_that_hears_of_batches_is_served_by_keras(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = HearsOfBatches()
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        _, history = train(PLAN, callbacks=[listener])
    assert listener.batches == 2 * 4  # 50 images by 16, twice
    assert len(history["accuracy"]) == 2
    assert caplog.messages == [
        "trained by Keras's own loop: HearsOfBatches wants to hear of batches"
    ]


@pytest.mark.parametrize("hook", ["on_batch_end", "on_batch_begin", "on_train_batch_end"])
def test_hook_for_batches_that_a_callback_has_on_its_own_is_called(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A LambdaCallback, and any other whose hook is no method of its class."""
    heard: list[int] = []

    def listen(batch: int, logs: object = None) -> None:
        del logs
        heard.append(batch)

    assigned = keras.callbacks.Callback()
    setattr(assigned, hook, listen)
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        for callback in (keras.callbacks.LambdaCallback(**{hook: listen}), assigned):
            train(PLAN, callbacks=[callback])
    assert heard == [0, 1, 2, 3] * 2 * 2  # 50 images by 16, twice, with either callback
    assert caplog.messages == [
        "trained by Keras's own loop: LambdaCallback wants to hear of batches",
        "trained by Keras's own loop: Callback wants to hear of batches",
    ]


def test_lambda_callback_for_epochs_does_not_keep_a_model_from_being_compiled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[int] = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: heard.append(epoch))
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        train(PLAN, callbacks=[callback])
    assert heard == [0, 1]
    assert caplog.messages == []


def test_model_that_xla_cannot_compile_is_compiled_as_a_graph(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def trained(*layers: keras.layers.Layer) -> np.ndarray:
        head = keras.layers.Dense(3, "softmax", use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((48,)), *layers, head])
        model.compile(optimizer="sgd", loss="categorical_crossentropy")
        fit_noise(model, PLAN, *noise(50, 48, 3))
        return np.concatenate([values.ravel() for values in model.get_weights()])

    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        through_python = trained(InPython())
    np.testing.assert_allclose(through_python, trained(), rtol=1e-4, atol=1e-6)
    assert caplog.messages == []


def test_model_that_cannot_be_compiled_is_trained_by_keras(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Reluctant([keras.Input((48,)), keras.layers.Dense(3, "softmax")])
    model.compile(optimizer="sgd", loss="categorical_crossentropy")
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        history = fit_noise(model, PLAN, *noise(50, 48, 3))
    assert len(history["loss"]) == 2
    assert caplog.messages == ["trained by Keras's own loop: not in a program of yours"]


def test_model_that_asks_to_run_eagerly_is_trained_by_keras(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = keras.Sequential([keras.Input((48,)), keras.layers.Dense(3, "softmax")])
    model.compile(optimizer="sgd", loss="categorical_crossentropy", run_eagerly=True)
    with caplog.at_level(logging.WARNING, "tasks.learning.training"):
        history = fit_noise(model, PLAN, *noise(50, 48, 3))
    assert len(history["loss"]) == 2
    assert caplog.messages == ["trained by Keras's own loop: it asks to run eagerly"]


def test_callbacks_hear_of_epochs_with_true_metrics() -> None:
    heard: list[tuple[int, EpochMetrics]] = []
    listener = epoch_listener(lambda epoch, metrics: heard.append((epoch, metrics)))
    _, history = train(PLAN, callbacks=[listener])
    assert heard == [
        (number + 1, EpochMetrics(loss=loss, accuracy_fraction=accuracy))
        for number, (loss, accuracy) in enumerate(
            zip(history["loss"], history["accuracy"], strict=True)
        )
    ]


def test_validation_data_is_evaluated_after_each_epoch() -> None:
    x, y = noise(20, 48, 3)
    model, history = train(PLAN, validation_data=(x, y))
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert len(history["val_loss"]) == 2
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)


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
    history = fit_noise(model, PLAN, *noise(50, 48, 3), callbacks, validation_data=(x, y))
    loss, accuracy = model.evaluate(x.reshape(20, *shape), y, verbose=0)
    assert len(history["val_loss"]) == 2
    assert history["val_loss"][-1] == pytest.approx(loss, rel=1e-5)
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)


@pytest.mark.parametrize("others", [[], [HearsOfBatches()]], ids=["compiled", "by Keras"])
def test_callbacks_hear_of_the_evaluation_after_each_epoch(
    others: list[keras.callbacks.Callback],
) -> None:
    heard: list[object] = []

    def hear_batch(batch: int, logs: object) -> None:
        del logs
        heard.append(batch)

    listener = keras.callbacks.LambdaCallback(
        on_test_begin=lambda _: heard.append("begins"),
        on_test_batch_end=hear_batch,
        on_test_end=lambda _: heard.append("ends"),
    )
    train(PLAN, callbacks=[listener, *others], validation_data=noise(20, 48, 3))
    assert heard == ["begins", 0, "ends"] * 2


@pytest.mark.parametrize("callbacks", [[], [HearsOfBatches()]], ids=["compiled", "by Keras"])
def test_training_on_some_rows_is_training_on_these_images_alone(
    callbacks: list[keras.callbacks.Callback],
) -> None:
    x, y = noise(50, 48, 3)
    rows = np.array([40, 3, 17, 8, 9, 31, 22])
    alone, picked = (build_model(PLAN, dataset(8, 6, 3)) for _ in range(2))
    fit_noise(alone, PLAN, x[rows], y[rows], callbacks, batch_size=3)
    fit_noise(picked, PLAN, x, y, callbacks, batch_size=3, rows=rows)
    assert bits(alone) == bits(picked)
    np.testing.assert_array_equal(predict(picked, x, rows=rows), predict(alone, x[rows]))


def test_early_stopping_stops() -> None:
    stopping = keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=2)
    _, history = train(PLAN, callbacks=[stopping], epochs=9)
    assert len(history["loss"]) == 3


def test_learning_rate_of_a_callback_is_followed() -> None:
    """After the first epoch the rate is zero: the weights stay."""
    after_one, _ = train(PLAN, epochs=1)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.001 if epoch == 0 else 0.0)
    after_three, _ = train(PLAN, callbacks=[schedule], epochs=3)
    assert weights_digest(after_three) == weights_digest(after_one)


def test_schedule_of_the_optimizer_is_followed() -> None:
    """Zero from the fifth step on: 50 images by 16 are four steps an epoch."""

    def trained(epochs: int) -> bytes:
        with seeded(0):
            model = keras.Sequential([keras.Input((48,)), keras.layers.Dense(3, "softmax")])
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.1, 0.0])
        model.compile(keras.optimizers.SGD(rate), "categorical_crossentropy")
        fit_noise(model, PLAN, *noise(50, 48, 3), epochs=epochs)
        return bits(model)

    assert trained(3) == trained(1)


def test_prediction_covers_the_last_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.learning.training.EVALUATE_BATCH", 3)
    model, _ = train(PLAN)
    x, _ = noise(7, 48, 3)
    np.testing.assert_allclose(predict(model, x), model(x), rtol=1e-5)


def test_images_too_small_for_the_convolutions_are_refused() -> None:
    plan = PLAN.model_copy(update={"model": "cnn"})
    with pytest.raises(ModelError, match="Received: 3 by 8"):
        build_model(plan, dataset(3, 8, 2))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_is_refused(loss: float) -> None:
    with pytest.raises(ModelError, match="after epoch 3"):
        require_finite(EpochMetrics(loss=loss, accuracy_fraction=0.1), 3, PLAN)
