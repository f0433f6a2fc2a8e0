"""`prefect.yaml`, read and checked before Prefect gets it, and the kinds of worker that it needs.

Prefect passes over a key that it does not know, and over the whole file if a value in it is of the
wrong type. Here its own models and the flow's parameters say what is wrong, and where:

    daily.schedules[0].cron: Invalid cron string: "61 3 * * *"
    smoke.parameters.settings.epochs: Input should be greater than or equal to 1

Parameters and schedules with a placeholder, `{{ … }}`, are passed over: Prefect fills them in, and
then checks them.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import jsonpatch
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
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, create_model

from deployments.commands import POOL, PREFECT_FILE, ROOT
from tasks.errors import PipelineError, reason_of

# Our work pools by name: the type of worker that looks after each. Those of the last two come with
# packages of their own, which only the worker needs: they are made for whoever asks for them.
POOLS = {POOL: "process", "mnist-docker": "docker", "mnist-kubernetes": "kubernetes"}
# What a worker of each type makes of a run, as Prefect has it. A server would look for a newer
# one on the internet; this one belongs to the release that the lock pins.
TEMPLATES = files("prefect") / "server/api/collections_data/views/aggregate-worker-metadata.json"
# Not to be chosen for a run: a command, nor, on the worker's own machine, what makes one.
CLOSED = {"process": ("command", "env", "working_dir")}
KUBERNETES_PATCH = ROOT / "deployments" / "kubernetes" / "job-template.patch.yaml"


class Limit(ConcurrencyLimitConfig):
    """How many runs of a deployment there are at once, and what a later one does."""

    limit: int = Field(ge=1)


def _whole(limit: object) -> object:
    return {"limit": limit} if isinstance(limit, int) else limit


class Pool(WorkPoolConfig):
    """Where a deployment's runs wait for a worker."""

    name: str

    @property
    def kind(self) -> str:
        """What looks after it: `process`, unless it is one of ours that needs another worker."""
        return POOLS.get(self.name, "process")


class Deployment(DeploymentConfig):
    """What is deployed: which flow, when, with which parameters, in which work pool."""

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

    definitions: dict[str, Any] = Field(default_factory=dict)  # what its anchors stand for
    deployments: list[dict[str, Any]] = Field(min_length=1)  # type: ignore[assignment]


def read_deployments(path: Path = ROOT / PREFECT_FILE) -> list[Deployment]:
    """The deployments in a file, in order. Raises PipelineError that says all that is wrong."""
    wrong, found = list[str](), list[Deployment]()
    try:
        file = PrefectFile.model_validate(yaml.safe_load(path.read_text()), extra="forbid")
    except yaml.MarkedYAMLError as error:  # whose text shows the line
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise _refused([f"line {line}: {error.problem}"], path) from None
    except (OSError, yaml.YAMLError) as error:
        raise _refused([reason_of(error)], path) from None
    except ValidationError as error:
        raise _refused(list(_said(error)), path) from None
    for number, fields in enumerate(file.deployments):
        try:
            found.append(Deployment.model_validate(fields, extra="forbid"))
        except ValidationError as error:
            wrong += _said(error, str(fields.get("name", f"deployments[{number}]")))
    wrong += [f"{each.name}.{problem}" for each in found for problem in _problems(each)]
    names = Counter(deployment.name for deployment in found)
    wrong += [f"{name}: there are several of this name" for name in names if names[name] > 1]
    if wrong:
        raise _refused(wrong, path)
    return found


def _problems(deployment: Deployment) -> Iterator[str]:
    """What is wrong with a deployment's flow, what it is told, its schedules and its job."""
    told = deployment.parameters
    try:
        flow: Flow[..., Any] = load_flow_from_entrypoint(str(ROOT / deployment.entrypoint))
    except Exception as error:  # noqa: BLE001 - whatever a file does when it is imported
        yield f"entrypoint: {type(error).__name__}: {error}"
    else:
        accepts = partial(_parameters_of(flow).model_validate, extra="forbid")
        yield from _refusal("parameters", accepts, told)
        for number, schedule in enumerate(deployment.schedules):
            place = f"schedules[{number}]"
            yield from _refusal(place, _make_schedule, schedule.model_dump(exclude_none=True))
            if schedule.parameters:
                yield from _refusal(f"{place}.parameters", accepts, told | schedule.parameters)
    if deployment.work_pool.name in POOLS:
        variables = job_template(deployment.work_pool.kind)["variables"]
        given = deployment.work_pool.job_variables
        for problem in validate(given, variables, ignore_required=True):
            if "{{" not in str(problem.instance):
                place = f"work_pool.job_variables{problem.json_path.removeprefix('$')}"
                yield f"{place}: {problem.message.replace(repr(problem.instance), 'this')}"


def _refusal(place: str, check: Callable[[Any], object], given: object) -> Iterator[str]:
    """What a check says is wrong with what Prefect will not fill in."""
    try:
        check(given)
    except ValidationError as error:
        yield from _said(error, place, placeholders=False)


def _parameters_of(flow: Flow[..., Any]) -> type[BaseModel]:
    """The parameters that a flow takes, each of its own type; a deployment may leave some out."""
    taken = inspect.signature(flow.fn, eval_str=True).parameters
    fields: dict[str, Any] = {name: (taken[name].annotation, None) for name in taken}
    return create_model("Parameters", **fields)


def _make_schedule(given: dict[str, Any]) -> None:
    """As Prefect does, in its two steps."""
    DeploymentScheduleCreate.model_validate(_schedule_config_to_deployment_schedule(given))


def job_template(kind: str) -> dict[str, Any]:
    """What a worker of some type makes of a run: Prefect's own, for Kubernetes with our patch.

    It takes no variable that it does not have, and none of CLOSED.
    """
    collections = json.loads(TEMPLATES.read_text()).values()
    (worker,) = (workers[kind] for workers in collections if kind in workers)
    template = dict(worker["default_base_job_configuration"])
    if kind == "kubernetes":
        jsonpatch.apply_patch(template, yaml.safe_load(KUBERNETES_PATCH.read_text()), in_place=True)
    for name in CLOSED.get(kind, ("command",)):
        del template["variables"]["properties"][name], template["job_configuration"][name]
    template["variables"]["additionalProperties"] = False
    return template


def _said(error: ValidationError, where: str = "", *, placeholders: bool = True) -> Iterator[str]:
    """What a model says is wrong, each with its place; what Prefect will fill in is left out."""
    for detail in error.errors():
        if placeholders or "{{" not in str(detail["input"]):
            # "[key]" is pydantic's word for a key that is not allowed.
            steps = [step for step in detail["loc"] if step != "[key]"]
            place = where + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
            unknown = detail["type"] == "extra_forbidden"
            said = "there is no such key" if unknown else detail["msg"]
            yield f"{place.removeprefix('.') or 'the file'}: {said.removeprefix('Value error, ')}"


def _refused(wrong: list[str], path: Path) -> PipelineError:
    return PipelineError(
        "What is deployed must be right in each of its parts.",
        received="; ".join(wrong),
        where=path,
        advice="Correct it and run `make deploy` again: nothing has been changed.",
    )
