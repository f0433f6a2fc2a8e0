"""The cache in whole flows: what runs again, why, and what damage comes to."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import numpy as np
import pytest
from builders import (
    STAGES,
    Arrays,
    FullDisk,
    Heard,
    Run,
    SourcePackage,
    edit_code,
    files_below,
    flip_bit,
    place_idx,
    run_flow,
    sealed,
    settings_in,
    stripes,
)
from prefect import flow
from prefect.results import ResultRecord

from tasks.cache.blobs import NewFile, Store, sha256_of_file
from tasks.cache.entries import Entries
from tasks.cache.keys import fingerprint_of
from tasks.errors import PayloadError, StoreError, ValidationFailedError
from tasks.orchestration import stage
from tasks.orchestration.account import listening
from tasks.orchestration.run import healing, stored_run
from tasks.records import BlobRef, Record, StageRecord
from tasks.settings import RunSettings

pytestmark = pytest.mark.usefixtures("prefect_server")

R = TypeVar("R")
# What each stage says in a run in which nothing has changed; `publish` hears of those before it.
CACHED = dict.fromkeys(STAGES[:-1], "unchanged") | {"fetch": "always runs"}
AFTER_TRAINING = {
    "evaluate": "input: model changed",
    "illustrate": "input: model, metrics changed",
}
ALWAYS = ["fetch", "publish"]


def reasons(run: Run) -> dict[str, str]:
    """Why each stage ran or did not; `publish` always runs."""
    return {name: record.why for name, record in run.summary.stages.items()}


def entry_of(stage: str, settings: RunSettings) -> Path:
    """Where the result of a stage's latest run lies."""
    store = Store(root=settings.cache_root)
    notes = (store.latest / stage).iterdir()
    latest = max(notes, key=lambda note: note.stat().st_mtime_ns)
    return Entries(store).path(latest.name)


def result_of(stage: str, settings: RunSettings) -> Record:
    return Entries(Store(root=settings.cache_root)).read(entry_of(stage, settings).name).result


def file_of(stage: str, name: str, settings: RunSettings) -> Path:
    """The stored file of this name in the result of a stage's latest run."""
    ref = result_of(stage, settings).stored_files()[name]
    return Store(root=settings.cache_root).path(ref)


