"""The program as people and workers start it: whole processes, signals, servers, MNIST.

Each test has a Prefect home and folders of its own; the database is made once and copied.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from builders import STAGES, UNCHANGED
from programs import (
    HANG_SECONDS,
    NOISE,
    PATIENCE_SECONDS,
    PROGRAM,
    ROOT,
    CompletedRun,
    Environment,
    client_of,
    comes_true,
    completed_run,
    environment_in,
    folders_in,
    own_servers,
    prefect_server_in,
    program_in_training,
    read_until,
    rest_of_stderr,
    run,
    run_program,
    started,
    write_dataset,
)

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.cache.housekeeping import damages
from tasks.learning.backend import keras

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("default_threads")]

# Each of these ends before the other does.
ORDER = [
    *(("fetch", "load"), ("load", "validate"), ("load", "preprocess"), ("validate", "train")),
    *(("preprocess", "train"), ("train", "evaluate"), ("illustrate_data", "publish")),
    *(("evaluate", "illustrate"), ("illustrate", "publish")),
]

HEAVY_LIBRARIES = {
    *("tensorflow", "keras", "pandas", "xarray", "pandera", "matplotlib", "sklearn", "scipy"),
    *("cleanlab", "PIL"),
}
ENDLESS = "10000"  # epochs: half a minute on tiny images, more than any test lets it train


@pytest.fixture
def environment(prepared_home: Path, tmp_path: Path) -> Environment:
    """The environment of this test's processes."""
    return environment_in(shutil.copytree(prepared_home, tmp_path / "prefect"))


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A run of three epochs on tiny images, in this test's folders."""
    dataset = write_dataset(tmp_path / "stripes.npz")
    return ["--dataset", str(dataset), "--epochs", "3", *folders_in(tmp_path)]


@pytest.fixture(scope="module")
def first_run_ever(tmp_path_factory: pytest.TempPathFactory) -> CompletedRun:
    """A run with a Prefect home that does not exist yet, and so without a database."""
    folder = tmp_path_factory.mktemp("first")
    dataset = write_dataset(folder / "stripes.npz")
    options = ["--dataset", str(dataset), "--epochs", "3", *folders_in(folder)]
    return completed_run(folder, options, environment_in(folder / "prefect"))


