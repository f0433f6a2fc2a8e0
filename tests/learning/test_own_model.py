"""Models of the user's own: found, imported, built, and through the whole flow."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import STAGES, Run, place_idx, run_flow, settings_in, stripes
from prefect.exceptions import ParameterTypeError

from flows.mnist_flow import mnist_flow
from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.errors import ModelError
from tasks.learning.backend import keras
from tasks.learning.network import build_model, load_model, weights_digest
from tasks.learning.own_model import call_own_model, find_own_model
from tasks.records import ArrayRef, DatasetRef, OwnModel, TrainingPlan
from tasks.settings import LocalRunSettings, RunSettings

HEAD = "import keras\nfrom keras import layers\n\n"
TINY = "def tiny(height, width, classes):\n    "
DENSE = "layers.Dense(classes, activation='softmax')"
SEQUENTIAL = f"return keras.Sequential([{DENSE}])\n"
COMPILED = f"m = keras.Sequential([{DENSE}])\n    m.compile('sgd', %r, metrics=%r)\n    return m"
# A layer of a class of its own, and dropout: what a saved model needs the user's code for.
SCALED = """
@keras.saving.register_keras_serializable()
class Scale(layers.Layer):
    def call(self, inputs):
        return inputs * FACTOR

def tiny(height, width, classes):
    return keras.Sequential([
        keras.Input((height, width, 1)), Scale(), layers.Flatten(), layers.Dropout(0.2),
        layers.Dense(classes, activation="softmax"),
    ])
"""

# What it draws when it is built is no weight: it is not in the saved file.
DRAWN = """
import numpy

class Projected(layers.Layer):
    def __init__(self):
        super().__init__()
        self.projection = numpy.random.normal(size=(20, 6)).astype("float32")

    def call(self, inputs):
        return inputs @ self.projection

def tiny(height, width, classes):
    layer = layers.Dense(classes, activation="softmax")
    return keras.Sequential([keras.Input((20,)), Projected(), layer])
