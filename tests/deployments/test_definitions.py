"""What is wrong in `prefect.yaml` is said before anything is registered, with its place."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from programs import environment_in, login_here, run

from deployments.commands import PREFECT_FILE, ROOT
from deployments.definitions import read_deployments
from tasks.errors import PipelineError

Deployments = list[dict[str, Any]]
WRITTEN = yaml.safe_load((ROOT / PREFECT_FILE).read_text())


def write(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The project's own file after a change, under another name."""
    contents = copy.deepcopy(WRITTEN)
    change(contents)
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump(contents))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(PipelineError) as caught:
        read_deployments(path)
    text = str(caught.value)
    assert str(path) in text
    assert "nothing has been changed" in text
    return text.partition("Received: ")[2].partition(f" (in {path})")[0]


def daily(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda contents: contents["deployments"][0].update(fields)


def at(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return daily(schedules=[{"timezone": "Europe/Berlin", **fields}])


def told(**settings: Any) -> Callable[[dict[str, Any]], object]:
    return daily(parameters={"settings": settings})


def in_pool(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return daily(work_pool={"name": "mnist", **fields})


ONE_OF = "Exactly one of 'cron', 'interval', or 'rrule' must be provided"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (at(cron="61 3 * * *"), 'daily.schedules[0].cron: Invalid cron string: "61 3 * * *"'),
        (at(cron="nightly"), 'daily.schedules[0].cron: Invalid cron string: "nightly"'),
        (
            at(cron="0 3 * * *", timezone="Europe/Berln"),
            'daily.schedules[0].timezone: Invalid timezone: "Europe/Berln" (specify in IANA',
        ),
        (at(cron="0 3 * * *", interval=60), f"daily.schedules[0]: {ONE_OF}"),
        (at(), f"daily.schedules[0]: {ONE_OF}"),
        (at(interval=-5), "daily.schedules[0].interval: Input should be greater than 0 seconds"),
        (
            at(rrule="FREQ=NEVER"),
            'daily.schedules[0].rrule: Invalid RRule string "FREQ=NEVER": invalid ',
        ),
        (at(cron="0 3 * * *", zone="UTC"), "daily.schedules[0].zone: there is no such key"),
        (
            at(cron="0 3 * * *", parameters={"settings": {"epochs": 0}}),
            "daily.schedules[0].parameters.settings.epochs: Input should be greater than or equal",
        ),
        (told(epohcs=3), "daily.parameters.settings.epohcs: there is no such key"),
        (
            told(epochs=0),
            "daily.parameters.settings.epochs: Input should be greater than or equal to 1",
        ),
        (
            told(recipe="quick"),
            "daily.parameters.settings.recipe: Input should be 'reference', 'fast' or 'long'",
        ),
        (
            told(severity={"duplicates": "fatal"}),
            "daily.parameters.settings.severity.duplicates: Input should be 'error', 'warning'",
        ),
        (daily(parameters={"setings": {}}), "daily.parameters.setings: there is no such key"),
        (daily(schedulles=[]), "daily.schedulles: there is no such key"),
        (daily(tags="nightly"), "daily.tags: Input should be a valid list"),
        (daily(concurrency_limit=0), "daily.concurrency_limit.limit: Input should be greater"),
        (
            daily(concurrency_limit={"limit": 1, "collision_strategy": "WAIT"}),
            "daily.concurrency_limit.collision_strategy: Input should be 'ENQUEUE' or 'CANCEL_NEW'",
        ),
        (
            in_pool(job_variables={"image": "mine"}),
            "daily.work_pool.job_variables: Additional properties are not allowed ('image' was",
        ),
        (in_pool(jobvariables={}), "daily.work_pool.jobvariables: there is no such key"),
        (daily(entrypoint="flows/lost.py:run"), "daily.entrypoint: FileNotFoundError: "),
        (daily(entrypoint="flows/mnist_flow.py:run"), "daily.entrypoint: MissingFlowError: "),
        (daily(name="smoke"), "smoke: there are several of this name"),
        (lambda c: c["deployments"][0].pop("name"), "deployments[0].name: Field required"),
        (lambda c: c.update(deploymets=[]), "deploymets: there is no such key"),
        (lambda c: c.pop("deployments"), "deployments: Field required"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    assert refusal(write(tmp_path, change)).startswith(said)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    def change(contents: dict[str, Any]) -> None:
        at(cron="61 3 * * *")(contents)
        contents["deployments"][1]["parameters"]["settings"]["epochs"] = 0

    said = refusal(write(tmp_path, change))
    assert "daily.schedules[0].cron: " in said
    assert "smoke.parameters.settings.epochs: " in said


@pytest.mark.parametrize("text", ["deployments: [", "", "- daily"])
def test_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    assert refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "deployments: [{name: daily}]\ndefinitions: &a {password: sekrit\n  b}: ]",
        "definitions: 'sekrit",
        "definitions: {password: sekrit, sekrit}]",
        "definitions: sekrit\x00",
        "definitions: sekrit\ndeployments: [sekrit]",
        "sekrit",
    ],
)
def test_refusal_does_not_repeat_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as error:
        read_deployments(path)
    assert "sekrit" not in "".join(format_exception(error.value))


def test_refusal_does_not_repeat_a_job_variable(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, in_pool(job_variables={"stream_output": "sekrit"})))
    assert said.startswith("daily.work_pool.job_variables.stream_output: this is not")


@pytest.mark.parametrize("name", ["command", "env", "working_dir"])
def test_run_is_told_no_command(tmp_path: Path, name: str) -> None:
    said = refusal(write(tmp_path, in_pool(job_variables={name: "touch /tmp/x"})))
    assert f"Additional properties are not allowed ('{name}' was unexpected)" in said


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "prefect.yaml")


def test_placeholder_is_left_to_prefect(tmp_path: Path) -> None:
    read_deployments(write(tmp_path, at(cron="{{ prefect.variables.when }}")))
    read_deployments(write(tmp_path, told(epochs="{{ $EPOCHS }}")))


@pytest.mark.process
@pytest.mark.usefixtures("prefect_server")
def test_deploying_a_wrong_file_says_why_and_registers_nothing(tmp_path: Path) -> None:
    for folder in ("deployments", "flows", "tasks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    write(tmp_path / "deployments", at(cron="61 3 * * *"))
    environment = environment_in(tmp_path / "home") | login_here() | {"PYTHONPATH": str(tmp_path)}
    program = [sys.executable, str(tmp_path / "deployments" / "deploy.py")]
    done = run(program, environment, status=1)
    assert 'daily.schedules[0].cron: Invalid cron string: "61 3 * * *"' in done.stderr
    assert "Traceback" not in done.stderr
    with get_client(sync_client=True) as client:
        assert "mnist" not in {pool.name for pool in client.read_work_pools()}
