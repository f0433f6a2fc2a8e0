"""Models of the user's own: found, imported, built, and through the whole flow."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from builders import STAGES, Run, run_flow
from prefect.exceptions import ParameterTypeError
from pydantic import ValidationError

from flows.mnist_flow import mnist_flow
from tasks import own_model
from tasks.backend import keras
from tasks.entries import Entries
from tasks.errors import OwnModelError
from tasks.network import build_model, weights_digest
from tasks.own_model import find_own_model, load_own_model
from tasks.records import ArrayRef, DatasetRef, OwnModel, TrainingPlan
from tasks.settings import LocalRunSettings, RunSettings
from tasks.store import Store

HEAD = "import keras\nfrom keras import layers\n\n"
TINY = "def tiny(height, width, classes):\n    "
DENSE = "layers.Dense(classes, activation='softmax')"
SEQUENTIAL = f"return keras.Sequential([{DENSE}])\n"
COMPILE = f"model = keras.Sequential([{DENSE}])\n    model.compile('sgd', "
# A layer of a class of its own, and dropout: what a saved model needs the user's code for.
SCALED = """
class Scale(layers.Layer):
    def call(self, inputs):
        return inputs * FACTOR

def tiny(height, width, classes):
    return keras.Sequential([
        keras.Input((height, width, 1)), Scale(), layers.Flatten(), layers.Dropout(0.2),
        layers.Dense(classes, activation="softmax"),
    ])
