"""TensorFlow's threads decide the last bits, and its chatter is only shown when it matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cache.keys import Ingredients, what_changed
from tasks.errors import ModelError
from tasks.learning.backend import use_threads
from tasks.learning.network import build_model, load_model
from tasks.records import ArrayRef, DatasetRef
from tasks.settings import RunSettings


def made() -> DatasetRef:
    array = ArrayRef(sha256="0" * 64, size_bytes=0, dtype="float32", shape=(20, 20))
    arrays = dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), array)
    return DatasetRef(name="made", height=4, width=5, class_names=("0", "1", "2"), **arrays)


def importing(keras: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Import the backend in a new process, with this source for Keras."""
    (folder / "keras.py").write_text(keras)
    command = "import tasks.learning.backend"
    return subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("crash", [signal.SIGABRT, signal.SIGSEGV, signal.SIGILL])
def test_native_crash_during_the_import_shows_what_was_held_back(
    crash: signal.Signals, tmp_path: Path
) -> None:
    source = f"import os\nos.write(2, b'no AVX\\n50% \\\\n')\nos.kill(os.getpid(), {crash})\n"
    ended = importing(source, tmp_path)
    assert -crash == ended.returncode
    assert "no AVX\n50% \\n" == ended.stderr


def test_failed_import_shows_what_was_held_back_and_why_it_failed(tmp_path: Path) -> None:
    ended = importing("import os\nos.write(2, b'no AVX')\nraise ImportError('broken')", tmp_path)
    assert "no AVX" in ended.stderr
    assert "ImportError: broken" in ended.stderr


@pytest.mark.process
def test_good_import_shows_nothing_and_leaves_no_process() -> None:
    command = "import tasks.learning.backend, os\nos.write(2, b'mine')\nos.waitpid(-1, 0)"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.stderr.startswith("mineTraceback")
    assert ended.stderr.endswith("ChildProcessError: [Errno 10] No child processes\n")


def test_another_number_of_threads_in_one_process_is_refused() -> None:
    use_threads(2)
    with pytest.raises(ModelError) as failure:
        build_model(RunSettings(threads=1).plan, made())
    assert str(failure.value) == (
        "A process computes with one number of threads, from its first computation on. "
        "Received: 1 threads after 2 (in --threads). Start another process."
    )


def test_model_is_loaded_for_the_number_of_threads_of_its_plan(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Received: 3 threads after 2"):
        load_model(tmp_path / "model.keras", "mlp", 3, 0, made())


@pytest.mark.parametrize("plan", ["plan", "screening"])
def test_threads_count_in_the_key(plan: str) -> None:
    two, one = (
        Ingredients(
            stage="train",
            code={},
            libraries={},
            inputs={"plan": getattr(RunSettings(model="cnn", threads=threads), plan).content()},
        )
        for threads in (2, 1)
    )
    assert two.key != one.key
    assert "threads 2 → 1" == what_changed(two, one)
