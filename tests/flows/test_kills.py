"""Two hundred runs that are killed with SIGKILL, at moments drawn by chance, and go on."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import files_below
from programs import HANG_SECONDS, ROOT, login_here

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.cache.housekeeping import damages
from tasks.learning.backend import keras
from tasks.terminal.cache_command import main

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("default_threads")]

KILLS, PROGRAMS = 200, 2  # as many programs at once
STORED = 10  # four arrays twice, the probabilities, the model
SEED = "KILLS_SEED"  # in the environment: the moments of an earlier test


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get(SEED) or secrets.randbelow(10**6))


@pytest.fixture(scope="module")
def killed(
    seed: int,
    prefect_server: None,  # noqa: ARG001 - must be up before the runs
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[Path, dict[str, Any]]:
    """What came of each run, by its folder."""
    environment = {
        **os.environ,
        **login_here(),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
    }
    roots = [tmp_path_factory.mktemp("kills") for _ in range(PROGRAMS)]
    programs = [
        subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "tests" / "killed_runs.py"), str(root)),
                *(str(seed + number), str(KILLS // PROGRAMS)),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, root in enumerate(roots)
    ]
    runs: dict[Path, dict[str, Any]] = {}
    try:
        for root, program in zip(roots, programs, strict=True):
            stdout, stderr = program.communicate(timeout=2 * HANG_SECONDS)
            assert program.returncode == 0, f"{SEED}={seed}\n{stderr}"
            lines = [json.loads(line) for line in stdout.splitlines()]
            runs |= {root / line.pop("folder"): line for line in lines}
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    return runs


def test_model_accuracy_and_loss_are_those_of_one_go(
    killed: dict[Path, dict[str, Any]], seed: int
) -> None:
    figures = {(run["weights_sha256"], run["accuracy"], run["loss"]) for run in killed.values()}

    assert sum(run["killed"] for run in killed.values()) >= KILLS
    assert len(figures) == 1, f"{SEED}={seed}"


def test_cache_holds_what_it_holds_after_one_go(
    killed: dict[Path, dict[str, Any]], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """No lock, no checkpoint, no unfinished file, and nothing that `mnist-cache` could tell of.

    A stored file that no result names yet, `prune` takes away an hour later.
    """
    for folder in killed:
        cache = folder / "cache"
        below = {name.partition("/")[0] for name in files_below(cache)}
        assert below == {"results", "blobs", "latest"}, f"{SEED}={seed}: {folder}"
        assert [] == list(cache.rglob("*.partial")), f"{SEED}={seed}: {folder}"
        assert [] == list((cache / "checkpoints").iterdir()), f"{SEED}={seed}: {folder}"
        for stored in (cache / "blobs").iterdir():
            os.utime(stored, (0, 0))
        assert main(["--cache-dir", str(cache), "prune", "--max-age", "30d"]) == 0
        results, files = [list((cache / name).iterdir()) for name in ("results", "blobs")]
        assert (len(results), len(files)) == (5, STORED), f"{SEED}={seed}: {folder}"
        assert list(damages(Entries(Store(root=cache)))) == [], f"{SEED}={seed}: {folder}"
        capsys.readouterr()
        main(["--cache-dir", str(cache), "list"])
        assert capsys.readouterr().out.splitlines()[-1].startswith("5 results, "), folder


def test_models_are_complete(killed: dict[Path, dict[str, Any]], seed: int) -> None:
    """A run that was killed at its very end has a report, or a line in the history, too.

    What it was writing goes a day later: `test_unfinished_model_goes_after_a_day`.
    """
    for folder, run in killed.items():
        models = folder / "models"
        names = {path.name for path in models.iterdir() if path.suffix != ".partial"}
        model = f"stripes-mlp-{run['weights_sha256'][:12]}.keras"
        assert {model, "history.jsonl", "reports"} == names, f"{SEED}={seed}: {folder}"
        assert keras.saving.load_model(models / model).count_params() > 0
        for line in (models / "history.jsonl").read_text().splitlines():
            assert json.loads(line)["weights_sha256"] == run["weights_sha256"]
