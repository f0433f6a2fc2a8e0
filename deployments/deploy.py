"""`python -m deployments.deploy`: work pools, deployments and automations, as they should be.

It goes to the server that Prefect is configured for, as `make deploy` does. Run twice, it
changes nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from importlib.resources import files
from typing import Any

import jsonpatch
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from deployments import automations
from deployments.commands import POOL, PREFECT_FILE, ROOT, by_hand, command
from tasks.errors import PipelineError
from tasks.server.configured import wait_for_configured_server

# What a worker of each type makes of a run, as Prefect has it. A server would look for a newer
# one on the internet; this one belongs to the release that the lock pins.
TEMPLATES = files("prefect") / "server/api/collections_data/views/aggregate-worker-metadata.json"
KUBERNETES_PATCH = ROOT / "deployments" / "kubernetes" / "job-template.patch.yaml"
# By name: the type of worker that looks after it. Those of the last two come with packages of
# their own, which only the worker needs.
POOLS = {POOL: "process", "mnist-docker": "docker", "mnist-kubernetes": "kubernetes"}
SERVER_WAIT_SECONDS = 60.0  # one that makes a new database takes ten, or more


def main() -> int:
    """Register everything, once the server answers; returns the exit status."""
    say_once = cache(partial(print, file=sys.stderr))
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
        yield from _make_pool(client, name, kind)
    deploy_file()
    yield f"registered {', '.join(deployment_names())}"
    heartbeat = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()
    yield from automations.register(client, automations.wanted(client, heartbeat))


def deployment_names() -> list[str]:
    """The deployments in the file, in order."""
    return [deployment["name"] for deployment in prefect_file()["deployments"]]


def prefect_file() -> dict[str, Any]:
    """The deployments' file, its shared definitions in place."""
    return dict(yaml.safe_load((ROOT / PREFECT_FILE).read_text()))


def job_template(kind: str) -> dict[str, Any]:
    """What a worker of some type makes of a run: Prefect's own, for Kubernetes with our patch."""
    collections = json.loads(TEMPLATES.read_text()).values()
    (worker,) = (workers[kind] for workers in collections if kind in workers)
    template = dict(worker["default_base_job_configuration"])
    if kind == "kubernetes":
        jsonpatch.apply_patch(template, yaml.safe_load(KUBERNETES_PATCH.read_text()), in_place=True)
    return template


def deploy_file(path: str = PREFECT_FILE) -> None:
    """Register the deployments of a file. Raises PipelineError with what Prefect says."""
    arguments = ("--no-prompt", "deploy", "--all", "--prefect-file", path)
    silent: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(command(("prefect", *arguments)), cwd=ROOT, check=False, **silent)
    if done.returncode:
        raise PipelineError(
            f"{by_hand(' '.join(arguments))} must succeed.",
            received=reason(done.stdout, done.stderr),
            where=path,
            advice="Run it by itself to see all that it says.",
        )


def reason(stdout: str, stderr: str) -> str:
    """Why a command of Prefect's has failed, in one line.

    Of an exception, Prefect writes the traceback and then only "An exception occurred."; other
    reasons are the last paragraph of what it writes.
    """
    _, traceback, trace = stderr.rpartition("Traceback (most recent call last):\n")
    paragraph = (stdout.strip() or stderr.strip()).rpartition("\n\n")[2]
    text = re.sub(r"\A( .*\n)*", "", trace) if traceback else paragraph
    return " ".join(re.sub(r"For further information visit \S+", "", text).split()).rstrip(".")


def _make_pool(client: SyncPrefectClient, name: str, kind: str) -> Iterator[str]:
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


if __name__ == "__main__":
    sys.exit(main())
