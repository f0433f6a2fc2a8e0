"""`make doctor`: what is set up and works, what does not, and what to do about it.

    ok    server       http://127.0.0.1:4200/api answers, and takes our password
    WRONG worker       nobody looks after the pool mnist. Start one with `make worker`.

Secrets are named by where they lie, never by what they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus, WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from deployments import automations, deploy
from deployments.automations import RECOVERY
from deployments.commands import POOL
from deployments.credentials import CHOICES, DATABASE, Stack, profiles_file, server_file
from deployments.recovery import BACK_LINK, TAG
from tasks.settings import RunSettings

Verdict = Literal["ok", "note", "WRONG"]
UNAUTHORIZED = (401, 403)
LOOKED_BACK = timedelta(days=7)
FEW_BYTES = 2 * 10**9  # a run on MNIST keeps 0.3 GB; beyond that, room for other datasets


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:5} {self.about:12} {self.text}"


def examine(stack: Stack) -> int:
    """Print what was found; returns 1 if something is wrong, 0 otherwise."""
    wrong = 0
    for finding in findings(stack):
        wrong += finding.verdict == "WRONG"
        print(finding)
    print(f"\n{wrong} wrong" if wrong else "\nNothing is wrong.")
    return int(wrong > 0)


def findings(stack: Stack) -> Iterator[Finding]:
    """Everything that can be looked at, in the order in which it depends on each other."""
    yield from files(stack)
    yield from environment(stack, os.environ)
    yield database(stack)
    yield from store(RunSettings())
    server = reachable(stack)
    yield from server
    if any(finding.verdict == "WRONG" for finding in server):
        return
    with get_client(sync_client=True) as client:
        yield from registered(client)
        yield from watched(client)
        yield from late(client)
        yield from dead(client.read_flow_runs(flow_run_filter=_crashed(since=LOOKED_BACK)))
        yield messages(client)


def files(stack: Stack) -> Iterator[Finding]:
    """Where credentials lie, and who can read them."""
    for path in (server_file(stack.folder), profiles_file(stack.folder)):
        mode = path.stat().st_mode & 0o777
        yield Finding("ok", "credentials", f"{path} (mode {mode:04o})")
    mode = stack.folder.stat().st_mode & 0o777
    if mode & 0o077:
        yield Finding(
            "WRONG",
            "credentials",
            f"others can enter {stack.folder} (mode {mode:04o}). Run `chmod 700 {stack.folder}`.",
        )


def environment(stack: Stack, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that say something else than the stack's file, which wins."""
    for name in CHOICES:
        if name in variables and variables[name] != stack.server.get(name, variables[name]):
            yield Finding(
                "note",
                "environment",
                f"{name} is set and has no effect: change it in {server_file(stack.folder)}.",
            )


def database(stack: Stack) -> Finding:
    """What kind of database the server has."""
    place = stack.server[DATABASE].rpartition("@")[2] if "@" in stack.server[DATABASE] else ""
    if stack.database_kind == "postgresql":
        return Finding("ok", "database", f"PostgreSQL at {place}")
    if stack.database_kind == "sqlite":
        path = stack.server[DATABASE].partition("///")[2]
        return Finding("note", "database", f"SQLite, {path}: good for one machine, not for a team")
    return Finding(
        "WRONG",
        "database",
        f"Prefect knows no {stack.database_kind}. Set {DATABASE} in {server_file(stack.folder)} "
        "to postgresql+asyncpg://… or sqlite+aiosqlite:///….",
    )


def store(settings: RunSettings) -> Iterator[Finding]:
    """Where runs keep what they compute, and how much room there is."""
    for about, folder in (("cache", settings.cache_root), ("models", settings.model_root)):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        text = f"{folder}, {free / 10**9:.1f} GB free"
        if not os.access(existing, os.W_OK):
            yield Finding("WRONG", about, f"{text}: not writable. Run `ls -ld {existing}`.")
        elif free < FEW_BYTES:
            yield Finding("WRONG", about, f"{text}. Run `mnist-cache prune --max-size 2GB`.")
        else:
            yield Finding("ok", about, text)


def reachable(stack: Stack) -> list[Finding]:
    """Whether the server answers, refuses strangers, and knows us."""
    url = stack.api_url
    try:
        httpx.get(f"{url}/health").raise_for_status()
        stranger = httpx.get(f"{url}/version").status_code
    except httpx.HTTPError as error:
        text = f"{url} does not answer ({type(error).__name__}). Start it with `make server`."
        return [Finding("WRONG", "server", text)]
    if stranger not in UNAUTHORIZED:
        text = f"{url} answers without a password. Start it with `make server`, not by itself."
        return [Finding("WRONG", "server", text)]
    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in UNAUTHORIZED:
            raise
        text = f"{url} refuses our password: it was started with another. Start it again."
        return [Finding("WRONG", "server", text)]
    return [Finding("ok", "server", f"{url} answers, refuses strangers, and takes our password")]


