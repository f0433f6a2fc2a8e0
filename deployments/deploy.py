"""`python -m deployments.deploy`: work pools, deployments and automations, as they should be.

It goes to the server that Prefect is configured for, as `make deploy` does. Run twice, it
changes nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from deployments import automations
from deployments.commands import POOL, PREFECT_FILE, ROOT, command
from tasks.errors import PipelineError
from tasks.server.configured import wait_for_configured_server

KUBERNETES_TEMPLATE = ROOT / "deployments" / "kubernetes" / "base-job-template.json"
# By name: the type of worker that looks after it. Those of the last two come with packages of
# their own, which only the worker needs.
POOLS = {POOL: "process", "mnist-docker": "docker", "mnist-kubernetes": "kubernetes"}


SERVER_WAIT_SECONDS = 60.0  # one that makes a new database takes ten, or more


class DeploymentError(PipelineError):
    """Something could not be registered."""


def main() -> int:
    """Register everything, once the server answers; returns the exit status."""
    said: list[str] = []

    def say_once(text: str) -> None:
        if text not in said:
            said.append(text)
            print(text, file=sys.stderr)

    try:
        wait_for_configured_server(say_once, SERVER_WAIT_SECONDS)
        with get_client(sync_client=True) as client:
            for line in deploy(client):
                print(line)
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return 1
    return 0


def deploy(client: SyncPrefectClient) -> Iterator[str]:
    """Register everything; yields what was done, a line each."""
    for name, kind in POOLS.items():
        if made := _make_pool(client, name, kind):
            yield made
    _deploy_file()
    yield f"registered {', '.join(deployment_names())}"
    yield from automations.register(client, PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value())


def deployment_names() -> list[str]:
    """The deployments in the file, in order."""
    return [deployment["name"] for deployment in prefect_file()["deployments"]]


def prefect_file() -> dict[str, Any]:
    """The deployments' file, its shared definitions in place."""
    return dict(yaml.safe_load((ROOT / PREFECT_FILE).read_text()))


def job_template(kind: str, client: SyncPrefectClient) -> dict[str, Any]:
    """What a worker of some type makes of a run: ours for Kubernetes, Prefect's otherwise."""
    if kind == "kubernetes":
        return dict(json.loads(KUBERNETES_TEMPLATE.read_text()))
    response = client.request(
        "GET", "/collections/views/{view}", path_params={"view": "aggregate-worker-metadata"}
    )
    for workers in response.json().values():
        if kind in workers:
            return dict(workers[kind]["default_base_job_configuration"])
    raise DeploymentError(
        f"The server must know workers of the type {kind}.",
        where=str(client.api_url),
        advice="Use the server of Prefect's release that this project pins.",
    )


def _make_pool(client: SyncPrefectClient, name: str, kind: str) -> str:
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=name, type=kind, base_job_template=job_template(kind, client))
        )
        return f"made the work pool {name} ({kind})"
    if pool.type != kind:
        raise DeploymentError(
            f"The work pool {name} must be of the type {kind}.",
            received=pool.type,
            where=str(client.api_url),
            advice=f"Remove it with `prefect work-pool delete {name}`, and deploy again.",
        )
    if kind == "kubernetes" and pool.base_job_template != job_template(kind, client):
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=job_template(kind, client)))
        return f"changed the work pool {name}"
    return ""


def _deploy_file() -> None:
    arguments = ("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", PREFECT_FILE)
    done = subprocess.run(
        command(arguments),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DeploymentError(
            f"`{' '.join(arguments)}` must succeed.",
            received=(done.stderr.strip() or done.stdout.strip()).splitlines()[-1:],
            where=Path(PREFECT_FILE),
            advice="Run it by itself to see all that it says.",
        )


if __name__ == "__main__":
    sys.exit(main())
