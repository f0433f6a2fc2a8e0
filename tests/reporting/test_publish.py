"""Publish: what a run keeps of itself, in Prefect and in the model folder."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from builders import Arrays, Run, place_idx, run_flow
from prefect.client.orchestration import get_client

from tasks.errors import DatasetError, ValidationFailedError
from tasks.reporting.history import CompletedRun, append_run
from tasks.settings import RunSettings
from tasks.validation.checks import EARLIER_FAILED

pytestmark = pytest.mark.usefixtures("prefect_server")

PICTURE = "](data:image/png;base64,"
FOUND = "no image occurs again in its split; found: 2 of 60 images"


def artifacts(dataset: str, kind: str) -> list[str]:
    """What Prefect has under one key, the newest first."""
    chosen = {"key": {"any_": [f"{dataset}-{kind}"]}}
    with get_client(sync_client=True) as client:
        found = client.request(
            "POST", "/artifacts/filter", json={"artifacts": chosen, "sort": "CREATED_DESC"}
        ).json()
    return [artifact["data"] for artifact in found]


def cells(markdown: str, check: str, subject: str) -> set[str]:
    """What an artifact's tables say of one check."""
    lines = [line for line in markdown.splitlines() if f"| {check} |" in line and subject in line]
    return {cell.strip() for line in lines for cell in line.split("|")}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def duplicated(settings: RunSettings, digits: Arrays, tmp_path: Path) -> RunSettings:
    """A run on a dataset of which two training images occur again."""
    digits["x_train"][[21, 24]] = digits["x_train"][18]
    place_idx(tmp_path / "duplicated", digits, zipped=True)
    return settings.model_copy(update={"dataset": str(tmp_path / "duplicated")})


def test_model_report_and_history_can_be_read_by_others(first_run: Run) -> None:
    summary = first_run.summary
    history = summary.model_path.with_name("history.jsonl")

    assert {0o644} == {mode(path) for path in (summary.model_path, summary.report_path, history)}


def test_completed_run_is_a_line_of_the_history(first_run: Run) -> None:
    summary = first_run.summary
    (line,) = summary.model_path.with_name("history.jsonl").read_text().splitlines()

    kept: dict[str, Any] = json.loads(line)
    del kept["finished"]
    assert kept == {
        "dataset": "stripes",
        "model": "mlp",
        "accuracy": summary.accuracy,
        "loss": summary.loss,
        "weights_sha256": summary.weights_sha256,
        "run_name": summary.flow_run_name,
        "run_id": summary.flow_run_id,
    }


def test_run_is_shown_against_earlier_ones_of_its_model(after_a_run: RunSettings) -> None:
    for model, accuracy in (("mlp", 0.5), ("cnn", 1.0), ("nets.py:mlp", 1.0)):
        earlier = CompletedRun(
            dataset="stripes",
            model=model,
            accuracy=accuracy,
            loss=1.0,
            weights_sha256=64 * "a",
            finished="2026-11-24T01:02:03Z",
            run_name="earlier",
            run_id="",
        )
        after_a_run.model_root.mkdir(exist_ok=True)
        append_run(after_a_run.model_root, earlier)

    summary = run_flow(after_a_run).summary

    caption = f"This run after 1 earlier of mlp on stripes: {summary.accuracy - 0.5:+.4f}"
    assert caption in summary.report_path.read_text()
    assert caption in artifacts("stripes", "accuracy")[0]


def test_run_with_warnings_shows_the_images_that_they_name(duplicated: RunSettings) -> None:
    run_flow(duplicated)

    kept = artifacts("duplicated", "validation")[0]
    assert {"failed", "warning", FOUND, "21, 24"} < cells(kept, "duplicates", "x_train")
    assert 1 == kept.count(f"![Images that break a rule, some for each check{PICTURE}")
    assert 4 == kept.count(PICTURE)


def test_failed_validation_is_reported_with_a_picture(duplicated: RunSettings) -> None:
    with pytest.raises(ValidationFailedError):
        run_flow(duplicated.model_copy(update={"severity": {"duplicates": "error"}}))

    kept = artifacts("duplicated", "validation")[0]
    assert {"failed", "error", FOUND, "21, 24"} < cells(kept, "duplicates", "x_train")
    assert f"skipped: {EARLIER_FAILED}" in cells(kept, "leakage", "x_test")
    assert kept.startswith("# Validation of duplicated: failed\n")
    assert 1 == kept.count(PICTURE)
    (report,) = (duplicated.model_root / "reports").iterdir()
    assert 0o644 == mode(report)
    page = report.read_text()
    for text in (
        "<h1>Validation of duplicated: failed</h1>",
        f"{FOUND}</td>",
        "<td>21, 24</td>",
        "<td>duplicates=error</td>",
        "<td>validate</td>",
    ):
        assert text in page
    assert 1 == page.count('<img src="data:image/png;base64,')
    assert not (duplicated.model_root / "history.jsonl").exists()


@pytest.mark.parametrize("dataset", ["uneven", "mistyped"])
def test_dataset_that_cannot_be_loaded_leaves_nothing_under_its_name(
    settings: RunSettings, digits: Arrays, tmp_path: Path, dataset: str
) -> None:
    """It says what is wrong, once; there is nothing to validate."""
    digits["y_train"] = digits["y_train"][1:]
    place_idx(tmp_path / "uneven", digits, zipped=True)

    with pytest.raises(DatasetError):
        run_flow(settings.model_copy(update={"dataset": str(tmp_path / dataset)}))

    assert [] == artifacts(dataset, "validation")
    assert not settings.model_root.exists()