def registered(client: SyncPrefectClient) -> Iterator[Finding]:
    """The deployments, their schedules, and the automations."""
    found = {deployment.name: deployment for deployment in client.read_deployments()}
    names = deploy.deployment_names()
    if lacking := [name for name in names if name not in found]:
        yield Finding(
            "WRONG", "deployments", f"{', '.join(lacking)} not registered. Run `make deploy`."
        )
        return
    for name in names:
        yield _deployment(found[name])
    heartbeat = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()
    yield from automated(automations.wanted(client, heartbeat), client.read_automations())


def automated(wanted: list[AutomationCore], present: list[Automation]) -> Iterator[Finding]:
    """Whether the automations are those that `make deploy` registers."""
    by_name = {automation.name: automation for automation in present}
    for core in wanted:
        found = by_name.get(core.name)
        if found is None:
            problem = "is not registered"
        elif automations.same(found, core):
            if not found.enabled:
                yield Finding("note", "automations", f"“{core.name}” is switched off")
            continue
        else:
            problem = "is not as it should be"
        yield Finding("WRONG", "automations", f"“{core.name}” {problem}. Run `make deploy`.")
    yield Finding("ok", "automations", f"{len(wanted)} looked at")


def watched(client: SyncPrefectClient) -> Iterator[Finding]:
    """The work pools and who looks after them."""
    names = WorkPoolFilter(name=WorkPoolFilterName(any_=list(deploy.POOLS)))
    for pool in client.read_work_pools(work_pool_filter=names):
        yield _pool(pool, _online(client, pool))


def late(client: SyncPrefectClient) -> Iterator[Finding]:
    """Runs that should have started, and runs that wait to be looked at."""
    named = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"]))
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=named))
    if runs:
        text = f"{len(runs)} runs have not started in time. Is a worker running? (`make worker`)"
        yield Finding("WRONG", "late runs", text)
    else:
        yield Finding("ok", "late runs", "none")


def dead(crashed: list[FlowRun]) -> Iterator[Finding]:
    """Runs that died and that nothing was done about."""
    troubled = [run for run in crashed if run.deployment_id is not None]
    replaced = [run for run in troubled if _tagged(run, BACK_LINK)]
    twice = [run for run in troubled if _tagged(run, TAG)]
    left = [run for run in troubled if run not in (*replaced, *twice)]
    for run in left:
        text = (
            f"{run.name} has died and was not started anew. If it is not about to be, run "
            f"`prefect deployment run {RECOVERY} --param flow_run_id={run.id}`."
        )
        yield Finding("WRONG", "dead runs", text)
    for run in twice:
        text = f"{run.name} ({run.id}) died like the run that it was to replace: see its log"
        yield Finding("note", "dead runs", text)
    if not left and not twice:
        yield Finding("ok", "dead runs", f"{len(replaced)} in the last week, each started anew")


def messages(client: SyncPrefectClient) -> Finding:
    """Whether anybody is told when something goes wrong."""
    if automations.notification_block(client) is None:
        return Finding(
            "note",
            "messages",
            f"nobody is told of failures: make a notification block {automations.NOTIFICATIONS} "
            "in the UI (Blocks), then run `make deploy`",
        )
    return Finding("ok", "messages", f"go to the block {automations.NOTIFICATIONS}")


def _deployment(deployment: DeploymentResponse) -> Finding:
    pool = str(deployment.work_pool_name)
    active = [schedule for schedule in deployment.schedules if schedule.active]
    when = ", ".join(_when(schedule.schedule) for schedule in active) or "on demand"
    if deployment.paused:
        return Finding("note", "deployment", f"{deployment.name}: paused, in the pool {pool}")
    return Finding("ok", "deployment", f"{deployment.name}: {when}, in the pool {pool}")


def _crashed(since: timedelta) -> FlowRunFilter:
    return FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
        end_time=FlowRunFilterEndTime(after_=datetime.now(UTC) - since),
    )


def _tagged(run: FlowRun, prefix: str) -> bool:
    return any(tag.startswith(prefix) for tag in run.tags)


def _when(schedule: object) -> str:
    cron, zone = getattr(schedule, "cron", None), getattr(schedule, "timezone", None)
    if cron:
        return f"cron {cron} ({zone or 'UTC'})"
    interval = getattr(schedule, "interval", None)
    return f"every {interval}" if isinstance(interval, timedelta) else "scheduled"


def _online(client: SyncPrefectClient, pool: WorkPool) -> list[str]:
    workers = client.read_workers_for_work_pool(pool.name)
    return [worker.name for worker in workers if worker.status is WorkerStatus.ONLINE]


def _pool(pool: WorkPool, online: list[str]) -> Finding:
    if pool.is_paused:
        return Finding("WRONG", "worker", f"the pool {pool.name} is paused: resume it in the UI.")
    if online:
        return Finding("ok", "worker", f"{len(online)} look after the pool {pool.name}")
    if pool.name == POOL:
        text = f"nobody looks after the pool {POOL}. Start a worker with `make worker`."
        return Finding("WRONG", "worker", text)
    return Finding("note", "worker", f"nobody looks after the pool {pool.name} ({pool.type})")
