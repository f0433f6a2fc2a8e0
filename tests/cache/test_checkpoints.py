"""Checkpoints: what is kept after an epoch, what is refused, and that nobody sees a resumed run."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    FullDisk,
    Heard,
    Run,
    edit_code,
    flip_bit,
    npy_header,
    place_idx,
    settings_in,
    stripes,
)
from prefect import flow
from prefect.client.orchestration import get_client
from strange_files import EVERY_KIND, Kind, no_hanging, replace_by

from tasks.cache.blobs import NewFile, Store
from tasks.cache.checkpoints import Checkpoint, Checkpoints, written_beside
from tasks.cache.entries import Entries
from tasks.fetch import fetch
from tasks.load import load
from tasks.orchestration import stage
from tasks.orchestration.account import listening
from tasks.orchestration.run import stored_run
from tasks.preprocess import preprocess
from tasks.records import EpochMetrics, ModelRef
from tasks.settings import LocalRunSettings, RunSettings
from tasks.train import train

KEY, OTHER_KEY = "ab" * 32, "cd" * 32
SHAPES = [(5, 3), (), (2,), (400, 400)]
HUGE, DIGITS = 2**50, 10**400
TORN = "it is torn or altered: content and digest differ"

Trained = tuple[str, tuple[EpochMetrics, ...]]  # weights and history


def checkpoint(epochs: int) -> Checkpoint:
    """The state after so many epochs; no two are equal, and one array is larger than a read."""
    random = np.random.default_rng(epochs)
    losses = [0.1 + 0.2 / epoch for epoch in range(1, epochs + 1)]
    return Checkpoint(
        history=tuple(EpochMetrics(loss=loss, accuracy_fraction=1 / 3) for loss in losses),
        arrays=[
            random.random((5, 3), np.float32),
            np.array(epochs, np.int64),
            random.integers(2**32, size=2, dtype=np.uint32),
            random.random((400, 400)),
        ],
    )


def written(store: Store, *epochs: int, key: str = KEY) -> Checkpoints:
    """The checkpoints of one training, after these epochs."""
    checkpoints = Checkpoints(store, key)
    for epoch in epochs:
        checkpoints.write(checkpoint(epoch))
    return checkpoints


def names_in(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def newest_epoch(checkpoints: Checkpoints) -> tuple[int, list[str]]:
    """After which epoch the newest checkpoint is, or 0 for none, and the warnings."""
    warnings: list[str] = []
    found = checkpoints.newest(SHAPES, warnings.append)
    return len(found.history) if found else 0, warnings


class TestFiles:
    """Checkpoints on the disk, without a training."""

    def test_state_comes_back_bit_for_bit_with_its_dtypes_and_history(self, store: Store) -> None:
        found = written(store, 3).newest(SHAPES, pytest.fail)

        assert found is not None
        assert checkpoint(3).history == found.history
        for expected, actual in zip(checkpoint(3).arrays, found.arrays, strict=True):
            np.testing.assert_array_equal(expected, actual, strict=True)

    def test_two_are_kept_and_the_newest_is_found(self, store: Store) -> None:
        checkpoints = written(store, 1, 2, 3)

        assert ["000002", "000003"] == names_in(checkpoints)
        assert (3, []) == newest_epoch(checkpoints)

    def test_training_that_left_none_is_the_oldest_of_all(self, store: Store) -> None:
        none = Checkpoints(store, KEY)
        assert (none.size_bytes(), none.written().year) == (0, 1970)
        assert written(store, 1).written().year > 1970

    def test_nothing_is_found_where_nothing_was_written(self, store: Store) -> None:
        assert (0, []) == newest_epoch(Checkpoints(store, KEY))

    @pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 400, -65, -64, -1])
    def test_torn_file_is_discarded_and_the_one_before_is_used(
        self, store: Store, length: int
    ) -> None:
        checkpoints = written(store, 1, 2)
        torn = checkpoints.folder / "000002"
        torn.write_bytes(torn.read_bytes()[:length])

        assert (1, [f"discarded the checkpoint {torn}: {TORN}"]) == newest_epoch(checkpoints)
        assert ["000001"] == names_in(checkpoints)

    @pytest.mark.parametrize("position", [0, 20, 300, 600, 500_000, -65, -64, -1])
    def test_file_with_one_flipped_bit_is_discarded_and_the_one_before_is_used(
        self, store: Store, position: int
    ) -> None:
        checkpoints = written(store, 1, 2)
        altered = checkpoints.folder / "000002"
        flip_bit(altered, position)

        assert (1, [f"discarded the checkpoint {altered}: {TORN}"]) == newest_epoch(checkpoints)

    @pytest.mark.parametrize(
        ("key", "name"), [(OTHER_KEY, "000002"), (KEY, "000007")], ids=["key", "epoch"]
    )
    def test_checkpoint_of_another_training_or_epoch_is_discarded(
        self, store: Store, key: str, name: str
    ) -> None:
        checkpoints = written(store, 1)
        foreign = (written(store, 2, key=key).folder / "000002").rename(checkpoints.folder / name)

        found = "it is of another training or epoch"
        expected = [f"discarded the checkpoint {foreign}: {found}"]
        assert (1, expected) == newest_epoch(checkpoints)

    def test_checkpoint_of_another_model_is_discarded(self, store: Store) -> None:
        checkpoints, warnings = written(store, 1), list[str]()

        assert checkpoints.newest([(5, 4), *SHAPES[1:]], warnings.append) is None
        path = checkpoints.folder / "000001"
        assert [f"discarded the checkpoint {path}: it is of another model"] == warnings

    def test_partial_file_of_a_killed_run_is_ignored_and_goes_with_the_others(
        self, store: Store
    ) -> None:
        checkpoints = written(store, 1, 2)
        shutil.copy(checkpoints.folder / "000002", checkpoints.folder / "tmp1234.partial")

        assert (2, []) == newest_epoch(checkpoints)
        checkpoints.clear()
        assert not checkpoints.folder.exists()

    def test_foreign_file_stays(self, store: Store) -> None:
        checkpoints = written(store, 1)
        (checkpoints.folder / "notes.txt").touch()
        checkpoints.clear()
        assert ["notes.txt"] == names_in(checkpoints)

    def test_symlink_is_neither_followed_nor_removed(self, store: Store, tmp_path: Path) -> None:
        checkpoints = written(store, 1, 2)
        outside = (checkpoints.folder / "000002").rename(tmp_path / "outside")
        (checkpoints.folder / "000002").symlink_to(outside)

        assert (1, []) == newest_epoch(checkpoints)
        checkpoints.clear()
        assert ["000002"] == names_in(checkpoints)
        assert outside.exists()


class TestForged:
    """Checkpoints with the right digest that no training writes."""

    def forge(self, store: Store, *arrays: bytes, count: int = len(SHAPES)) -> Checkpoints:
        """A sealed file after the first epoch; one that is whole lies before it."""
        checkpoints = written(store, 1, 2)
        history = [one.model_dump() for one in checkpoint(2).history]
        with NewFile(checkpoints.folder) as file:
            text = {"key": KEY, "history": history, "arrays": count}
            file.write(json.dumps(text).encode() + b"\n")
            for array in arrays:
                file.write(array)
            file.write(file.sha256.encode())
            file.publish(checkpoints.folder / "000002")
        return checkpoints

    @pytest.mark.parametrize(
        "arrays",
        [
            [npy_header((HUGE,), "<f4")],
            [npy_header((HUGE, HUGE), "<f8")],
            [npy_header((2**32, 2**32), "<f8")],  # whose product is 0 in 64 bits
            [npy_header((5, 3), "<f4")],  # without its values
            [npy_header((5, 3), "|O")],
            [npy_header((5, 3), "<U1000000")],
            [npy_header((5, 3), "<U1") + bytes(60)],
            [b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000],
            [b"\x93NUMPY\x01\x00\x90\x1f" + b"-" * 8_080],
            [],
        ],
    )
    def test_header_is_bounded_before_anything_is_allocated(
        self, store: Store, arrays: list[bytes]
    ) -> None:
        epoch, warnings = newest_epoch(self.forge(store, *arrays))

        assert epoch == 1
        assert len(warnings) == 1

    @pytest.mark.parametrize("count", [HUGE, DIGITS, -1, 0])
    def test_number_of_arrays_is_that_of_the_model(self, store: Store, count: int) -> None:
        epoch, warnings = newest_epoch(self.forge(store, count=count))

        assert epoch == 1
        assert len(warnings) == 1

    @EVERY_KIND
    def test_something_strange_in_the_place_of_the_newest_gives_way(
        self, store: Store, kind: Kind
    ) -> None:
        checkpoints = written(store, 1, 2)
        replace_by(kind, checkpoints.folder / "000002")

        with no_hanging():
            assert newest_epoch(checkpoints) == (1, [])
            checkpoints.write(checkpoint(2))

        assert newest_epoch(checkpoints) == (2, [])

    @EVERY_KIND
    def test_something_strange_in_the_place_of_their_folder_gives_way(
        self, store: Store, kind: Kind
    ) -> None:
        replace_by(kind, store.checkpoints / KEY)

        with no_hanging():
            checkpoints = written(store, 1)

        assert newest_epoch(checkpoints) == (1, [])


class TestWriter:
    """Writing beside a training."""

    def test_interrupted_block_still_writes_what_it_was_given(self, store: Store) -> None:
        checkpoints = Checkpoints(store, KEY)

        def write_and_stop() -> None:
            with written_beside(checkpoints, pytest.fail) as write:
                for epoch in (1, 2, 3):
                    write(checkpoint(epoch))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_and_stop()

        assert ["000002", "000003"] == names_in(checkpoints)

    def test_folder_that_cannot_be_written_to_is_told_and_raises_nothing(
        self, store: Store
    ) -> None:
        """As root every folder can be written to, so a file stands in its place."""
        checkpoints, warnings = Checkpoints(store, KEY), list[str]()
        store.checkpoints.rmdir()
        store.checkpoints.touch()

        with written_beside(checkpoints, warnings.append) as write:
            write(checkpoint(1))

        (warning,) = warnings
        assert "must be writable" in warning

    def test_full_disk_is_told_and_spoils_no_earlier_checkpoint(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoints, warnings = written(store, 1, 2), list[str]()

        def fdopen(handle: int, mode: str) -> io.BufferedWriter:
            return io.BufferedWriter(FullDisk(handle, mode))

        monkeypatch.setattr("tasks.cache.blobs.os.fdopen", fdopen)
        with written_beside(checkpoints, warnings.append) as write:
            write(checkpoint(3))

        (warning,) = warnings
        assert "No space left on device" in warning
        assert (2, []) == newest_epoch(checkpoints)
        assert ["000001", "000002"] == names_in(checkpoints)


class CutOff(Heard):
    """Ends the run after an epoch, as a fault in it would."""

    def __init__(self, epoch: int, error: BaseException) -> None:
        super().__init__()
        self._epoch, self._error = epoch, error

    def epoch_finished(self, epoch: int, epochs: int, metrics: EpochMetrics) -> None:
        del epochs, metrics
        if epoch == self._epoch:
            raise self._error


@flow(persist_result=False)
def training(settings: RunSettings) -> None:
    """The flow as far as its model."""
    with stored_run(settings) as store:
        raw = load(fetch(settings.dataset, settings.name, store), store)
        train(preprocess(raw, store), settings.plan, store)


def cut_off(settings: RunSettings, epoch: int, error: BaseException | None = None) -> None:
    """Train until this epoch is done."""
    error = error or RuntimeError("cut off")
    with listening(CutOff(epoch, error)), pytest.raises(type(error)):
        training(settings)


def why_trained(settings: RunSettings) -> str:
    """Train, and say what the stage gives as its reason."""
    heard = Heard()
    with listening(heard):
        training(settings)
    return heard.stages["train"].why


def kept(settings: RunSettings) -> list[Path]:
    """The checkpoints, the newest first."""
    return sorted((settings.cache_root / "checkpoints").glob("*/*"), reverse=True)


def trained(settings: RunSettings) -> Trained:
    """What came of the latest training in a cache."""
    entries = Entries(Store(root=settings.cache_root))
    notes = (entries.store.latest / "train").iterdir()
    latest = max(notes, key=lambda note: note.stat().st_mtime_ns)
    model = entries.read(latest.name).result
    assert isinstance(model, ModelRef)
    return model.weights_sha256, model.history


def five_epochs_in(folder: Path) -> RunSettings:
    folder.mkdir(exist_ok=True)
    place_idx(folder / "stripes", stripes(), zipped=True)
    return settings_in(folder).model_copy(update={"epochs": 5})


@pytest.fixture(scope="module")
def uninterrupted(
    prefect_server: None,  # noqa: ARG001 - must be up before the run
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """What comes of five epochs in one go."""
    settings = five_epochs_in(tmp_path_factory.mktemp("uninterrupted"))
    training(settings)
    return trained(settings)


@pytest.fixture(scope="module")
def interrupted_folder(
    prefect_server: None,  # noqa: ARG001 - must be up before the run
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What a run leaves that was cut off after three of five epochs, not to be changed."""
    folder = tmp_path_factory.mktemp("interrupted")
    cut_off(five_epochs_in(folder), 3)
    return folder


