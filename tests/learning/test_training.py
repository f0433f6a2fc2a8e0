"""The compiled trainer and the networks, with plain Keras as the oracle."""

import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from trainings import PLAN, HearsOfBatches, bits, dataset, fit_noise, noise, train

from tasks.errors import ModelError
from tasks.learning.backend import keras
from tasks.learning.network import build_model, weights_digest
from tasks.learning.seeding import seeded
from tasks.learning.training import epoch_order, epoch_shifts, predict
from tasks.records import EpochMetrics
from tasks.train import require_finite


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
def test_training_takes_the_steps_that_plain_keras_takes(
    model_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same weights, same batches: 50 images by 16, in calls of two batches, one and two images."""
    for most in ("XLA_BATCHES", "GRAPH_BATCHES"):
        monkeypatch.setattr(f"tasks.learning.training.{most}", 2)
    plan = PLAN.model_copy(update={"model": model_name})
    oracle = build_model(plan, dataset(8, 6, 3))
    x, y = noise(50, 48, 3)
    for epoch in range(plan.epochs):
        order = epoch_order(plan.seed, epoch, 50)
        for start in range(0, 50, 16):
            rows = order[start : start + 16]
            oracle.train_on_batch(x[rows], y[rows])
    model, _ = train(plan, images=50)
    for expected, actual in zip(oracle.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_history_is_the_mean_over_all_images_as_they_were_met() -> None:
    """With a learning rate of almost nothing, every image meets the same network."""
    plan = PLAN.model_copy(update={"learning_rate": 1e-12, "epochs": 1})
    model, history = train(plan, images=50)
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(*noise(50, 48, 3), verbose=0)
    assert history["loss"] == [pytest.approx(loss, rel=1e-5)]
    assert history["accuracy"] == [pytest.approx(accuracy)]


def test_same_settings_give_the_same_bits(reference: keras.Model) -> None:
    assert weights_digest(train(PLAN)[0]) == weights_digest(reference)


def test_another_seed_gives_another_model(reference: keras.Model) -> None:
    other = PLAN.model_copy(update={"seed": 8})
    assert weights_digest(train(other)[0]) != weights_digest(reference)


def test_digest_ignores_how_often_a_model_was_saved(reference: keras.Model, tmp_path: Path) -> None:
    before = weights_digest(reference)
    reference.save(tmp_path / "model.keras")
    assert weights_digest(keras.saving.load_model(tmp_path / "model.keras")) == before


def test_order_of_an_epoch_is_a_permutation_of_its_own() -> None:
    first, second = epoch_order(0, 0, 1000), epoch_order(0, 1, 1000)
    assert sorted(first) == list(range(1000))
    assert (first != second).any()
    assert (first == epoch_order(0, 0, 1000)).all()


def test_fewer_images_than_a_batch_are_trained() -> None:
    _, history = train(PLAN, images=5)
    assert len(history["loss"]) == 2


def test_more_batches_than_one_call_takes_are_trained(
    reference: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches in calls of two: the third comes alone."""
    monkeypatch.setattr("tasks.learning.training.XLA_BATCHES", 2)
    assert weights_digest(train(PLAN)[0]) == weights_digest(reference)


def test_epochs_can_be_trained_in_two_goes(reference: keras.Model) -> None:
    model, _ = train(PLAN, epochs=1)
    fit_noise(model, PLAN, *noise(48, 48, 3), initial_epoch=1)
    assert weights_digest(model) == weights_digest(reference)


def test_memory_mapped_images_give_the_same_bits_and_stay_as_they_are(
    reference: keras.Model, tmp_path: Path
) -> None:
    x, y = noise(48, 48, 3)
    np.save(tmp_path / "x.npy", x)
    before = (tmp_path / "x.npy").read_bytes()
    model = build_model(PLAN, dataset(8, 6, 3))
    fit_noise(model, PLAN, np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    assert weights_digest(model) == weights_digest(reference)
    assert (tmp_path / "x.npy").read_bytes() == before


def test_part_of_a_memory_map_is_that_part(reference: keras.Model, tmp_path: Path) -> None:
    x, y = noise(48, 48, 3)
    np.save(tmp_path / "x.npy", np.concatenate([np.zeros((7, 48), np.float32), x]))
    model = build_model(PLAN, dataset(8, 6, 3))
    fit_noise(model, PLAN, np.load(tmp_path / "x.npy", mmap_mode="r")[7:], y)
    assert weights_digest(model) == weights_digest(reference)


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
                keras.layers.Dense(3, "softmax", kernel_initializer="ones"),
            ]
            model = keras.Sequential(layers)
        model.compile(optimizer="sgd", loss="categorical_crossentropy", metrics=["accuracy"])
        fit_noise(model, PLAN, *noise(48, 48, 3))
        return bits(model)

    assert with_dropout(1) == with_dropout(1)
    assert with_dropout(1) != with_dropout(2)


def test_initial_weights_do_not_depend_on_what_other_threads_draw() -> None:
    """As Prefect's threads do for the pauses between their requests."""
    undisturbed = bits(build_model(PLAN, dataset(8, 6, 3)))
    ended = Event()

    def draw_on() -> None:
        while not ended.wait(0.0002):  # often, and without keeping the builds waiting
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


@pytest.mark.parametrize("callbacks", [[], [HearsOfBatches()]], ids=["compiled", "by Keras"])
def test_training_on_some_rows_is_training_on_these_images_alone(
    callbacks: list[keras.callbacks.Callback],
) -> None:
    x, y = noise(50, 48, 3)
    rows = np.array([40, 3, 17, 8, 9, 31])
    alone, picked = (build_model(PLAN, dataset(8, 6, 3)) for _ in range(2))
    fit_noise(alone, PLAN, x[rows], y[rows], callbacks, batch_size=3)
    fit_noise(picked, PLAN, x, y, callbacks, batch_size=3, rows=rows)
    assert bits(alone) == bits(picked)
    np.testing.assert_array_equal(predict(picked, x, rows=rows), predict(alone, x[rows]))


def test_prediction_covers_the_last_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.learning.training.EVALUATE_BATCH", 3)
    model = build_model(PLAN, dataset(8, 6, 3))
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