"""


@pytest.fixture(autouse=True)
def _process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as Python does unless told otherwise
    yield
    forget_modules(tmp_path)


def forget_modules(folder: Path) -> None:
    """What lies below the folder is no longer imported, as in a new process."""
    keras.saving.get_custom_objects().clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def write(path: Path, source: str) -> Path:
    """Write or edit a file, in one second whenever that is."""
    before = path.stat().st_ctime_ns if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    while not path.exists() or path.stat().st_ctime_ns == before:
        path.write_text(source, encoding="utf-8")
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def found(path: Path, function: str = "tiny") -> OwnModel:
    return find_own_model(f"{path}:{function}")


def called(path: Path) -> object:
    """What the function `value` of a file returns."""
    return call_own_model(found(path, "value"), height=1)


def returning(value: object) -> str:
    return f"def value(height):\n    return {value}\n"


def nets(folder: Path, body: str, **options: object) -> TrainingPlan:
    """The plan of a model from the function `tiny` with this body, or from this source."""
    path = write(folder / "nets.py", HEAD + (body if "def tiny" in body else TINY + body))
    return LocalRunSettings.model_validate({"model": f"{path}:tiny", **options}).plan


def made(images: int = 20) -> DatasetRef:
    """A dataset of 4 by 5 pixels in 3 classes."""
    array = ArrayRef(sha256="0" * 64, size_bytes=0, dtype="float32", shape=(images, 20))
    arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), array)
    return DatasetRef(name="made", height=4, width=5, class_names=("0", "1", "2"), **arrays)


UNREADABLE = {
    "no function": ("nets.py", b"", "", "A model is mlp, cnn or FILE.py:FUNCTION. Received: "),
    "not a .py": ("nets.txt", b"", ":tiny", "A model is mlp, cnn or FILE.py:FUNCTION. Received: "),
    "not a module": (
        "my-nets.py",
        b"",
        ":tiny",
        "must have a module's name that no folder beside it has. Received: my-",
    ),
    "no file": ("nets.py", None, ":tiny", "must be readable. Received: No such file or directory"),
    "a syntax error": ("nets.py", b"def tiny(:", ":tiny", "must be Python. Received: invalid syn"),
    "not UTF-8": (
        "nets.py",
        b'tiny = "\xe9"',
        ":tiny",
        "must be Python. Received: (unicode error)",
    ),
    "another name": ("nets.py", b"b = a = 1", ":tiny", "must define tiny. Found in "),
    "no name": ("nets.py", b"", ":tiny", "must define tiny. Found in "),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_file_without_the_function_is_refused(kind: str, tmp_path: Path) -> None:
    name, content, function, message = UNREADABLE[kind]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as failure:
        find_own_model(f"{tmp_path / name}{function}")
    assert message in str(failure.value)


def test_model_is_found_without_running_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "raise SystemExit\ndef tiny(): ...")
    assert ("tiny", path) == (found(path).name, found(path).path)


@pytest.mark.parametrize(
    ("file", "source", "same"),
    [
        ("nets.py", '"""A docstring."""\nimport helper  # a comment\ntiny  =  1\n', True),
        ("nets.py", "import helper\ntiny = 2", False),
        ("helper.py", "units = 1  # a comment", True),
        ("helper.py", "units = 2", False),
        ("stranger.py", "units = 2", True),
    ],
)
def test_identity_is_the_code_of_the_file_and_of_what_it_imports_beside_it(
    file: str, source: str, same: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "nets.py", "import helper\ntiny = 1")
    write(tmp_path / "helper.py", "units = 1")
    before = found(path)
    write(tmp_path / file, source)
    assert same == (before == found(path))


def test_identity_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        write(tmp_path / folder / "helper.py", "units = 1")
        write(tmp_path / folder / "nets.py", "import helper\ntiny = 1")
    here, there = (found(tmp_path / folder / "nets.py") for folder in ("here", "there"))
    assert here.sha256 == there.sha256


def test_helper_that_appears_later_belongs_to_the_identity(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "import helper\ntiny = 1")
    before = found(path)
    write(tmp_path / "helper.py", "units = 1")
    assert before != found(path)


def test_package_of_the_same_name_beside_the_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "nets" / "__init__.py", "")
    with pytest.raises(ModelError, match="that no folder beside it has"):
        found(write(tmp_path / "nets.py", "tiny = 1"))


def test_file_that_may_define_it_by_a_star_is_taken(tmp_path: Path) -> None:
    assert "tiny" == found(write(tmp_path / "nets.py", "from helper import *")).name


def test_edit_within_a_second_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", returning(1))
    assert 1 == called(path)
    write(path, returning(2))
    assert 2 == called(path)


def test_edit_of_a_helper_within_a_second_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "from helper import value")
    write(tmp_path / "helper.py", returning(1))
    assert 1 == called(path)
    write(tmp_path / "helper.py", returning(2))
    assert 2 == called(path)


def test_files_of_one_name_in_two_folders_have_their_own_helpers(tmp_path: Path) -> None:
    values = []
    for number, folder in enumerate(("here", "there")):
        write(tmp_path / folder / "helper.py", returning(number))
        values.append(called(write(tmp_path / folder / "nets.py", "from helper import value")))
    assert [0, 1] == values


def test_import_path_is_left_as_it_was(tmp_path: Path) -> None:
    before = list(sys.path)
    called(write(tmp_path / "nets.py", returning(1)))
    assert before == sys.path


@pytest.mark.parametrize("statement", ["1 / 0", "raise SystemExit"])
def test_file_that_raises_is_refused(statement: str, tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", f"{statement}\n{returning(1)}")
    with pytest.raises(ModelError, match=r"Received: (ZeroDivisionError|SystemExit): "):
        called(path)


def test_model_that_is_not_compiled_is_compiled_as_planned(tmp_path: Path) -> None:
    options = {"optimizer": "adam", "learning_rate": 0.25, "label_smoothing": 0.125}
    model = build_model(nets(tmp_path, SEQUENTIAL, **options), made())
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert 0.25 == float(model.optimizer.learning_rate)
    assert 0.125 == model.loss.label_smoothing


def test_model_that_comes_compiled_stays_as_it_is(tmp_path: Path) -> None:
    body = COMPILED % ("kl_divergence", ["accuracy"])
    model = build_model(nets(tmp_path, body, optimizer="adam"), made())
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert "kl_divergence" == model.loss


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("height, width, 1", (4, 5, 1)), ("height, width", (4, 5)), ("height * width,", (20,))],
)
def test_images_come_in_any_shape(shape: str, expected: tuple[int, ...], tmp_path: Path) -> None:
    body = f"return keras.Sequential([keras.Input(({shape})), layers.Flatten(), {DENSE}])"
    assert (None, *expected) == build_model(nets(tmp_path, body), made()).input_shape


def test_model_without_an_input_takes_pixels(tmp_path: Path) -> None:
    assert 20 * 3 + 3 == build_model(nets(tmp_path, SEQUENTIAL), made()).count_params()


SAVES = "must take one-hot labels, and be one that Keras can save. Received: "
SIZE = "must have the size of an image, 20 values in any shape. Received: keras.Input("
NO_CONFIG = """
class Net(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units, activation="softmax")
    def call(self, images):
        return self.dense(images)

