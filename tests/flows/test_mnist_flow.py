"""The whole flow on a few dozen images, against a Prefect server of the test session."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from builders import STAGES, Arrays, Heard, Run, files_below, place_idx, run_flow
from prefect.client.orchestration import get_client

from flows.mnist_flow import mnist_flow
from tasks.errors import AccuracyTooLowError, DatasetError, StoreError, ValidationFailedError
from tasks.learning.backend import keras
from tasks.orchestration.account import listening
from tasks.settings import RunSettings
from tasks.sources.idx import IDX_FILES

pytestmark = pytest.mark.usefixtures("prefect_server")

T = TypeVar("T")


def place_npz(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path, **arrays)


def test_first_run_computes_every_stage_in_order(first_run: Run) -> None:
    assert first_run.computed == STAGES


def test_runs_in_the_same_second_have_reports_of_their_own(after_a_run: RunSettings) -> None:
    paths = {run_flow(after_a_run).summary.report_path for _ in range(3)}
    assert len([path for path in paths if path.exists()]) == 3


def test_failed_validation_lists_every_failed_check_and_leaves_no_partial_file(
    settings: RunSettings, digits: Arrays, tmp_path: Path
) -> None:
    digits["x_test"] = digits["x_test"] // 255  # already scaled
    digits["y_train"][:] = 0
    place_idx(tmp_path / "stripes", digits, zipped=True)
    with pytest.raises(ValidationFailedError) as failure:
        run_flow(settings)
    message = str(failure.value)
    assert "2 of 19 checks failed for stripes" in message
    assert "x_test: pixels span more than 0 and 1" in message
    assert (
        "y_train: training images are of at least two classes. Received: only class 0." in message
    )
    stored = files_below(tmp_path / "cache")
    assert not [name for name in stored if name.endswith(".partial")]
    assert len([name for name in stored if name.startswith("results")]) == 1  # load's
    (left,) = files_below(tmp_path / "models")  # no model
    assert re.fullmatch(r"reports/\S+\.html", left)


def test_image_size_and_classes_come_from_the_data(first_run: Run) -> None:
    report = first_run.summary.report_path.read_text()
    # 48 pixels to 64 units to 3 classes: 48·64 + 64 + 64·3 + 3
    assert "mlp, 3,331 parameters" in report


def test_recorded_accuracy_is_what_the_saved_model_gives(first_run: Run, digits: Arrays) -> None:
    model = keras.saving.load_model(first_run.summary.model_path)
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(
        digits["x_test"].reshape(33, 48).astype("float32") / 255,
        keras.utils.to_categorical(digits["y_test"], 3),
        verbose=0,
    )
    assert first_run.summary.accuracy == pytest.approx(accuracy)
    assert first_run.summary.loss == pytest.approx(loss, rel=1e-5)


def test_npz_with_the_images_of_idx_files_is_served_their_model(
    after_a_run: RunSettings, first_run: Run, digits: Arrays, tmp_path: Path
) -> None:
    place_npz(tmp_path / "stripes.npz", digits)
    from_npz = run_flow(after_a_run.model_copy(update={"dataset": str(tmp_path / "stripes.npz")}))
    assert "load" in from_npz.computed
    assert "train" not in from_npz.computed
    assert from_npz.summary.weights_sha256 == first_run.summary.weights_sha256


def test_accuracy_below_the_minimum_fails_the_run_but_is_recorded(
    after_a_run: RunSettings, tmp_path: Path
) -> None:
    with pytest.raises(AccuracyTooLowError, match=r"must be at least 1\.0000"):
        run_flow(after_a_run.model_copy(update={"min_accuracy": 1.0}))
    assert len(files_below(tmp_path / "models" / "reports")) == 1


def ask(kind: str, **filters: object) -> list[dict[str, Any]]:
    """What the Prefect server has of a kind, by its REST API."""
    with get_client(sync_client=True) as client:
        answer = client.request("POST", f"/{kind}/filter", json=filters)
    found: list[dict[str, Any]] = answer.json()
    return found


def test_accuracy_artifact_has_a_version_per_run(
    after_a_run: RunSettings, digits: Arrays, tmp_path: Path
) -> None:
    place_npz(tmp_path / "Two Runs!.npz", digits)
    settings = after_a_run.model_copy(update={"dataset": str(tmp_path / "Two Runs!.npz")})
    summaries = [run_flow(settings).summary for _ in range(2)]
    artifacts = ask("artifacts", artifacts={"key": {"any_": ["two-runs-accuracy"]}})
    assert {artifact["flow_run_id"] for artifact in artifacts} == {
        summary.flow_run_id for summary in summaries
    }
    for expected in (f"{summaries[0].accuracy:.4f}", "batch 20", summaries[0].weights_sha256):
        assert expected in artifacts[0]["data"]


def test_per_class_figures_are_a_table_artifact(first_run: Run) -> None:
    chosen = {"flow_run_id": {"any_": [first_run.summary.flow_run_id]}, "type": {"any_": ["table"]}}
    (artifact,) = ask("artifacts", artifacts=chosen)
    rows = json.loads(artifact["data"])
    assert [(row["class"], row["images"]) for row in rows] == [("0", 11), ("1", 11), ("2", 11)]


def test_training_logs_one_line_an_epoch(first_run: Run) -> None:
    chosen = {"flow_run_id": {"any_": [first_run.summary.flow_run_id]}}
    messages = until(
        lambda: [log["message"] for log in ask("logs", logs=chosen)],
        lambda messages: any(message.startswith("report:") for message in messages),
    )
    epochs = sorted(message[:9] for message in messages if message.startswith("epoch"))
    assert epochs == ["epoch 1/2", "epoch 2/2"]


def test_run_and_stages_have_names_in_prefect(first_run: Run) -> None:
    chosen = {"id": {"any_": [first_run.summary.flow_run_id]}}
    task_runs = until(
        lambda: ask("task_runs", flow_runs=chosen),
        lambda task_runs: len(task_runs) == len(STAGES),
    )
    assert first_run.summary.flow_run_name == "stripes-mlp-2-epochs-seed-0"
    assert {task_run["name"] for task_run in task_runs} == set(STAGES)


def until(ask: Callable[[], T], holds: Callable[[T], bool], seconds: float = 30) -> T:
    """Ask again until the answer holds: Prefect records logs and task runs in the background."""
    deadline = time.monotonic() + seconds
    while not holds(answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Arrays], Path]:
    """Breaks one file of the IDX folder, uncompressed before."""

    def break_it(folder: Path, arrays: Arrays) -> Path:
        place_idx(folder, arrays, zipped=False)
        path = folder / name
        path.write_bytes(change(path.read_bytes()))
        path.with_name(f"{name}.gz").unlink()
        return folder

    return break_it


def replace(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Path, Arrays], Path]:
    """Breaks one array of an .npz."""

    def break_it(folder: Path, arrays: Arrays) -> Path:
        path = folder.with_suffix(".npz")
        np.savez(path, **{**arrays, name: change(arrays[name])})
        return path

    return break_it


def without_test_labels(folder: Path, arrays: Arrays) -> Path:
    path = folder.with_suffix(".npz")
    place_npz(path, {name: array for name, array in arrays.items() if name != "y_test"})
    return path


def with_corrupt_gzip(folder: Path, _: Arrays) -> Path:
    path = folder / f"{TRAIN_IMAGES}.gz"
    content = bytearray(path.read_bytes())
    content[-8:-4] = bytes(4)  # the checksum
    path.write_bytes(content)
    return folder


def with_text_for_npz(folder: Path, _: Arrays) -> Path:
    path = folder.with_suffix(".npz")
    path.write_text("not an archive")
    return path


TRAIN_IMAGES = IDX_FILES["x_train"]
BROKEN = {
    "a path that does not exist": (lambda folder, _: folder / "nowhere", "A dataset is mnist"),
    "an empty folder": (lambda folder, _: folder.parent / "empty", "A dataset is mnist"),
    "not an IDX file": (edit(TRAIN_IMAGES, lambda _: b"GIF89a"), "another start"),
    "too few bytes": (edit(TRAIN_IMAGES, lambda whole: whole[:-5]), "2891 bytes, not 2896"),
    "too many bytes": (edit(TRAIN_IMAGES, lambda whole: whole + b"12345"), "2901 bytes, not 2896"),
    "a corrupt gzip": (with_corrupt_gzip, "inflate without error.*CRC check failed"),
    "not an .npz": (with_text_for_npz, "File is not a zip file"),
    "an array missing": (without_test_labels, "Received: no y_test, but "),
    "objects": (replace("y_test", lambda labels: labels.astype(object)), "dtype object"),
    "one label missing": (replace("y_train", lambda labels: labels[1:]), "60 images, 59 labels"),
    "colour": (
        replace("x_test", lambda x: np.stack([x] * 3, axis=-1)),
        r"height, width and channels.*\(8, 6\) and \(8, 6, 3\)",
    ),
    "fractional labels": (replace("y_test", lambda labels: labels + 0.5), "be whole numbers"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_input_gives_its_error_and_leaves_nothing(
    kind: str, settings: RunSettings, digits: Arrays, tmp_path: Path
) -> None:
    break_it, message = BROKEN[kind]
    (tmp_path / "empty").mkdir()
    dataset = break_it(tmp_path / "stripes", digits)
    with pytest.raises(DatasetError, match=message):
        run_flow(settings.model_copy(update={"dataset": str(dataset)}))
    left = files_below(tmp_path / "cache")
    assert [name for name in left if name.endswith(".partial")] == []
    assert [name for name in left if name.startswith("results")] == []
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("which", ["model_dir", "cache_dir"])
def test_folder_that_cannot_be_used_is_refused_before_anything_is_computed(
    settings: RunSettings, tmp_path: Path, which: str
) -> None:
    (tmp_path / "taken").write_text("a file")
    heard = Heard()
    with (
        listening(heard),
        pytest.raises(StoreError, match=f"Not a directory.*--{which.replace('_', '-')}"),
    ):
        mnist_flow(settings.model_copy(update={which: tmp_path / "taken" / "inside"}))
    assert heard.stages == {}
