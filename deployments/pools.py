"""The work pools, by the kind of worker that looks after each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonpatch
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from deployments.commands import POOL, ROOT, by_hand
from tasks.errors import PipelineError

# What a worker of each type makes of a run, as Prefect has it. A server would look for a newer
# one on the internet; this one belongs to the release that the lock pins.
TEMPLATES = files("prefect") / "server/api/collections_data/views/aggregate-worker-metadata.json"
KUBERNETES_PATCH = ROOT / "deployments" / "kubernetes" / "job-template.patch.yaml"
# By name: the type of worker that looks after it. Those of the last two come with packages of
# their own, which only the worker needs: they are made for whoever asks for them.
POOLS = {POOL: "process", "mnist-docker": "docker", "mnist-kubernetes": "kubernetes"}
ON_REQUEST = ("docker", "kubernetes")


def job_template(kind: str) -> dict[str, Any]:
    """What a worker of some type makes of a run: Prefect's own, for Kubernetes with our patch."""
    collections = json.loads(TEMPLATES.read_text()).values()
    (worker,) = (workers[kind] for workers in collections if kind in workers)
    template = dict(worker["default_base_job_configuration"])
    if kind == "kubernetes":
        jsonpatch.apply_patch(template, yaml.safe_load(KUBERNETES_PATCH.read_text()), in_place=True)
    return template


def present_kinds(client: SyncPrefectClient) -> set[str]:
    """The kinds of worker for which the server has one of our pools."""
    return {POOLS[pool.name] for pool in client.read_work_pools() if pool.name in POOLS}


def make_pool(client: SyncPrefectClient, name: str, kind: str) -> Iterator[str]:
    """Bring a work pool to what it should be; yields what was changed. Raises PipelineError."""
    template = job_template(kind)
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
        yield f"made the work pool {name} ({kind})"
        return
    if pool.type != kind:
        raise PipelineError(
            f"The work pool {name} must be of the type {kind}.",
            received=pool.type,
            where=str(client.api_url),
            advice=f"Remove it with {by_hand(f'work-pool delete {name}')}, and deploy again.",
        )
    if kind == "kubernetes" and pool.base_job_template != template:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
        yield f"changed the work pool {name}"