def tiny(height, width, classes):
    return Net(classes)
"""
UNFIT = {
    "it raises": ("raise RuntimeError('no net')", "classes. Received: RuntimeError: no net (in "),
    "other arguments": ("def tiny(size): ...", "TypeError: tiny() got an unexpected keyword arg"),
    "it returns no model": ("return classes", "must return a keras.Model. Received: int (in "),
    "number of classes": (SEQUENTIAL.replace("classes", "classes + 1"), SAVES),
    "number of pixels": (f"return keras.Sequential([keras.Input((7,)), {DENSE}])", SIZE),
    "numbers for labels": (COMPILED % ("sparse_categorical_crossentropy", ["accuracy"]), SAVES),
    "no size": (
        f"return keras.Sequential([keras.Input((None, 5)), layers.GlobalMaxPool1D(), {DENSE}])",
        SIZE,
    ),
    "no configuration": (NO_CONFIG, SAVES),
    "sigmoids": (
        "return keras.Sequential([layers.Dense(classes, activation='sigmoid')])",
        "must give 3 probabilities, as a softmax does. Received: outputs of shape (3,) that sum ",
    ),
    "logits": (
        "return keras.Sequential([layers.Dense(classes)])",
        "must give 3 probabilities, as a softmax does. Received: outputs of shape (3,) that sum ",
    ),
    "no accuracy": (
        COMPILED % ("categorical_crossentropy", []),
        'must have "accuracy" among its metrics. Received: loss (in ',
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_model_that_does_not_fit_is_refused(kind: str, tmp_path: Path) -> None:
    body, message = UNFIT[kind]
    with pytest.raises(ModelError) as failure:
        build_model(nets(tmp_path, body), made())
    assert message in str(failure.value)
    assert f"(in {tmp_path}/nets.py:tiny)." in str(failure.value)


LAZY = """
@keras.saving.register_keras_serializable()
class Net(keras.Model):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.dense = layers.Dense(units, activation="softmax")
    def call(self, images):
        from helper import scaled
        return self.dense(scaled(images))
    def get_config(self):
        return {**super().get_config(), "units": self.units}

def tiny(height, width, classes):
    return Net(classes)
