"""`python -m deployments.deploy [docker] [kubernetes]`: work pools, deployments and automations.

It goes to the server that Prefect is configured for, as `make deploy` does. Run twice, it
changes nothing. What only Docker's or Kubernetes's workers need is made once it is asked for, and
is kept up to date from then on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Iterator
from contextlib import chdir, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from prefect.cli.deploy._config import _load_deploy_configs_and_actions
from prefect.cli.deploy._core import _run_single_deploy
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from rich.console import Console

from deployments import automations
from deployments.commands import PREFECT_FILE, ROOT, by_hand
from deployments.definitions import POOLS, job_template, read_deployments
from tasks.errors import PipelineError
from tasks.server.configured import wait_for_configured_server
from tasks.terminal.streams import on_any_streams

SERVER_WAIT_SECONDS = 60.0  # one that makes a new database takes ten, or more
NOWHERE = Console(quiet=True)


@on_any_streams
def main(kinds: list[str]) -> None:
    """Register everything, once the server answers; ends with status 1 if that fails."""
    try:
        wait_for_configured_server(partial(print, file=sys.stderr), SERVER_WAIT_SECONDS)
        with get_client(sync_client=True) as client:
            for line in deploy(client, kinds):
                print(line)
    except PipelineError as error:
        sys.exit(f"failed {error}")


def deploy(client: SyncPrefectClient, asked_for: Collection[str] = ()) -> Iterator[str]:
    """Register everything; yields what was done, a line each. Raises PipelineError."""
    if unknown := [kind for kind in asked_for if kind not in POOLS.values()]:
        known = " or ".join(POOLS.values())
        raise PipelineError(f"What is asked for must be a worker of {known}.", received=unknown)
    kinds = {*asked_for, *present_kinds(client)}
    names = deployment_names(kinds)
    for name, kind in POOLS.items():
        if kind in kinds:
            yield from make_pool(client, name, kind)
    deploy_file(names)
    yield f"registered {', '.join(names)}"
    yield from automations.register(client, automations.wanted(client))
    if not automations.notification_block(client):
        yield automations.nobody_is_told()


def present_kinds(client: SyncPrefectClient) -> set[str]:
    """The kinds of worker for which the server has, or gets, one of our pools."""
    there = {POOLS[pool.name] for pool in client.read_work_pools() if pool.name in POOLS}
    return {"process", *there}


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
    if pool.base_job_template != template:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
        yield f"changed the work pool {name}"


def deployment_names(kinds: Collection[str]) -> list[str]:
    """The deployments in the file that wait for these kinds of worker, in order."""
    return [each.name for each in read_deployments() if each.work_pool.kind in kinds]


def deploy_file(names: Collection[str], path: str = PREFECT_FILE) -> None:
    """Register deployments of a file, as `prefect deploy` does. Raises PipelineError."""
    with chdir(ROOT):
        found, steps = _load_deploy_configs_and_actions(Path(path), console=NOWHERE)
        for deployment in found:
            if (name := deployment["name"]) in names:
                try:
                    asyncio.run(_register(deployment, steps))
                except Exception as error:
                    by_itself = by_hand(f"--no-prompt deploy --prefect-file {path} --name {name}")
                    raise PipelineError(
                        "Prefect must accept each deployment.",
                        received=f"{name}: {_reason(error).rstrip('.')}",
                        where=path,
                        advice=f"Correct it, or run {by_itself} to see all that it says.",
                    ) from error


async def _register(deployment: dict[str, Any], steps: dict[str, Any]) -> None:
    async with get_client() as client:
        options: Any = {"client": client, "console": NOWHERE, "is_interactive": lambda: False}
        await _run_single_deploy(deployment, steps, **options)


def _reason(error: Exception) -> str:
    """What the server says, if it has answered, without its address."""
    if isinstance(error, httpx.HTTPStatusError):
        with suppress(ValueError, LookupError):
            return str(error.response.json()["detail"])
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main(sys.argv[1:])
