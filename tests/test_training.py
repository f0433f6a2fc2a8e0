"""The compiled trainer and the networks, with plain Keras as the oracle."""

import numpy as np
import pytest

from tasks.backend import keras
from tasks.errors import ImageTooSmallError, TrainingDivergedError
from tasks.network import build_model, weights_digest
from tasks.records import ArrayRef, DatasetRef, EpochMetrics, TrainingPlan
from tasks.train import require_finite
from tasks.training import _block_sizes, epoch_order, fit, predict

PLAN = TrainingPlan(
    model="mlp",
    hidden_units=64,
    epochs=2,
    batch_size=16,
    optimizer="rmsprop",
    learning_rate=0.001,
    seed=7,
)


def dataset(height: int, width: int, classes: int) -> DatasetRef:
    array = ArrayRef(sha256="0" * 64, size_bytes=0, dtype="uint8", shape=(0,))
    return DatasetRef(
        name="made",
        height=height,
        width=width,
        classes=classes,
        x_train=array,
        y_train=array,
        x_test=array,
        y_test=array,
    )


def noise(images: int, pixels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images (image, pixel) in [0, 1] and one-hot labels (image, class)."""
    random = np.random.default_rng(3)
    labels = np.eye(classes, dtype=np.float32)[random.integers(classes, size=images)]
    return random.random((images, pixels), dtype=np.float32), labels


def train(plan: TrainingPlan, images: int = 50) -> tuple[keras.Model, tuple[EpochMetrics, ...]]:
    model = build_model(plan, dataset(8, 6, 3))
    x, y = noise(images, 48, 3)
    history = fit(
        model,
        x,
        y,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        seed=plan.seed,
        on_epoch=lambda _epoch, _metrics: None,
    )
    return model, history


def test_default_network_is_the_reference_experiment() -> None:
    model = build_model(PLAN, dataset(28, 28, 10))
    hidden, output = model.layers
    assert model.input_shape == (None, 784)
    assert (hidden.units, hidden.activation.__name__) == (64, "relu")
    assert (output.units, output.activation.__name__) == (10, "softmax")
    assert model.count_params() == 784 * 64 + 64 + 64 * 10 + 10
    assert model.loss == "categorical_crossentropy"


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
    assert history[0].loss == pytest.approx(loss, rel=1e-5)
    assert history[0].accuracy_fraction == pytest.approx(accuracy)


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
    assert len(history) == 2


@pytest.mark.parametrize(
    ("batches", "batch_bytes", "sizes"),
    [
        (0, 1 << 20, []),
        (3, 1 << 20, [3]),
        (16, 1 << 20, [16]),
        (20, 1 << 20, [10, 10]),
        (33, 1 << 20, [11, 11, 11]),
        (17, 8 << 20, [2, 2, 2, 2, 2, 2, 2, 2, 1]),
        (2, 1 << 30, [1, 1]),
    ],
)
def test_blocks_hold_every_batch_within_the_limit(
    batches: int, batch_bytes: int, sizes: list[int]
) -> None:
    assert _block_sizes(batches, batch_bytes) == sizes


def test_prediction_covers_the_last_few_images() -> None:
    model, _ = train(PLAN)
    x, _ = noise(7, 48, 3)
    np.testing.assert_allclose(predict(model, x, batch_size=3), model(x), rtol=1e-5)


def test_images_too_small_for_the_convolutions_are_refused() -> None:
    plan = PLAN.model_copy(update={"model": "cnn"})
    with pytest.raises(ImageTooSmallError, match="Received: 3 by 8"):
        build_model(plan, dataset(3, 8, 2))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_is_refused(loss: float) -> None:
    with pytest.raises(TrainingDivergedError, match="after epoch 3"):
        require_finite(EpochMetrics(loss=loss, accuracy_fraction=0.1), 3, PLAN)