"""


def test_model_may_import_a_helper_when_it_is_called(tmp_path: Path) -> None:
    write(tmp_path / "helper.py", "def scaled(images):\n    return images * 2.0\n")
    plan = nets(tmp_path, LAZY)
    model = build_model(plan, made())
    image = np.linspace(0, 1, 20, dtype=np.float32).reshape(1, 20)
    expected = model.predict_on_batch(image)
    model.save(tmp_path / "model.keras")
    forget_modules(tmp_path)
    again = load_model(tmp_path / "model.keras", plan.model, plan.threads, plan.seed, made())
    np.testing.assert_array_equal(expected, again.predict_on_batch(image))


def test_seed_decides_the_initial_weights(tmp_path: Path) -> None:
    plans = [nets(tmp_path, SEQUENTIAL, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (build_model(plan, made()).get_weights()[0] for plan in plans)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_same_model_has_the_same_digest_when_it_is_built_again(tmp_path: Path) -> None:
    plan = nets(tmp_path, SEQUENTIAL)
    assert weights_digest(build_model(plan, made())) == weights_digest(build_model(plan, made()))


def test_edit_that_is_taken_back_loads_the_saved_model_as_it_was(tmp_path: Path) -> None:
    """Saved by the first source, loaded after the second was, in the same process."""
    image = np.linspace(0, 1, 20, dtype=np.float32).reshape(1, 4, 5, 1)
    plan = nets(tmp_path, SCALED.replace("FACTOR", "2.0"))
    model = build_model(plan, made())
    model.save(tmp_path / "model.keras")
    build_model(nets(tmp_path, SCALED.replace("FACTOR", "9.0")), made())
    nets(tmp_path, SCALED.replace("FACTOR", "2.0"))
    again = load_model(tmp_path / "model.keras", plan.model, plan.threads, plan.seed, made())
    np.testing.assert_allclose(model.predict_on_batch(image), again.predict_on_batch(image))


def test_model_that_draws_when_it_is_built_is_loaded_as_it_was_trained(tmp_path: Path) -> None:
    images = np.linspace(0, 1, 40, dtype=np.float32).reshape(2, 20)
    plan = nets(tmp_path, DRAWN, seed=5)
    model = build_model(plan, made())
    model.save(tmp_path / "model.keras")
    np.random.normal(size=3)  # noqa: NPY002 - as somebody else may in between
    again = load_model(tmp_path / "model.keras", plan.model, plan.threads, plan.seed, made())
    np.testing.assert_array_equal(model.predict_on_batch(images), again.predict_on_batch(images))


def test_one_cycle_goes_up_for_three_tenths_of_the_steps_and_then_down() -> None:
    """20 images by 4 are 5 steps an epoch: of 10 in all, 3 go up."""
    plan = RunSettings(epochs=2, batch_size=4, learning_rate=0.5, schedule="one-cycle").plan
    optimizer = build_model(plan, made(images=20)).optimizer
    rates = []
    for step in (0, 3, 9):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    # a 25th of the peak; the peak; of the way down, 6 steps of 7 along half a cosine
    assert [0.02, 0.5, 0.25 * (1 + math.cos(math.pi * 6 / 7))] == pytest.approx(rates, rel=1e-4)


def own_in(folder: Path) -> LocalRunSettings:
    """A run of a model with a layer of its own, with every file of it in one folder."""
    path = write(folder / "nets.py", HEAD + SCALED.replace("FACTOR", "2.0"))
    place_idx(folder / "stripes", stripes(), zipped=True)
    return LocalRunSettings(**{**settings_in(folder).model_dump(), "model": f"{path}:tiny"})


@pytest.fixture(scope="module")
def completed(
    prefect_server: None,  # noqa: ARG001 - must be up before the run
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Run]:
    """A run of it and its folder, not to be changed."""
    folder = tmp_path_factory.mktemp("own")
    run = run_flow(own_in(folder))
    forget_modules(folder)
    return folder, run


@pytest.fixture
def first(completed: tuple[Path, Run]) -> Run:
    return completed[1]


@pytest.fixture
def own(completed: tuple[Path, Run], tmp_path: Path) -> LocalRunSettings:
    """The same settings, and a copy of the cache of that run."""
    shutil.copytree(completed[0] / "cache", tmp_path / "cache")
    return own_in(tmp_path)


def test_own_model_runs_and_gives_its_name(first: Run) -> None:
    assert STAGES == first.computed
    assert "tiny" == first.summary.model
    assert first.summary.model_path.name.startswith("stripes-tiny-")


def test_unchanged_own_model_is_served_from_the_cache(first: Run, own: LocalRunSettings) -> None:
    again = run_flow(own)
    assert ["fetch", "publish"] == again.computed
    assert first.summary.weights_sha256 == again.summary.weights_sha256


def test_saved_model_is_evaluated_in_a_process_that_did_not_train_it(
    first: Run, own: LocalRunSettings, tmp_path: Path
) -> None:
    entries = Entries(Store(root=own.cache_root))
    (key,) = (key for key in entries if entries.read(key).ingredients.stage == "evaluate")
    entries.path(key).unlink()
    forget_modules(tmp_path)
    again = run_flow(own)
    assert ["fetch", "evaluate", "publish"] == again.computed
    assert first.summary.loss == again.summary.loss


def test_edited_own_model_is_trained_and_evaluated_again(
    first: Run, own: LocalRunSettings, tmp_path: Path
) -> None:
    """With a class, from then on, that Keras was not told of."""
    source = SCALED.replace("FACTOR", "3.0")
    untold = source.replace("@keras.saving.register_keras_serializable()", "")
    assert untold != source
    write(tmp_path / "nets.py", HEAD + untold)
    edited = run_flow(own)
    assert ["fetch", "train", "evaluate", "illustrate", "publish"] == edited.computed
    assert "input: nets.py:tiny changed" == edited.heard["train"].why
    assert "input: model, nets.py:tiny changed" == edited.heard["evaluate"].why
    assert first.summary.weights_sha256 != edited.summary.weights_sha256


def test_deployment_does_not_take_a_file_to_run() -> None:
    with pytest.raises(ParameterTypeError, match="Input should be 'mlp' or 'cnn'"):
        mnist_flow.validate_parameters({"settings": {"model": "nets.py:tiny"}})