@pytest.fixture
def interrupted(interrupted_folder: Path, tmp_path: Path) -> RunSettings:
    """The settings of a run that was cut off after three of five epochs, and its cache."""
    shutil.copytree(interrupted_folder / "cache", tmp_path / "cache")
    return five_epochs_in(tmp_path)


NETS = """
import keras

def dropout(height, width, classes):
    return keras.Sequential([
        keras.Input((height * width,), name="pixels"),
        keras.layers.Dropout(0.5, name="dropout"),
        keras.layers.Dense(classes, "softmax", name="probabilities"),
    ], name="dropout")

def eager(height, width, classes):
    model = dropout(height, width, classes)
    sgd = keras.optimizers.SGD(0.05, momentum=0.9)
    loss = "categorical_crossentropy"
    model.compile(optimizer=sgd, loss=loss, metrics=["accuracy"], run_eagerly=True)
    return model
"""


@pytest.mark.usefixtures("prefect_server")
class TestResumedRun:
    """A run that was cut off, and the next one with the same settings."""

    @pytest.mark.parametrize("model", ["cnn", "nets.py:dropout", "nets.py:eager"])
    def test_same_bits_and_history_as_in_one_go(self, tmp_path: Path, model: str) -> None:
        """Shifts, batch normalisation, a random layer, a one-cycle schedule, Keras's own loop."""
        (tmp_path / "nets.py").write_text(NETS)
        name = model if model == "cnn" else f"{tmp_path}/{model}"
        changes = {"model": name, "epochs": 3}
        in_one_go, settings = (
            LocalRunSettings(**(five_epochs_in(tmp_path / folder).model_dump() | changes))
            for folder in ("one", "two")
        )
        training(in_one_go)
        cut_off(settings, 1)

        assert why_trained(settings) == "first run; resumed after epoch 1 of 3"
        assert trained(in_one_go) == trained(settings)

    def test_goes_on_after_each_of_several_interruptions_and_leaves_no_checkpoint(
        self, interrupted: RunSettings, uninterrupted: Trained
    ) -> None:
        cut_off(interrupted, 4, KeyboardInterrupt())
        cut_off(interrupted, 5, SystemExit())

        assert why_trained(interrupted) == "first run; resumed after epoch 5 of 5"
        assert uninterrupted == trained(interrupted)
        assert [] == list((interrupted.cache_root / "checkpoints").iterdir())

    def test_best_epoch_is_gone_back_to_wherever_it_was_cut_off(self, tmp_path: Path) -> None:
        """Before the best epoch, after it, and when all is over; in the end, the model is that one.

        Noise cannot be learned: what is held out is met worse after a few epochs.
        """
        noise = stripes()
        noise["x_train"] = np.random.default_rng(3).integers(0, 256, (60, 8, 6), np.uint8)
        patient = {"validation_fraction": 0.25, "patience": 2, "learning_rate": 0.05, "epochs": 40}
        in_one_go, cut = (
            five_epochs_in(tmp_path / name).model_copy(update=patient) for name in ("one", "two")
        )
        for settings in (in_one_go, cut):
            place_idx(Path(settings.dataset), noise, zipped=True)
        training(in_one_go)
        losses = [epoch.validation_loss or 0 for epoch in trained(in_one_go)[1]]
        best = 1 + int(np.argmin(losses))
        assert 1 < best < best + 2 == len(losses) < 40

        for epoch in (best - 1, best + 1, len(losses)):
            cut_off(cut, epoch)

        assert f"first run; resumed after epoch {len(losses)} of 40" == why_trained(cut)
        assert trained(in_one_go) == trained(cut)

    def test_other_settings_do_not_resume(self, interrupted: RunSettings) -> None:
        assert "first run" == why_trained(interrupted.model_copy(update={"seed": 1}))

    def test_refresh_does_not_resume_and_removes_what_an_earlier_run_left(
        self, interrupted: RunSettings
    ) -> None:
        cut_off(interrupted.model_copy(update={"refresh": True}), 1)

        assert ["000001"] == [path.name for path in kept(interrupted)]

    @pytest.mark.parametrize(
        ("damaged", "why"), [(1, "first run; resumed after epoch 2 of 5"), (2, "first run")]
    )
    def test_damaged_checkpoints_are_not_used_and_the_bits_are_the_same(
        self, interrupted: RunSettings, uninterrupted: Trained, damaged: int, why: str
    ) -> None:
        for path in kept(interrupted)[:damaged]:
            flip_bit(path, path.stat().st_size // 2)

        assert why == why_trained(interrupted)
        assert uninterrupted == trained(interrupted)

    def test_edited_code_leaves_no_checkpoint(
        self, settings: RunSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        edit_code(monkeypatch, "tasks/records.py")

        cut_off(settings, 1)

        assert [] == kept(settings)

    def test_code_edited_after_the_key_was_made_is_not_gone_on_from(
        self, settings: RunSettings
    ) -> None:
        """What the body imported may be newer than the key says, and the edit undone later."""
        computed = stage._computed
        with pytest.MonkeyPatch.context() as patch:

            def edited_meanwhile(call: stage.Call, compute: Callable[[], Any]) -> Any:
                edit_code(patch, "tasks/learning/training.py")
                return computed(call, compute)

            patch.setattr("tasks.orchestration.stage._computed", edited_meanwhile)
            cut_off(settings, 1)

        assert "resumed" not in why_trained(settings)


@pytest.mark.usefixtures("prefect_server")
class TestProgressInPrefect:
    """The artifact that shows how far a training is."""

    def test_ends_at_a_hundred_percent(self, first_run: Run) -> None:
        runs, keys = [first_run.summary.flow_run_id], ["stripes-training"]
        chosen = {"flow_run_id": {"any_": runs}, "key": {"any_": keys}}
        with get_client(sync_client=True) as client:
            answer = client.request("POST", "/artifacts/filter", json={"artifacts": chosen})
        assert [("progress", 100.0)] == [(one["type"], one["data"]) for one in answer.json()]

    @pytest.mark.parametrize("call", ["create_progress_artifact", "update_progress_artifact"])
    def test_server_that_fails_does_not_fail_the_run(
        self, settings: RunSettings, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def fail(*_: object) -> None:
            raise ConnectionError("no server")

        monkeypatch.setattr(f"tasks.orchestration.progress.{call}", fail)

        assert why_trained(settings) == "first run"
