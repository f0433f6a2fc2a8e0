"""`prefect.yaml`, read and checked before Prefect gets it.

Prefect passes over a key that it does not know, and over the whole file if a value in it is of the
wrong type. Here its own models and the flow's parameters say what is wrong, and where:

    daily.schedules[0].cron: Invalid cron string: "61 3 * * *"
    smoke.parameters.settings.epochs: Input should be greater than or equal to 1

Values with a placeholder, `{{ … }}`, are passed over: Prefect fills them in, and then checks them.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import yaml
from prefect import Flow
from prefect.cli.deploy._models import (
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import validate
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from deployments.commands import PREFECT_FILE, ROOT
from deployments.pools import POOLS, job_template
from tasks.errors import PipelineError

NO_OTHER_KEYS = ConfigDict(extra="forbid")


class Limit(ConcurrencyLimitConfig):
    """How many runs of a deployment there are at once, and what a later one does."""

    model_config = NO_OTHER_KEYS
    limit: int = Field(ge=1)


def _whole(limit: object) -> object:
    return {"limit": limit} if isinstance(limit, int) else limit


class Pool(WorkPoolConfig):
    """Where a deployment's runs wait for a worker."""

    model_config = NO_OTHER_KEYS
    name: str

    @property
    def kind(self) -> str:
        """What looks after it: `process`, unless it is one of ours that needs another worker."""
        return POOLS.get(self.name, "process")


class Deployment(DeploymentConfig):
    """What is deployed: which flow, when, with which parameters, in which work pool."""

    model_config = NO_OTHER_KEYS
    name: str
    entrypoint: str
    work_pool: Pool
    tags: list[str] = Field(default_factory=list)
    # These two are narrower than Prefect's.
    concurrency_limit: Annotated[Limit | None, BeforeValidator(_whole)] = None  # type: ignore[assignment]
    schedules: list[RawScheduleConfig] = Field(default_factory=list)  # type: ignore[assignment]
    schedule: None = None  # Prefect's older way to write it


class PrefectFile(PrefectYamlModel):
    """The whole file."""

    model_config = NO_OTHER_KEYS
    definitions: dict[str, Any] = Field(default_factory=dict)  # what its anchors stand for
    deployments: list[Deployment] = Field(min_length=1)  # type: ignore[assignment]  # narrower


def read_deployments(path: Path = ROOT / PREFECT_FILE) -> list[Deployment]:
    """The deployments in a file, in order. Raises PipelineError that says all that is wrong."""
    try:
        contents = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise _refused([" ".join(str(error).split())], path) from error
    if wrong := list(_said(partial(PrefectFile.model_validate, contents), contents)):
        raise _refused(wrong, path)
    deployments = PrefectFile.model_validate(contents).deployments
    if wrong := [problem for deployment in deployments for problem in problems(deployment)]:
        raise _refused(wrong, path)
    if twice := [name for name, n in Counter(d.name for d in deployments).items() if n > 1]:
        raise _refused([f"{name}: there are several of this name" for name in twice], path)
    return deployments


def problems(deployment: Deployment) -> Iterator[str]:
    """What is wrong with a deployment's schedules, its flow, and what the flow is told."""
    name, parameters = deployment.name, deployment.parameters
    for number, schedule in enumerate(deployment.schedules):
        given = schedule.model_dump(exclude_none=True)
        yield from _said(partial(_make_schedule, given), given, f"{name}.schedules[{number}]")
    yield from _of_the_job(deployment)
    try:
        accepted = parameters_of(load_flow_from_entrypoint(str(ROOT / deployment.entrypoint)))
    except Exception as error:  # noqa: BLE001 - whatever a file does when it is imported
        yield f"{name}.entrypoint: {type(error).__name__}: {error}"
        return
    yield from _said(partial(accepted.model_validate, parameters), parameters, f"{name}.parameters")
    for number, schedule in enumerate(deployment.schedules):
        whole = parameters | schedule.parameters
        where = f"{name}.schedules[{number}].parameters"
        if schedule.parameters:
            yield from _said(partial(accepted.model_validate, whole), whole, where)


def parameters_of(flow: Flow[..., Any]) -> type[BaseModel]:
    """The parameters that a flow takes, each of its own type; a deployment may leave some out."""
    taken = inspect.signature(flow.fn, eval_str=True).parameters
    fields: dict[str, Any] = {name: (taken[name].annotation, None) for name in taken}
    return create_model("Parameters", __config__=NO_OTHER_KEYS, **fields)


def _make_schedule(given: dict[str, Any]) -> None:
    """As Prefect does, in its two steps."""
    DeploymentScheduleCreate.model_validate(_schedule_config_to_deployment_schedule(given))


def _of_the_job(deployment: Deployment) -> Iterator[str]:
    """What is wrong with the variables for whatever starts a run, if the pool is one of ours."""
    pool = deployment.work_pool
    if pool.name in POOLS:
        variables = {**job_template(pool.kind)["variables"], "additionalProperties": False}
        for error in validate(pool.job_variables, variables, ignore_required=True):
            if "{{" not in str(error.instance):
                path = error.json_path.removeprefix("$")
                yield f"{deployment.name}.work_pool.job_variables{path}: {error.message}"


def _said(check: Callable[[], object], checked: Any, where: str = "") -> Iterator[str]:
    """What a model says of values, each with its place."""
    try:
        check()
    except ValidationError as error:
        for detail in error.errors():
            if "{{" not in str(detail["input"]):
                place = _place(detail["loc"], checked, where)
                unknown = detail["type"] == "extra_forbidden"
                said = "there is no such key" if unknown else detail["msg"]
                yield f"{place}: {said.removeprefix('Value error, ')}"


def _place(steps: tuple[str | int, ...], checked: Any, where: str) -> str:
    """For instance `daily.schedules[0].cron`: a deployment by its name, if it has one."""
    if steps[:1] == ("deployments",) and len(steps) > 1:
        number = steps[1]
        found = checked["deployments"][number]
        named = isinstance(found, dict) and "name" in found
        where, steps = (found["name"] if named else f"deployments[{number}]"), steps[2:]
    for step in steps:
        if step == "[key]":  # pydantic's word for a key that is not allowed
            continue
        where += f"[{step}]" if isinstance(step, int) else f".{step}"
    return where.removeprefix(".") or "the file"


def _refused(wrong: list[str], path: Path) -> PipelineError:
    return PipelineError(
        "What is deployed must be right in each of its parts.",
        received="; ".join(wrong),
        where=path,
        advice="Correct it and run `make deploy` again: nothing has been changed.",
    )
