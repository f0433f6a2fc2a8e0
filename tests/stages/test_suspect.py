"""Labels that are known to be wrong are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import Arrays, files_below, store_dataset, tiny_arrays
from prefect.logging import disable_run_logger

from tasks.cache.blobs import Store
from tasks.errors import ModelError
from tasks.preprocess import one_hot, scale
from tasks.records import DatasetRef, Suspects
from tasks.settings import RunSettings
from tasks.suspect import suspect

pytestmark = pytest.mark.usefixtures("outside_a_run", "default_threads")

MNIST = Path(__file__).parents[2] / "tasks" / "sources" / "mnist.npz"
# Two whole batches of the two thirds of 600 images: a last, smaller one would be compiled too.
PLAN = RunSettings(seed=1).screening.model_copy(update={"batch_size": 200})


def preprocessed(arrays: Arrays, store: Store) -> DatasetRef:
    """The arrays as `preprocess` stores them."""
    raw = store_dataset(arrays, store)
    ready = {
        name: store.put_array(
            scale(array) if name.startswith("x") else one_hot(array, classes=raw.classes)
        )
        for name, array in arrays.items()
    }
    return raw.model_copy(update=ready)


def with_wrong_labels(labels: np.ndarray, rows: np.ndarray, classes: int) -> np.ndarray:
    """Each of the rows gets another class."""
    wrong = labels.copy()
    shift = np.random.default_rng(2).integers(1, classes, len(rows))
    wrong[rows] = (labels[rows] + shift) % classes
    return wrong


@pytest.fixture(scope="module")
def flipped() -> np.ndarray:
    """1 % of 600 training images."""
    return np.random.default_rng(0).choice(600, 6, replace=False)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(root=tmp_path_factory.mktemp("suspects"))
    store.prepare()
    return store


@pytest.fixture(scope="module")
def mislabelled(flipped: np.ndarray, shared_store: Store) -> DatasetRef:
    arrays = tiny_arrays(train=600, test=12, classes=3, size=(12, 6))
    for split in ("train", "test"):  # bars that are still told apart after a shift by a pixel
        arrays[f"x_{split}"][:] = 0
        for label in range(3):
            arrays[f"x_{split}"][arrays[f"y_{split}"] == label, 4 * label : 4 * label + 2] = 255
    arrays["y_train"] = with_wrong_labels(arrays["y_train"], flipped, classes=3)
    return preprocessed(arrays, shared_store)


@pytest.fixture(scope="module")
def files_before(mislabelled: DatasetRef, shared_store: Store) -> set[str]:
    """The stored files of the dataset."""
    del mislabelled  # has been stored
    return files_below(shared_store.root)


@pytest.fixture(scope="module")
def suspects(
    mislabelled: DatasetRef,
    files_before: set[str],  # noqa: ARG001 - seen before the search
    shared_store: Store,
) -> Suspects:
    """One search, which several tests look at."""
    with disable_run_logger():
        return suspect.fn(mislabelled, PLAN, shared_store)


def test_wrong_labels_are_found_first(suspects: Suspects, flipped: np.ndarray) -> None:
    """All of them: a recall of 1."""
    assert set(flipped.tolist()) == {found.row for found in suspects.found[: len(flipped)]}
    assert suspects.images == 600


def test_right_class_is_suggested(suspects: Suspects, flipped: np.ndarray) -> None:
    worst = suspects.found[: len(flipped)]
    assert [found.row % 3 for found in worst] == [found.suggested for found in worst]
    assert all(found.label != found.suggested for found in worst)


def test_worst_label_comes_first(suspects: Suspects) -> None:
    qualities = [found.quality for found in suspects.found]

    assert sorted(qualities) == qualities


@pytest.mark.usefixtures("suspects")
def test_nothing_but_the_result_is_left(files_before: set[str], shared_store: Store) -> None:
    assert files_before == files_below(shared_store.root)


def test_rare_class_does_not_stop_the_search(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are not trained will do."""
    monkeypatch.setattr("tasks.learning.training.fit", lambda *_, **__: None)
    arrays = tiny_arrays(train=60, test=12, classes=3, size=(8, 6))
    arrays["y_train"][arrays["y_train"] == 2] = 1
    arrays["y_train"][2] = 2  # the only one of its class

    assert 60 == suspect.fn(preprocessed(arrays, store), PLAN, store).images


def test_too_few_images_are_refused(store: Store) -> None:
    arrays = tiny_arrays(train=6, test=6, classes=3)

    with pytest.raises(ModelError, match=r"at least 3 training images. Received: 2"):
        suspect.fn(preprocessed(arrays, store), PLAN, store)


def test_search_does_not_depend_on_the_model_of_the_run() -> None:
    chosen = RunSettings(model="cnn", recipe="long", epochs=3, learning_rate=0.1)

    assert RunSettings().screening == chosen.screening


@pytest.mark.process
def test_swapped_labels_of_mnist_are_found(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the labels of one training image in a hundred."""
    with np.load(MNIST) as mnist:
        arrays = dict(mnist)
    swapped = np.random.default_rng(0).choice(60_000, 600, replace=False)
    arrays["y_train"] = with_wrong_labels(arrays["y_train"], swapped, classes=10)

    # The record keeps the worst hundred; all are asked for here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.suspect.MOST_SUSPECTS", 60_000)
        plan = RunSettings(seed=1).screening
        suspects: Suspects = suspect.fn(preprocessed(arrays, store), plan, store)

    rows = [found.row for found in suspects.found]
    recall = len({*rows} & {*swapped.tolist()}) / len(swapped)
    of_hundred = len({*rows[:100]} & {*swapped.tolist()})
    with capsys.disabled():
        print(  # noqa: T201 - how well it does
            f"\n{len(rows)} doubtful, recall {recall:.3f}, {of_hundred} of the worst 100"
        )
    assert recall >= 0.85
    assert of_hundred >= 95
