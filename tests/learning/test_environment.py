"""Whatever a process is given from outside: the same bits, or another key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from trainings import PLAN, HearsOfBatches, bits, train

import tasks
from tasks.cache.keys import Ingredients, fingerprint_of, what_changed
from tasks.cache.processor import described
from tasks.learning.backend import keras

# Trains both networks for an epoch on 400 random images, and lets them predict.
TRAINING = """
import hashlib
import numpy as np
from tasks.learning.network import build_model, weights_digest
from tasks.learning.training import fit, predict
from tasks.records import ArrayRef, DatasetRef
from tasks.settings import RunSettings
array = ArrayRef(sha256="0" * 64, size_bytes=0, dtype="float32", shape=(400, 144))
arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), array)
names = tuple("0123456789")
dataset = DatasetRef(name="m", height=12, width=12, class_names=names, **arrays)
random = np.random.default_rng(3)
labels = np.eye(10, dtype=np.float32)[random.integers(10, size=400)]
images = random.random((400, 144), dtype=np.float32)
for name in ("mlp", "cnn"):
    plan = RunSettings(model=name, epochs=1, batch_size=100, seed=7).plan
    model = build_model(plan, dataset)
    fit(model, images, labels, plan, image_shape=(12, 12))
    print(weights_digest(model), hashlib.sha256(predict(model, images).tobytes()).hexdigest())
"""
KERAS_JSON = {
    "floatx": "float64",
    "epsilon": 0.001,
    "backend": "jax",
    "image_data_format": "channels_first",
    "nnx_enabled": True,
}
# What changed the bits of a network while it was heard, and what never did.
SETTINGS: dict[str, dict[str, str]] = {
    "nothing": {},
    "XLA": {  # for the last of these it ends the process
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=true --xla_cpu_multi_thread_eigen=false "
        "--xla_cpu_prefer_vector_width=512 --xla_backend_optimization_level=0 --nonsense",
        "TF_XLA_FLAGS": "--tf_xla_enable_xla_devices",
    },
    "TensorFlow": {"TF_DETERMINISTIC_OPS": "1", "TF_ENABLE_ONEDNN_OPTS": "0", "TF2_BEHAVIOR": "0"},
    "oneDNN": {"ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41"},
    "Keras": {
        "KERAS_HOME": "keras",
        "KERAS_BACKEND": "jax",
        "KERAS_NNX_ENABLED": "1",
        "KERAS_MAX_EPOCHS": "0",
        "KERAS_MAX_STEPS_PER_EPOCH": "1",
    },
    "one core": {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "PYTHONHASHSEED": "1",
        "LC_ALL": "tr_TR.UTF-8",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What both networks come to in a process of each of these settings."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "keras").mkdir()
    (folder / "keras" / "keras.json").write_text(json.dumps(KERAS_JSON))
    one_core = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\n"

    def training(name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", one_core + TRAINING if name == "one core" else TRAINING],
            cwd=folder,
            env={**os.environ, **SETTINGS[name]},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.stdout or done.stderr

    with ThreadPoolExecutor(2) as two:
        return dict(zip(SETTINGS, two.map(training, SETTINGS), strict=True))


@pytest.mark.process
@pytest.mark.parametrize("name", list(SETTINGS)[1:])
def test_bits_do_not_depend_on_what_surrounds_the_process(
    name: str, trained: dict[str, str]
) -> None:
    assert len(trained["nothing"].split()) == 4, trained["nothing"]
    assert trained["nothing"] == trained[name]


def test_what_other_code_has_set_in_keras_changes_nothing() -> None:
    """A model of the user's own, say, that was trained in this process before."""
    plan = PLAN.model_copy(update={"model": "cnn"})
    before = bits(train(plan, callbacks=[HearsOfBatches()])[0])

    keras.config.set_floatx("float64")
    keras.config.set_epsilon(0.01)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_float16")
    keras.config.set_max_epochs(1)
    keras.config.set_max_steps_per_epoch(1)

    assert before == bits(train(plan, callbacks=[HearsOfBatches()])[0])


def test_variables_that_change_results_are_taken_away_and_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.unused_variables", [])
    kept = {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_HOME": "/keras", "OMP_NUM_THREADS": "1"}
    kept |= {"TF_VAR_region": "eu", "TF_CLI_CONFIG_FILE": "terraformrc"}  # Terraform's
    gone = ["DNNL_MAX_CPU_ISA", "KERAS_MAX_EPOCHS", "TF_DETERMINISTIC_OPS", "XLA_FLAGS"]
    for name, value in {**kept, **dict.fromkeys(gone, "1"), "KERAS_BACKEND": "jax"}.items():
        monkeypatch.setenv(name, value)

    tasks.settle_environment()

    assert kept.items() <= os.environ.items()
    assert os.environ.keys().isdisjoint(gone)
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert sorted(["KERAS_BACKEND", *gone]) == tasks.unused_variables


def test_variables_that_tensorflow_may_have_read_are_refused() -> None:
    """By a stand-in for TensorFlow, which takes seconds to import."""
    command = "import sys; sys.modules['tensorflow'] = None; import tasks.learning.backend"
    ended = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "XLA_FLAGS": "--xla_cpu_enable_fast_math=true"},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.stderr.splitlines()[-1] == (
        "tasks.errors.ModelError: TensorFlow must not be told by the environment what to compute. "
        "Received: XLA_FLAGS (in a process that imported TensorFlow before `tasks`). "
        "Unset them, or import `tasks` first."
    )


EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
cpu MHz\t\t: 2596.142
cache size\t: 1024 KB
core id\t\t: 0
flags\t\t: fpu mmx sse2 avx avx2 avx512f

processor\t: 1
"""


def test_kind_of_the_processor_is_what_decides_bits() -> None:
    (*names, _), same = described(EPYC), described(EPYC.replace("2596", "1200").replace("fpu ", ""))
    assert names == ["AuthenticAMD", "25", "17", "1024 KB"]
    assert same == described(EPYC)
    for found, other in {"avx512f": "", "17\n": "1\n", "1024": "512"}.items():
        assert described(EPYC.replace(found, other)) != described(EPYC)
    assert described("") == []


def test_another_processor_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(stage: str, processor: str) -> Ingredients:
        monkeypatch.setattr("tasks.cache.keys.processor", lambda: processor)
        found = fingerprint_of(f"tasks.{stage}")
        return Ingredients(stage=stage, **found._asdict(), inputs={})

    for stage in ("train", "evaluate", "suspect"):
        here, there = made(stage, "EPYC"), made(stage, "Xeon")
        assert here.key != there.key
        assert what_changed(here, there) == "processor EPYC → Xeon"
    assert made("preprocess", "EPYC").key == made("preprocess", "Xeon").key