@pytest.fixture(scope="module")
def json_run(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> CompletedRun:
    """A run of three epochs on tiny images, with --json."""
    folder = tmp_path_factory.mktemp("json")
    dataset = write_dataset(folder / "stripes.npz")
    options = ["--dataset", str(dataset), "--epochs", "3", "--json", *folders_in(folder)]
    home = shutil.copytree(prepared_home, folder / "prefect")
    return completed_run(folder, options, environment_in(home))


@pytest.fixture(scope="module")
def mnist_run(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> CompletedRun:
    """The run that nobody has to set anything for: the embedded MNIST, with --json."""
    folder = tmp_path_factory.mktemp("mnist")
    home = shutil.copytree(prepared_home, folder / "prefect")
    return completed_run(folder, ["--json", *folders_in(folder)], environment_in(home))


@pytest.fixture(scope="module")
def lasting_server(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server as an operator starts it; yields the URL of its API."""
    home = shutil.copytree(prepared_home, tmp_path_factory.mktemp("lasting") / "prefect")
    with prefect_server_in(home) as url:
        yield url


class TestFirstRunEver:
    """What a newcomer sees."""

    def test_standard_output_stays_empty(self, first_run_ever: CompletedRun) -> None:
        assert first_run_ever.stdout == ""

    def test_no_noise_is_shown(self, first_run_ever: CompletedRun) -> None:
        assert [] == [noise for noise in NOISE if noise in first_run_ever.stderr], (
            first_run_ever.stderr
        )

    def test_every_stage_is_shown_as_it_ends(self, first_run_ever: CompletedRun) -> None:
        lines = re.findall(r"^  (\w+) +computed ", first_run_ever.stderr, re.MULTILINE)
        assert sorted(STAGES) == sorted(lines)
        ends = {name: place for place, name in enumerate(lines)}
        for earlier, later in ORDER:
            assert ends[earlier] < ends[later]

    def test_closing_table_gives_the_accuracy(self, first_run_ever: CompletedRun) -> None:
        pattern = r"^accuracy +[01]\.\d{4} on the test images"
        assert re.search(pattern, first_run_ever.stderr, re.MULTILINE)

    @pytest.mark.parametrize("what", ["report", "model"])
    def test_closing_table_gives_a_path_that_exists(
        self, what: str, first_run_ever: CompletedRun
    ) -> None:
        (path,) = re.findall(rf"^{what} +(\S+)", first_run_ever.stderr, re.MULTILINE)
        assert Path(path).is_file()


class TestJsonRun:
    """What holds after a run with --json, on standard output and in the database."""

    def test_json_has_the_result_and_every_stage(self, json_run: CompletedRun) -> None:
        expected = {
            *("dataset", "model", "accuracy", "loss", "stages"),
            *("model_path", "weights_sha256", "report_path", "flow_run_id", "flow_run_name"),
        }
        assert expected == set(json_run.summary)
        assert set(STAGES) == set(json_run.summary["stages"])
        for stage in json_run.summary["stages"].values():
            assert {"state", "seconds", "why"} == set(stage)

    def test_paths_in_the_json_exist(self, json_run: CompletedRun) -> None:
        assert Path(json_run.summary["model_path"]).is_file()
        assert Path(json_run.summary["report_path"]).is_file()

    def test_database_has_everything_that_was_sent(self, json_run: CompletedRun) -> None:
        database = json_run.folder / "prefect" / "prefect.db"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as prefect:

            def rows(query: str) -> list[tuple[str, ...]]:
                return sorted(prefect.execute(query, [json_run.summary["flow_run_id"]]))

            flow_runs = rows("SELECT state_name FROM flow_run WHERE id = ?")
            stages = rows("SELECT name, state_name FROM task_run WHERE flow_run_id = ?")
            messages = rows("SELECT message FROM log WHERE flow_run_id = ?")
            artifacts = rows("SELECT key FROM artifact WHERE flow_run_id = ?")
        assert [("Completed",)] == flow_runs
        assert [(stage, "Completed") for stage in sorted(STAGES)] == stages
        epochs = [message[:9] for (message,) in messages if message.startswith("epoch")]
        assert ["epoch 1/3", "epoch 2/3", "epoch 3/3"] == epochs
        kinds = ("accuracy", "evaluation", "per-class", "training", "validation")
        assert [(f"stripes-{kind}",) for kind in kinds] == artifacts

    def test_unchanged_rerun_computes_only_the_record_without_the_heavy_libraries(
        self, json_run: CompletedRun
    ) -> None:
        command = [sys.executable, "-X", "importtime", PROGRAM, *json_run.options]
        rerun = run(command, json_run.environment)
        states = {name: s["state"] for name, s in json.loads(rerun.stdout)["stages"].items()}
        assert UNCHANGED == states
        modules = re.findall(r"^import time:.*\| +(\S+)$", rerun.stderr, re.MULTILINE)
        packages = {module.partition(".")[0] for module in modules}
        assert "prefect" in packages
        assert set() == packages & HEAVY_LIBRARIES


def test_failure_gives_one_message_and_one_json_object(
    options: list[str], environment: Environment, tmp_path: Path
) -> None:
    missing = ["--dataset", str(tmp_path / "nowhere"), *options[2:], "--json"]
    done = run_program(missing, environment, status=1)
    answer = json.loads(done.stdout)
    assert "A dataset is mnist, fashion_mnist, kmnist, a folder" in answer["error"]
    assert [("fetch", "failed")] == [(n, s["state"]) for n, s in answer["stages"].items()]
    stage, message = filter(None, done.stderr.strip().splitlines())
    assert re.match(r"fetch +failed .* see the error", stage)
    assert f"failed {answer['error']}" == message


def test_validation_failure_lists_the_failed_checks(
    options: list[str], environment: Environment, tmp_path: Path
) -> None:
    blank = write_dataset(tmp_path / "blank.npz", blank=True)
    done = run_program(["--dataset", str(blank), *options[2:]], environment, status=1)
    assert "2 of 19 checks failed for blank" in done.stderr
    assert "x_train: pixels span more than 0 and 1" in done.stderr
    assert "x_test: pixels span more than 0 and 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_mistyped_option_is_answered_and_leaves_no_server(
    options: list[str], environment: Environment
) -> None:
    done = run_program([*options, "--epoch", "3"], environment, status=2)
    assert "did you mean --epochs?" in done.stderr
    assert comes_true(lambda: own_servers(environment) == [])


def test_interrupt_ends_training_with_one_message_and_no_server(
    options: list[str], environment: Environment
) -> None:
    with program_in_training([*options, "--epochs", ENDLESS], environment) as program:
        assert len(own_servers(environment)) == 1
        os.killpg(program.pid, signal.SIGINT)  # as Ctrl-C does
        stderr = rest_of_stderr(program)
    assert program.returncode == 130, stderr
    assert stderr.count("Interrupted") == 1
    assert "Traceback" not in stderr
    assert comes_true(lambda: own_servers(environment) == [])


def test_signals_that_were_ignored_at_the_start_stay_ignored(
    options: list[str], environment: Environment
) -> None:
    """As `nohup` starts a program, and a shell script what runs in the background."""
    ignored = (signal.SIGHUP, signal.SIGINT)
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    try:
        with program_in_training([*options, "--epochs", "1000"], environment) as program:
            for number in ignored:
                os.killpg(program.pid, number)
            stderr = rest_of_stderr(program)
    finally:
        for number, handler in zip(ignored, before, strict=True):
            signal.signal(number, handler)
    assert program.returncode == 0, stderr
    assert "accuracy" in stderr


@pytest.mark.parametrize(
    ("how", "status"), [(">&- 2>&- <&-", 0), ("2> /dev/full", 0), ("--json > /dev/full", 1)]
)
def test_run_ends_as_it_should_whatever_its_streams_are(
    options: list[str], environment: Environment, tmp_path: Path, how: str, status: int
) -> None:
    done = run(
        ["/bin/bash", "-c", f"{sys.executable} {PROGRAM} {shlex.join(options)} {how}"],
        environment,
        status=status,
    )
    assert "Traceback" not in done.stderr
    assert len([*(tmp_path / "models").glob("*.keras")]) == 1
    assert comes_true(lambda: own_servers(environment) == [])


@pytest.mark.parametrize("on_the_path", [False, True], ids=["current folder", "PYTHONPATH"])
def test_other_tasks_and_flows_are_not_taken_for_ours(
    options: list[str], environment: Environment, tmp_path: Path, *, on_the_path: bool
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for name in ("tasks", "flows", "deployments"):
        (others / f"{name}.py").write_text("raise SystemExit(f'{__name__} is another one')")
    done = subprocess.run(
        [sys.executable, ROOT / PROGRAM, *options],
        cwd=tmp_path if on_the_path else others,
        env={**environment, "PYTHONPATH": str(others)} if on_the_path else environment,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_file_that_hides_a_library_is_named(
    options: list[str], environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "keras.py").touch()
    done = run_program(options, {**environment, "PYTHONPATH": str(tmp_path)}, status=1)
    assert f"`keras` must be the installed library. Received: {tmp_path}/keras.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_kill_takes_the_server_along(options: list[str], environment: Environment) -> None:
    with program_in_training([*options, "--epochs", ENDLESS], environment) as program:
        assert len(own_servers(environment)) == 1
        program.kill()
        program.wait(PATIENCE_SECONDS)
        assert comes_true(lambda: own_servers(environment) == [])


def test_interrupt_while_the_program_loads_is_no_traceback(
    options: list[str], environment: Environment
) -> None:
    with started(options, environment) as program:
        assert comes_true(lambda: len(own_servers(environment)) == 1)
        os.killpg(program.pid, signal.SIGINT)
        stderr = rest_of_stderr(program)
    assert program.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert comes_true(lambda: own_servers(environment) == [])


def summaries_of_two_runs_at_once(
    options: list[str], environment: Environment
) -> list[dict[str, Any]]:
    command = [sys.executable, PROGRAM, *options, "--json"]
    summaries = []
    with (
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as first,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as second,
    ):
        for program in (first, second):
            stdout, stderr = program.communicate(timeout=HANG_SECONDS)
            assert program.returncode == 0, stderr.decode()
            summaries.append(json.loads(stdout))
    return summaries


def test_two_runs_at_the_same_time_compute_each_stage_once(
    options: list[str], environment: Environment
) -> None:
    first, second = summaries_of_two_runs_at_once(options, environment)
    states = {
        name: sorted([first["stages"][name]["state"], second["stages"][name]["state"]])
        for name in STAGES
    }
    once, always = ["cached", "computed"], ["computed", "computed"]
    assert dict.fromkeys(STAGES, once) | {"fetch": always, "publish": always} == states
    assert first["weights_sha256"] == second["weights_sha256"]


def test_two_first_runs_ever_at_the_same_time_both_complete(
    options: list[str], tmp_path: Path
) -> None:
    """Both find no database, and only one may create it."""
    first, second = summaries_of_two_runs_at_once(options, environment_in(tmp_path / "new"))
    assert first["weights_sha256"] == second["weights_sha256"]


def test_run_that_waits_for_a_killed_one_goes_on_and_completes(
    options: list[str], environment: Environment
) -> None:
    options = [*options, "--epochs", "2000"]
    with program_in_training(options, environment) as first:
        first.send_signal(signal.SIGSTOP)  # it trains no further, and keeps its lock
        with started(options, environment) as second:
            read_until(second, "waiting for another run")
            first.kill()
            stderr = rest_of_stderr(second)
    assert second.returncode == 0, stderr
    assert re.search(r"^  train +computed ", stderr, re.MULTILINE)


# Runs in a mount namespace of its own: a small disk for the cache that can be filled up.
# $1 the cache folder, $2 a folder outside of it, then the program and its options.
ON_A_SMALL_DISK = """
set -eu
cache=$1 outside=$2
shift 2
mkdir "$cache"
mount -t tmpfs -o size=2m small-disk "$cache"
"$@" >"$outside/first.json"
dd if=/dev/zero of="$cache/filler" bs=4k 2>/dev/null || true
set +e
"$@" --epochs 4 >"$outside/full.json" 2>"$outside/full.stderr"
echo $? >"$outside/full.status"
set -e
cp -r "$cache" "$outside/kept"
rm "$cache/filler"
"$@" >"$outside/second.json"
"""


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class FullDiskRun:
    """A run on a full disk, one before it and one after there was room again."""

    folder: Path

    @property
    def stderr(self) -> str:
        """What the run on the full disk said."""
        return (self.folder / "full.stderr").read_text()

    def states(self, run: str) -> dict[str, str]:
        """The state of each stage in a run."""
        stages = json.loads((self.folder / f"{run}.json").read_text())["stages"]
        return {name: stage["state"] for name, stage in stages.items()}


@pytest.fixture(scope="module")
def full_disk_run(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> FullDiskRun:
    if not can_mount():  # a disk that is really full can then not be had
        pytest.skip("needs a kernel that lets this user mount a tmpfs (unshare --map-root-user)")
    folder = tmp_path_factory.mktemp("full")
    (folder / "outside").mkdir()
    home = shutil.copytree(prepared_home, folder / "prefect")
    dataset = write_dataset(folder / "stripes.npz")
    program = [sys.executable, PROGRAM, "--dataset", str(dataset), "--json"]
    program += ["--epochs", "3", *folders_in(folder)]
    script = ["sh", "-c", ON_A_SMALL_DISK, "sh", str(folder / "cache"), str(folder / "outside")]
    run(
        ["unshare", "--user", "--map-root-user", "--mount", *script, *program],
        environment_in(home),
    )
    return FullDiskRun(folder / "outside")


class TestFullDisk:
    """A cache on a disk of 2 MB that has no room left."""

    def test_run_fails_with_one_message_that_names_the_option(
        self, full_disk_run: FullDiskRun
    ) -> None:
        assert (full_disk_run.folder / "full.status").read_text() == "1\n"
        (message,) = re.findall(r"^failed .*", full_disk_run.stderr, re.MULTILINE)
        assert "No space left on device" in message
        assert "choose another place with --cache-dir" in message
        # Training goes on without checkpoints, and says so.
        said = re.sub(r".*WARNING +no checkpoint of the epoch before.*", "", full_disk_run.stderr)
        assert [] == [noise for noise in NOISE if noise in said], said

    def test_earlier_entries_stay_intact(self, full_disk_run: FullDiskRun) -> None:
        store = Store(root=full_disk_run.folder / "kept")
        entries = Entries(store)
        assert len(list(entries)) >= len(STAGES) - 2
        assert list(damages(entries)) == []

    def test_nothing_unfinished_is_left(self, full_disk_run: FullDiskRun) -> None:
        kept = full_disk_run.folder / "kept"
        assert list(kept.rglob("*.partial")) == []
        assert [path.name for path in kept.iterdir() if path.name.startswith("tmp")] == []

    def test_earlier_results_serve_the_next_run(self, full_disk_run: FullDiskRun) -> None:
        assert UNCHANGED == full_disk_run.states("second")


def test_configured_server_that_does_not_answer_is_named_with_what_to_do(
    options: list[str], environment: Environment
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # taken, so that nothing can listen there
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        done = run_program(options, {**environment, "PREFECT_API_URL": url}, status=1)
    assert url in done.stderr
    assert "`prefect server start`, or unset PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_configured_server_is_used_and_shown(
    options: list[str], environment: Environment, lasting_server: str
) -> None:
    configured = {**environment, "PREFECT_API_URL": lasting_server}
    with program_in_training([*options, "--epochs", "500"], configured) as program:
        assert own_servers(environment) == []
        stderr = rest_of_stderr(program)
    assert program.returncode == 0, stderr
    runs_page = f"{lasting_server.removesuffix('/api')}/runs/flow-run/"
    (run_id,) = re.findall(rf"{re.escape(runs_page)}([0-9a-f-]{{36}})", stderr)
    with client_of(lasting_server) as client:
        assert client.read_flow_run(UUID(run_id)).state_name == "Completed"


class TestMnist:
    """The embedded MNIST with the default settings."""

    def test_accuracy_is_that_of_the_reference(self, mnist_run: CompletedRun) -> None:
        assert mnist_run.summary["accuracy"] >= 0.970

    def test_preprocessed_arrays_are_those_of_the_plain_recipe(
        self, mnist_run: CompletedRun
    ) -> None:
        blobs = (mnist_run.folder / "cache" / "blobs").glob("*.npy")
        stored = [np.load(path, mmap_mode="r") for path in blobs]
        with np.load(ROOT / "tasks" / "sources" / "mnist.npz") as mnist:
            expected = {
                "x_train": mnist["x_train"].reshape(60000, 784).astype("float32") / 255,
                "y_train": np.eye(10, dtype="float32")[mnist["y_train"]],
                "x_test": mnist["x_test"].reshape(10000, 784).astype("float32") / 255,
                "y_test": np.eye(10, dtype="float32")[mnist["y_test"]],
            }
        for name, array in expected.items():
            same = [s for s in stored if s.dtype == np.float32 and np.array_equal(array, s)]
            assert len(same) == 1, name

    def test_model_has_the_parameters_of_the_reference(self, mnist_run: CompletedRun) -> None:
        model = keras.saving.load_model(mnist_run.summary["model_path"])
        assert model.count_params() == 50_890