"""


@pytest.fixture(autouse=True)
def _process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(own_model, "_loaded", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    forget_modules(tmp_path)


def forget_modules(folder: Path) -> None:
    """What lies below the folder is no longer imported, as in a new process."""
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


def loaded(path: Path) -> ModuleType:
    return load_own_model(found(path, "value"))


def nets(folder: Path, body: str, **options: object) -> TrainingPlan:
    """The plan of a model from the function `tiny` with this body, or from this source."""
    source = body if TINY in body else TINY + body
    path = write(folder / "nets.py", HEAD + source)
    return LocalRunSettings.model_validate({"model": f"{path}:tiny", **options}).plan


def made(images: int = 20) -> DatasetRef:
    """A dataset of 4 by 5 pixels in 3 classes."""
    array = ArrayRef(sha256="0" * 64, size_bytes=0, dtype="float32", shape=(images, 20))
    arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), array)
    return DatasetRef(name="made", height=4, width=5, classes=3, **arrays)


# --- the file is found and read ------------------------------------------------------------

UNREADABLE = {
    "no function": ("nets.py", b"", "", "A model is mlp, cnn or FILE.py:FUNCTION. Received: "),
    "not a .py": ("nets.txt", b"", ":tiny", "A model is mlp, cnn or FILE.py:FUNCTION. Received: "),
    "not a module": ("my-nets.py", b"", ":tiny", "must have the name of a module. Received: my-"),
    "no file": ("nets.py", None, ":tiny", "must be readable. Received: No such file or directory"),
    "a syntax error": ("nets.py", b"def tiny(:", ":tiny", "must be Python. Received: invalid syn"),
    "not UTF-8": ("nets.py", b'tiny = "\xe9"', ":tiny", "must be Python. Received: 'utf-8' codec"),
    "another name": ("nets.py", b"b = a = 1", ":tiny", "must define tiny. Received: a, b (in "),
    "no name": ("nets.py", b"", ":tiny", "must define tiny. Received: no names (in "),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_file_without_the_function_is_refused(kind: str, tmp_path: Path) -> None:
    name, content, function, message = UNREADABLE[kind]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OwnModelError) as failure:
        find_own_model(f"{tmp_path / name}{function}")
    assert message in str(failure.value)


def test_model_is_found_without_running_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "raise SystemExit\ndef tiny(): ...")
    assert ("tiny", path) == (found(path).name, found(path).path)


def test_path_may_be_relative_or_of_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "nets.py", "tiny = 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found(path) == find_own_model("nets.py:tiny") == find_own_model("~/nets.py:tiny")


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
    digests = set()
    for folder in ("here", "there"):
        write(tmp_path / folder / "helper.py", "units = 1")
        path = write(tmp_path / folder / "nets.py", "import helper\ntiny = 1")
        digests.add(found(path).sha256)
    assert 1 == len(digests)


def test_helper_that_appears_later_belongs_to_the_identity(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "import helper\ntiny = 1")
    before = found(path)
    write(tmp_path / "helper.py", "units = 1")
    assert before != found(path)


def test_package_of_the_same_name_beside_the_file_is_not_taken_for_it(tmp_path: Path) -> None:
    write(tmp_path / "nets" / "__init__.py", "")
    path = write(tmp_path / "nets.py", "tiny = 1")
    before = found(path)
    write(path, "tiny = 2")
    assert before != found(path)


# --- and imported --------------------------------------------------------------------------


def test_file_is_imported_once(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "value = 1")
    assert loaded(path) is loaded(path)


def test_edit_within_a_second_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "value = 1")
    assert 1 == loaded(path).value
    write(path, "value = 2")
    assert 2 == loaded(path).value


def test_edit_of_a_helper_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "from helper import value")
    write(tmp_path / "helper.py", "value = 1")
    assert 1 == loaded(path).value
    write(tmp_path / "helper.py", "value = 1 + 1")
    assert 2 == loaded(path).value


def test_edit_of_a_helper_within_a_second_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "from helper import value")
    write(tmp_path / "helper.py", "value = 1")
    assert 1 == loaded(path).value
    write(tmp_path / "helper.py", "value = 2")
    assert 2 == loaded(path).value


def test_files_of_one_name_in_two_folders_have_their_own_helpers(tmp_path: Path) -> None:
    values = []
    for number, folder in enumerate(("here", "there")):
        write(tmp_path / folder / "helper.py", f"value = {number}")
        values.append(loaded(write(tmp_path / folder / "nets.py", "from helper import value")))
    assert [0, 1] == [module.value for module in values]


def test_module_under_its_name_is_the_one_that_was_loaded_last(tmp_path: Path) -> None:
    """Keras looks for the classes of a saved model there."""
    path = write(tmp_path / "nets.py", "value = 1")
    first = loaded(path)
    write(path, "value = 2")
    assert sys.modules["own_model_nets"] is loaded(path)
    write(path, "value = 1")
    assert 1 == loaded(path).value == sys.modules[first.__name__].value


def test_file_keeps_its_own_future_imports(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "def value(x: int) -> int: ...")
    assert {"x": int, "return": int} == loaded(path).value.__annotations__


def test_file_that_raises_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "value = 1 / 0")
    with pytest.raises(OwnModelError) as failure:
        loaded(path)
    assert str(failure.value) == (
        "The model's file must be importable. "
        f"Received: ZeroDivisionError: division by zero (in {path})."
    )


# --- a model is built ----------------------------------------------------------------------


def test_model_that_is_not_compiled_is_compiled_as_planned(tmp_path: Path) -> None:
    options = {"optimizer": "adam", "learning_rate": 0.25, "label_smoothing": 0.125}
    model = build_model(nets(tmp_path, SEQUENTIAL, **options), made())
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert 0.25 == float(model.optimizer.learning_rate)
    assert 0.125 == model.loss.label_smoothing


def test_model_that_comes_compiled_stays_as_it_is(tmp_path: Path) -> None:
    body = f"{COMPILE}'kl_divergence', metrics=['accuracy'])\n    return model"
    model = build_model(nets(tmp_path, body, optimizer="adam"), made())
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert "kl_divergence" == model.loss


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("(height, width, 1)", (None, 4, 5, 1)),
        ("(height, width)", (None, 4, 5)),
        ("(height * width,)", (None, 20)),
    ],
)
def test_images_come_in_any_shape(
    shape: str, expected: tuple[int | None, ...], tmp_path: Path
) -> None:
    body = f"return keras.Sequential([keras.Input({shape}), layers.Flatten(), {DENSE}])"
    model = build_model(nets(tmp_path, body), made())
    assert expected == model.input_shape


def test_model_without_an_input_takes_pixels(tmp_path: Path) -> None:
    assert 20 * 3 + 3 == build_model(nets(tmp_path, SEQUENTIAL), made()).count_params()


SHAPES = "must take one-hot labels of 3 classes and images of 4 by 5 values in [0, 1], of any shape"
UNFIT = {
    "it raises": ("raise RuntimeError('no net')", "classes. Received: RuntimeError: no net (in "),
    "it returns no model": ("return classes", "must return a keras.Model. Received: 3 (in "),
    "another number of classes": (SEQUENTIAL.replace("classes", "classes + 1"), SHAPES),
    "another number of pixels": (
        f"return keras.Sequential([keras.Input((width,)), {DENSE}])",
        SHAPES,
    ),
    "labels that are numbers": (
        f"{COMPILE}'sparse_categorical_crossentropy', metrics=['accuracy'])\n    return model",
        SHAPES,
    ),
    "logits": (
        "return keras.Sequential([layers.Dense(classes)])",
        "must be probabilities (batch, class), as of a softmax. Received: (3,) values with the "
        "sum 0 (in ",
    ),
    "no accuracy": (
        f"{COMPILE}'categorical_crossentropy')\n    return model",
        'must have "accuracy" among its metrics. Received: loss (in ',
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_model_that_does_not_fit_is_refused(kind: str, tmp_path: Path) -> None:
    body, message = UNFIT[kind]
    with pytest.raises(OwnModelError) as failure:
        build_model(nets(tmp_path, body), made())
    assert message in str(failure.value)
    assert f"(in {tmp_path}/nets.py:tiny)." in str(failure.value)


def test_function_with_other_arguments_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", "def tiny(size): ...")
    with pytest.raises(OwnModelError) as failure:
        build_model(LocalRunSettings(model=f"{path}:tiny").plan, made())
    assert str(failure.value) == (
        "The function must build a model from height, width and classes. Received: TypeError: "
        f"tiny() got an unexpected keyword argument 'height' (in {path}:tiny)."
    )


def test_seed_decides_the_initial_weights(tmp_path: Path) -> None:
    plans = [nets(tmp_path, SEQUENTIAL, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (build_model(plan, made()).get_weights()[0] for plan in plans)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_same_model_has_the_same_digest_when_it_is_built_again(tmp_path: Path) -> None:
    plan = nets(tmp_path, SEQUENTIAL)
    assert weights_digest(build_model(plan, made())) == weights_digest(build_model(plan, made()))


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


# --- through the whole flow ----------------------------------------------------------------


@pytest.fixture
def own(settings: RunSettings, tmp_path: Path) -> LocalRunSettings:
    """A run of a model with a layer of its own."""
    path = write(tmp_path / "nets.py", HEAD + SCALED.replace("FACTOR", "2.0"))
    return LocalRunSettings(**{**settings.model_dump(), "model": f"{path}:tiny"})


@pytest.fixture
def first(own: LocalRunSettings, prefect_server: None) -> Run:  # noqa: ARG001 - must be up
    return run_flow(own)


def forget_result(settings: RunSettings, stage: str) -> None:
    entries = Entries(Store(root=settings.cache_root))
    (key,) = (key for key in entries if entries.read(key).ingredients.stage == stage)
    entries.path(key).unlink()


def test_own_model_runs_and_gives_its_name(first: Run) -> None:
    assert STAGES == first.computed
    assert "tiny" == first.summary.model
    assert "stripes-tiny-2-epochs-seed-0" == first.summary.flow_run_name
    assert (
        first.summary.model_path.name == f"stripes-tiny-{first.summary.weights_sha256[:12]}.keras"
    )


def test_unchanged_own_model_is_served_from_the_cache(first: Run, own: LocalRunSettings) -> None:
    again = run_flow(own)
    assert ["publish"] == again.computed
    assert first.summary.weights_sha256 == again.summary.weights_sha256


def test_saved_model_is_evaluated_in_a_process_that_did_not_train_it(
    first: Run, own: LocalRunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_result(own, "evaluate")
    forget_modules(tmp_path)
    monkeypatch.setattr(own_model, "_loaded", {})
    again = run_flow(own)
    assert ["evaluate", "publish"] == again.computed
    assert (first.summary.loss, first.summary.accuracy) == (
        again.summary.loss,
        again.summary.accuracy,
    )


def test_edited_own_model_is_trained_and_evaluated_again(
    first: Run, own: LocalRunSettings, tmp_path: Path
) -> None:
    write(tmp_path / "nets.py", HEAD + SCALED.replace("FACTOR", "3.0"))
    edited = run_flow(own)
    assert ["train", "evaluate", "illustrate", "publish"] == edited.computed
    assert "input: tiny changed" == edited.heard["train"].why
    assert "input: model, tiny changed" == edited.heard["evaluate"].why
    assert first.summary.weights_sha256 != edited.summary.weights_sha256


def test_edit_that_is_taken_back_evaluates_the_model_as_it_was(
    first: Run, own: LocalRunSettings, tmp_path: Path
) -> None:
    before = (tmp_path / "nets.py").read_text()
    write(tmp_path / "nets.py", before.replace("2.0", "-9.0"))
    run_flow(own.model_copy(update={"epochs": 1}))
    write(tmp_path / "nets.py", before)
    again = run_flow(own.model_copy(update={"refresh": True}))
    assert first.summary.loss == again.summary.loss


@pytest.mark.parametrize("refuse", [RunSettings.model_validate, mnist_flow.validate_parameters])
def test_deployment_does_not_take_a_file_to_run(refuse: object) -> None:
    parameters = {"model": "nets.py:tiny"}
    if refuse == mnist_flow.validate_parameters:
        parameters = {"settings": parameters}
    with pytest.raises((ValidationError, ParameterTypeError), match="'mlp' or 'cnn'"):
        refuse(parameters)