def change_code(monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    """Let project files look edited since the run before, and before this process started."""
    edit_code(monkeypatch, *files)
    start_again(monkeypatch)


def start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stages look imported just now, as in a new process."""
    cached_call = stage._cached_call

    def newly_imported(call: stage.Call, *details: Any) -> Any:
        return cached_call(replace(call, imported=fingerprint_of(call.module)), *details)

    monkeypatch.setattr("tasks.orchestration.stage._cached_call", newly_imported)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the stages log: Prefect's loggers hand nothing on to the root."""
    logger = logging.getLogger("prefect.task_runs")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def longer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a longer run leaves its files, not to be changed."""
    return tmp_path_factory.mktemp("longer")


@pytest.fixture(scope="module")
def longer_run(
    first_run: Run,  # noqa: ARG001 - must be over before its cache is copied
    first_folder: Path,
    longer_folder: Path,
) -> Run:
    """The first run with an epoch more, after it."""
    shutil.copytree(first_folder / "cache", longer_folder / "cache")
    place_idx(longer_folder / "stripes", stripes(), zipped=True)
    return run_flow(settings_in(longer_folder).model_copy(update={"epochs": 3}))


@pytest.fixture
def after_a_longer_run(
    settings: RunSettings,
    longer_run: Run,  # noqa: ARG001 - must be over before its cache is copied
    longer_folder: Path,
    tmp_path: Path,
) -> RunSettings:
    """The settings and dataset of the first run, and a copy of the cache after the longer one."""
    shutil.copytree(longer_folder / "cache", tmp_path / "cache")
    return settings


class TestUnchanged:
    """What is served again."""

    def test_first_run_says_so(self, first_run: Run) -> None:
        assert reasons(first_run) == dict.fromkeys(CACHED, "first run") | {"fetch": "always runs"}

    def test_rerun_computes_nothing_but_the_record(
        self, after_a_run: RunSettings, first_run: Run
    ) -> None:
        run = run_flow(after_a_run)

        assert run.computed == ALWAYS
        assert reasons(run) == CACHED
        assert run.heard["publish"].why == "always runs"
        assert run.summary.accuracy == first_run.summary.accuracy

    def test_completed_run_leaves_no_lock(self, first_run: Run, first_folder: Path) -> None:
        assert first_run.computed == STAGES
        assert files_below(first_folder / "cache" / "locks") == set()

    def test_moved_cache_still_serves(self, after_a_run: RunSettings, tmp_path: Path) -> None:
        shutil.move(tmp_path / "cache", tmp_path / "moved")

        run = run_flow(after_a_run.model_copy(update={"cache_dir": tmp_path / "moved"}))

        assert run.computed == ALWAYS

    def test_earlier_settings_are_served_with_their_date(
        self, after_a_longer_run: RunSettings
    ) -> None:
        entries = Entries(Store(root=after_a_longer_run.cache_root))
        for key in entries:
            entry = entries.read(key)
            entries.write(
                entry.model_copy(update={"computed": datetime(2026, 2, 3, 12, tzinfo=UTC)})
            )

        run = run_flow(after_a_longer_run)

        assert run.computed == ALWAYS
        assert reasons(run) == dict.fromkeys(CACHED, "unchanged since 2026-02-03") | {
            "fetch": "always runs"
        }

    def test_refresh_computes_everything_and_gives_the_same_model(
        self, after_a_run: RunSettings, first_run: Run
    ) -> None:
        run = run_flow(after_a_run.model_copy(update={"refresh": True}))

        assert run.computed == STAGES
        assert reasons(run) == dict.fromkeys(CACHED, "refresh") | {"fetch": "always runs"}
        assert run.summary.weights_sha256 == first_run.summary.weights_sha256


class TestChanges:
    """What runs again after a change, and the reason that is given."""

    def test_setting_of_the_training_recomputes_it_and_what_follows(self, longer_run: Run) -> None:
        assert longer_run.computed == ["fetch", "train", "evaluate", "illustrate", "publish"]
        assert reasons(longer_run) == CACHED | {"train": "epochs 2 → 3"} | AFTER_TRAINING

    def test_one_changed_pixel_recomputes_everything(
        self, after_a_run: RunSettings, digits: Arrays, tmp_path: Path
    ) -> None:
        digits["x_train"][0, 0, 0] ^= 1
        place_idx(tmp_path / "stripes", digits, zipped=True)

        run = run_flow(after_a_run)

        assert run.computed == STAGES
        assert reasons(run) == {
            "fetch": "always runs",
            "load": "input: train-images-idx3-ubyte.gz changed",
            "validate": "input: x_train changed",
            "preprocess": "input: x_train changed",
            "train": "input: x_train changed",
            "evaluate": "input: model, x_train changed",
            "illustrate_data": "input: x_train changed",
            "illustrate": "input: model, metrics, x_train changed",
        }

    def test_same_content_compressed_again_recomputes_only_loading(
        self, after_a_run: RunSettings, digits: Arrays, tmp_path: Path
    ) -> None:
        shutil.rmtree(tmp_path / "stripes")
        place_idx(tmp_path / "stripes", digits, zipped=False)

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "load", "publish"]

    def test_new_version_of_a_library_recomputes_what_reaches_it(
        self, after_a_run: RunSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = fingerprint_of("tasks.validate").libraries["pandera"]
        monkeypatch.setattr(
            "tasks.cache.keys.version_of",
            lambda name: "99.0" if name == "pandera" else metadata.version(name),
        )
        start_again(monkeypatch)

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "validate", "preprocess", "publish"]
        why = f"pandera {before} → 99.0"
        assert reasons(run) == CACHED | {"validate": why, "preprocess": why}

    def test_changed_code_that_gives_the_same_bytes_recomputes_nothing_else(
        self, after_a_run: RunSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        change_code(monkeypatch, "tasks/preprocess.py")

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "preprocess", "publish"]
        assert reasons(run) == CACHED | {"preprocess": "code: tasks/preprocess.py"}

    def test_code_edited_during_the_run_is_neither_served_nor_kept(
        self, after_a_run: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = files_below(tmp_path / "cache" / "results")
        edit_code(monkeypatch, "tasks/validation/contracts.py")

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "validate", "preprocess", "publish"]
        why = "code edited during the run"
        assert reasons(run) == CACHED | {"validate": why, "preprocess": why}
        assert files_below(tmp_path / "cache" / "results") == before


def test_code_edited_after_the_key_was_made_is_not_kept(
    after_a_run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage imports in its body; what it computed may come from newer code than its key says."""
    stricter = after_a_run.model_copy(update={"severity": {"duplicates": "error"}})
    with monkeypatch.context() as patch:
        computed = stage._computed

        def edited_meanwhile(call: stage.Call, compute: Callable[[], Any]) -> Any:
            edit_code(patch, "tasks/validation/checks.py")
            return computed(call, compute)

        patch.setattr("tasks.orchestration.stage._computed", edited_meanwhile)
        assert reasons(run_flow(stricter))["validate"] == "code edited during the run"
    assert reasons(run_flow(stricter))["validate"] == "duplicates warning → error"


class TestLostAndDamagedFiles:
    """Stored files that are gone or altered are computed again, in the same run."""

    def test_lost_array(self, after_a_run: RunSettings) -> None:
        lost = file_of("preprocess", "x_train", after_a_run)
        lost.unlink()

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "preprocess", "publish"]
        assert reasons(run) == CACHED | {"preprocess": "lost: x_train"}
        assert lost.exists()

    def test_truncated_array(self, after_a_run: RunSettings) -> None:
        truncated = file_of("preprocess", "x_train", after_a_run)
        size = truncated.stat().st_size
        os.truncate(truncated, size - 1)

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "preprocess", "publish"]
        assert reasons(run) == CACHED | {"preprocess": "corrupt: x_train"}
        assert size == truncated.stat().st_size

    def test_altered_array_that_a_changed_stage_opens(
        self,
        after_a_run: RunSettings,
        logged: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        altered = file_of("preprocess", "x_test", after_a_run)
        flip_bit(altered)
        change_code(monkeypatch, "tasks/evaluate.py")

        run = run_flow(after_a_run)

        assert reasons(run) == CACHED | {
            "preprocess": "corrupt: x_test",
            "evaluate": "code: tasks/evaluate.py",
        }
        assert sha256_of_file(altered) == altered.stem
        assert f"{altered.stem}.npy" in "".join(logged.messages)

    def test_altered_model_of_an_unchanged_run(
        self, after_a_run: RunSettings, first_run: Run
    ) -> None:
        altered = file_of("train", "keras_file", after_a_run)
        flip_bit(altered, altered.stat().st_size // 2)

        run = run_flow(after_a_run)

        assert reasons(run) == CACHED | {"train": "corrupt: keras_file"}
        assert run.summary.weights_sha256 == first_run.summary.weights_sha256
        assert (
            sha256_of_file(run.summary.model_path)
            == file_of("train", "keras_file", after_a_run).stem
        )

    def test_altered_raw_array(
        self, after_a_run: RunSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        altered = file_of("load", "x_train", after_a_run)
        flip_bit(altered)
        change_code(monkeypatch, "tasks/preprocess.py")

        run = run_flow(after_a_run)

        assert reasons(run) == CACHED | {
            "load": "corrupt: x_train",
            "preprocess": "code: tasks/preprocess.py",
        }
        assert sha256_of_file(altered) == altered.stem

    def test_altered_arrays_at_both_ends_of_a_stage(
        self, after_a_run: RunSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        altered = [file_of(stage, "x_test", after_a_run) for stage in ("load", "preprocess")]
        for path in altered:
            flip_bit(path)
        change_code(monkeypatch, "tasks/evaluate.py")

        run = run_flow(after_a_run)

        assert reasons(run) == CACHED | {
            "load": "corrupt: x_test",
            "preprocess": "corrupt: x_test",
            "evaluate": "code: tasks/evaluate.py",
        }
        assert [sha256_of_file(path) for path in altered] == [path.stem for path in altered]

    def test_several_altered_arrays_of_one_stage(
        self, after_a_run: RunSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        altered = [file_of("preprocess", name, after_a_run) for name in ("x_test", "y_test")]
        for path in altered:
            flip_bit(path)
        change_code(monkeypatch, "tasks/evaluate.py")

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "preprocess", "evaluate", "publish"]
        assert [sha256_of_file(path) for path in altered] == [path.stem for path in altered]

    def test_disk_that_alters_whatever_is_written_ends_the_run(
        self, after_a_run: RunSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        altered = file_of("preprocess", "x_train", after_a_run)
        store_file = Store._publish

        def alter(store: Store, file: NewFile, suffix: str) -> BlobRef:
            ref = store_file(store, file, suffix)
            if store.path(ref) == altered:
                flip_bit(altered)
                os.utime(altered, (0, 0))  # two changes within one tick of the clock
            return ref

        monkeypatch.setattr(Store, "_publish", alter)
        flip_bit(altered)

        with pytest.raises(PayloadError, match=altered.name):
            run_flow(after_a_run.model_copy(update={"epochs": 3}))


class TestDamagedResults:
    """Entries that are gone or altered are computed again."""

    def test_torn_entry(self, after_a_run: RunSettings) -> None:
        entry = entry_of("preprocess", after_a_run)
        whole = entry.read_bytes()
        entry.write_bytes(whole[:-7])

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "preprocess", "publish"]
        assert reasons(run) == CACHED | {"preprocess": "corrupt: result"}
        assert len(whole) == entry.stat().st_size

    def test_deleted_entry(self, after_a_run: RunSettings) -> None:
        entry_of("preprocess", after_a_run).unlink()

        run = run_flow(after_a_run)

        assert run.computed == ["fetch", "preprocess", "publish"]
        assert reasons(run) == CACHED | {"preprocess": "lost: result"}

    def test_forgotten_runs_cost_nothing_but_their_reasons(self, after_a_run: RunSettings) -> None:
        shutil.rmtree(after_a_run.cache_root / "latest")

        run = run_flow(after_a_run)

        assert run.computed == ALWAYS


def test_open_folders_and_variables_not_used_are_told(
    after_a_run: RunSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.orchestration.run.unused_variables", ["XLA_FLAGS"])
    (after_a_run.cache_root / "results").chmod(0o777)
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(caplog.handler)
    try:
        run_flow(after_a_run)
    finally:
        logger.removeHandler(caplog.handler)

    assert "results was open to other users (0777), and is closed to them now" in caplog.text
    assert "XLA_FLAGS in the environment is not used: it would change results" in caplog.text


class TestFailedStages:
    """A stage that fails leaves nothing but its error."""

    @pytest.fixture
    def scaled(self, settings: RunSettings, digits: Arrays, tmp_path: Path) -> RunSettings:
        """A run that `validate` ends."""
        digits["x_test"] = digits["x_test"] // 255
        place_idx(tmp_path / "stripes", digits, zipped=True)
        return settings

    def test_no_lock_is_left_and_nothing_is_said_but_the_failure(
        self, scaled: RunSettings, logged: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(ValidationFailedError):
            run_flow(scaled)

        assert files_below(scaled.cache_root / "locks") == set()
        warnings = [r.getMessage() for r in logged.records if r.levelno == logging.WARNING]
        assert warnings == []


def forged_pickle(mark: Path) -> dict[str, Any]:
    """A pickle that calls a function when it is loaded."""

    class Forged:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, (str(mark),)

    payload = base64.encodebytes(cloudpickle.dumps(Forged())).decode()
    return {"serializer": {"type": "pickle"}, "result": payload}


def forged_class(mark: Path) -> dict[str, Any]:
    """JSON that names a function and what to call it with."""
    result = {"__class__": "os.makedirs", "data": {"name": str(mark)}}
    return {"serializer": {"type": "json"}, "result": json.dumps(result)}


def forged_exception(mark: Path) -> dict[str, Any]:
    """JSON that names an exception in a module that does something when it is imported."""
    module = f"forged_{mark.parent.name}"
    (mark.parent / f"{module}.py").write_text(
        f"import os\nos.mkdir({str(mark)!r})\nclass Boom(Exception): pass\n", encoding="utf-8"
    )
    result = {"__exc_type__": f"{module}.Boom", "message": ""}
    return {"serializer": {"type": "json"}, "result": json.dumps(result)}


FORGERIES = {
    "a pickle": forged_pickle,
    "JSON that names a function": forged_class,
    "JSON that names an exception": forged_exception,
}


class TestForgedResults:
    """Whoever can write to the cache folder must not be able to run code with it."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where what a forgery names can be imported from."""
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    def record(self, kind: str, mark: Path, key: str) -> bytes:
        """A forgery as Prefect stores results; `mark` exists once it has been executed."""
        forged = FORGERIES[kind](mark)
        metadata = {"storage_key": key, "serializer": forged["serializer"]}
        return json.dumps({"metadata": metadata, "result": forged["result"]}).encode()

    @pytest.mark.parametrize("kind", FORGERIES)
    def test_forgery_would_be_executed_by_prefect(self, kind: str, folder: Path) -> None:
        """Or else the next test would show nothing."""
        ResultRecord.deserialize(self.record(kind, folder / "executed", "key"))

        assert (folder / "executed").exists()

    @pytest.mark.parametrize("framing", [bytes, sealed], ids=["as Prefect writes", "as we write"])
    def test_forgeries_are_misses_and_are_not_executed(
        self, framing: Callable[[bytes], bytes], folder: Path, after_a_run: RunSettings
    ) -> None:
        stages = ["validate", "preprocess", "evaluate"]
        marks = [folder / f"executed_{name}" for name in stages]
        for kind, name, mark in zip(FORGERIES, stages, marks, strict=True):
            entry = entry_of(name, after_a_run)
            entry.write_bytes(framing(self.record(kind, mark, entry.name)))

        run = run_flow(after_a_run)

        assert [] == [mark for mark in marks if mark.exists()]
        assert run.computed == ["fetch", *stages, "publish"]
        assert reasons(run) == CACHED | dict.fromkeys(stages, "corrupt: result")


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no room for results; arrays, which are larger, still find some."""
    create = NewFile.__init__

    def without_room(file: NewFile, folder: Path, option: str) -> None:
        create(file, folder, option)
        if folder.name == "results":
            file._file.close()
            file._file = io.BufferedWriter(FullDisk(file.temporary, "w"))

    monkeypatch.setattr(NewFile, "__init__", without_room)


class TestFullDisk:
    """A disk that has no room left for a result."""

    def test_run_fails_and_earlier_results_stay_and_serve(self, after_a_run: RunSettings) -> None:
        before = files_below(after_a_run.cache_root / "results")
        with pytest.MonkeyPatch.context() as patched:
            change_code(patched, "tasks/validate.py")
            fill_disk(patched)
            with pytest.raises(StoreError, match=r"No space left on device .*--cache-dir"):
                run_flow(after_a_run)

        run = run_flow(after_a_run)

        assert run.computed == ALWAYS
        assert before == files_below(after_a_run.cache_root / "results")


HELPER = "def half(x):\n    return x / 2\n"
HALVE = """
import numpy as np
from builders import store_metrics
from PACKAGE.helper import half
from tasks.orchestration.stage import stage
from tasks.records import Metrics
from tasks.cache.blobs import Store

@stage()
def halve(number: float, store: Store) -> Metrics:
    return store_metrics(np.array([half(number)], np.float32), store)
"""
DRAW = """
import numpy as np
from builders import store_metrics
from tasks.orchestration.stage import stage
from tasks.records import Metrics
from tasks.cache.blobs import Store

@stage()
def draw(store: Store) -> Metrics:
    return store_metrics(np.random.default_rng().random(4), store)
"""
DOUBLE = """
from builders import store_metrics
from tasks.orchestration.stage import stage
from tasks.records import Metrics
from tasks.cache.blobs import Store

@stage()
def double(given: Metrics, store: Store) -> Metrics:
    return store_metrics(2 * store.open_array(given.probabilities), store)
"""
SHOW = """
from tasks.orchestration.stage import stage
from tasks.records import Metrics
from tasks.cache.blobs import Store

@stage(cached=False)
def show(drawn: Metrics, doubled: Metrics, store: Store) -> tuple[Metrics, Metrics]:
    store.require(drawn.probabilities)
    return drawn, doubled
"""
COMPLAIN = """
from tasks.errors import PayloadError
from tasks.orchestration.stage import stage
from tasks.records import Metrics
from tasks.cache.blobs import Store

@stage()
def complain(given: Metrics, store: Store) -> Metrics:
    raise PayloadError(given.probabilities, "Never good enough.")
"""


class TestOwnStages:
    """Stages written for the test, with code that is edited and results that differ."""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourcePackage:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)  # it would be found by its second
        package = SourcePackage(tmp_path)
        package.write("__init__.py", "")
        package.write("helper.py", HELPER)
        package.write("stranger.py", "ANSWER = 42\n")
        package.write("halve.py", HALVE)
        package.write("draw.py", DRAW)
        package.write("double.py", DOUBLE)
        package.write("show.py", SHOW)
        package.write("complain.py", COMPLAIN)
        return package

    def run(
        self, stages: Callable[[Store], R], settings: RunSettings
    ) -> tuple[R, dict[str, StageRecord]]:
        """Run stages in a flow; returns what they hand back and what was heard of them."""
        results = []

        @flow(name="own-stages", persist_result=False)
        @healing
        def own_stages() -> None:
            with stored_run(settings) as store:
                results.append(stages(store))

        with listening(heard := Heard()):
            own_stages()
        return results[-1], heard.stages

    def halve_and_double(
        self, package: SourcePackage, settings: RunSettings, number: float = 8.0
    ) -> tuple[float, dict[str, str]]:
        """Half of a number, doubled, and the state and reason of each stage."""

        def stages(store: Store) -> float:
            halved = package.load("halve").halve(number, store)
            doubled = package.load("double").double(halved, store)
            return float(store.open_array(doubled.probabilities)[0])

        result, heard = self.run(stages, settings)
        return result, {name: f"{one.state}: {one.why}" for name, one in heard.items()}

    def test_edited_helper_recomputes(self, package: SourcePackage, settings: RunSettings) -> None:
        self.halve_and_double(package, settings)
        package.write("helper.py", "def half(x):\n    return x / 4\n")

        result, told = self.halve_and_double(package, settings)

        assert result == 4.0
        assert told == {
            "halve": f"computed: code: {package.name}/helper.py",
            "double": "computed: input: given changed",
        }

    @pytest.mark.parametrize(
        ("path", "source"),
        [
            ("helper.py", f'"""Fractions."""\n{HELPER}# exactly\n'),
            ("stranger.py", "ANSWER = 43\n"),
        ],
        ids=["comments and docstrings", "code that is not reached"],
    )
    def test_other_edits_recompute_nothing(
        self, package: SourcePackage, settings: RunSettings, path: str, source: str
    ) -> None:
        self.halve_and_double(package, settings)
        package.write(path, source)

        result, told = self.halve_and_double(package, settings)

        assert result == 8.0
        assert told == {"halve": "cached: unchanged", "double": "cached: unchanged"}

    def test_edit_that_gives_the_same_result_recomputes_nothing_else(
        self, package: SourcePackage, settings: RunSettings
    ) -> None:
        self.halve_and_double(package, settings)
        package.write("helper.py", "def half(x):\n    return 0.5 * x\n")

        result, told = self.halve_and_double(package, settings)

        assert result == 8.0
        assert told == {
            "halve": f"computed: code: {package.name}/helper.py",
            "double": "cached: unchanged",
        }

    def test_run_that_was_served_is_what_the_next_one_is_compared_with(
        self, package: SourcePackage, settings: RunSettings
    ) -> None:
        for number in (8.0, 6.0, 8.0):  # the third from the cache
            self.halve_and_double(package, settings, number)

        _, told = self.halve_and_double(package, settings, 2.0)

        assert told["halve"] == "computed: number 8 → 2"

    def draw_and_double(
        self, package: SourcePackage, settings: RunSettings
    ) -> tuple[np.ndarray, dict[str, StageRecord]]:
        """The double of what was drawn; the stage that draws never draws the same."""

        def stages(store: Store) -> np.ndarray:
            doubled = package.load("double").double(package.load("draw").draw(store), store)
            return np.array(store.open_array(doubled.probabilities))

        return self.run(stages, settings)

    def test_result_from_other_inputs_is_kept_under_its_own_key(
        self, package: SourcePackage, settings: RunSettings
    ) -> None:
        """A stage that does not give the same again: what follows is computed from the new."""
        self.draw_and_double(package, settings)
        outdated = entry_of("double", settings)
        outdated.unlink()
        flip_bit(file_of("draw", "probabilities", settings))

        doubled, heard = self.draw_and_double(package, settings)

        assert heard["draw"].why == "corrupt: probabilities"
        assert heard["double"].why == "input: given changed"
        assert not outdated.exists()
        drawn = np.load(file_of("draw", "probabilities", settings))
        np.testing.assert_array_equal(2 * drawn, doubled)
        _, heard = self.draw_and_double(package, settings)
        assert {record.why for record in heard.values()} == {"unchanged"}

    def test_results_that_are_recorded_together_belong_together(
        self, package: SourcePackage, settings: RunSettings
    ) -> None:
        """A stage that had its result from the cache runs again when its input is another."""

        def stages(store: Store) -> list[np.ndarray]:
            drawn = package.load("draw").draw(store)
            doubled = package.load("double").double(drawn, store)
            return [
                np.array(store.open_array(shown.probabilities))
                for shown in package.load("show").show(drawn, doubled, store)
            ]

        self.run(stages, settings)
        flip_bit(file_of("draw", "probabilities", settings))

        (drawn, doubled), _ = self.run(stages, settings)

        np.testing.assert_array_equal(2 * drawn, doubled)

    def test_edited_stage_goes_on_with_other_inputs_and_keeps_nothing(
        self, package: SourcePackage, settings: RunSettings
    ) -> None:
        self.draw_and_double(package, settings)
        flip_bit(file_of("draw", "probabilities", settings))
        before = files_below(settings.cache_root / "results")

        double, draw = package.load("double").double, package.load("draw").draw
        package.write("double.py", f"{DOUBLE}EDITED = True\n")

        def stages(store: Store) -> np.ndarray:
            return np.array(store.open_array(double(draw(store), store).probabilities))

        doubled, heard = self.run(stages, settings)

        drawn = np.load(file_of("draw", "probabilities", settings))
        np.testing.assert_array_equal(2 * drawn, doubled)
        assert heard["double"].why == "code edited during the run"
        assert before == files_below(settings.cache_root / "results")

    def test_file_that_is_never_good_enough_ends_the_run(
        self, package: SourcePackage, settings: RunSettings
    ) -> None:
        def stages(store: Store) -> None:
            halved = package.load("halve").halve(8.0, store)
            package.load("complain").complain(halved, store)

        with pytest.raises(PayloadError, match="Never good enough"):
            self.run(stages, settings)
