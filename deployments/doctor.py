"""`make doctor`: what is set up and works, what does not, and what to do about it.

    ok    server       http://127.0.0.1:4200/api answers, and takes our password
    WRONG worker       nobody looks after the pool mnist. Start a worker with `make worker`.

Secrets are named by where they lie, never by what they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import httpx
from humanize import naturaltime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, Worker, WorkerStatus, WorkPool
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from deployments import automations, recovery
from deployments.commands import POOL, PREFECT_FILE, by_hand
from deployments.database import place
from deployments.definitions import POOLS, job_template, read_deployments
from deployments.deploy import present_kinds
from tasks.errors import PipelineError
from tasks.server.home import CHOICES, DATABASE, PROFILES_FILE, SERVER_FILE, Stack
from tasks.settings import RunSettings

TRAINING = "mnist"  # the flow
DEAD_LETTERS = "dlq"  # Prefect's name, in its home, for what its broker in memory gives up
NEVER = datetime.min.replace(tzinfo=UTC)
UNAUTHORIZED = (401, 403)
FEW_BYTES = 2 * 10**9  # a run on MNIST keeps 0.3 GB; beyond that, room for other datasets


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    verdict: Literal["ok", "note", "WRONG"]
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:5} {self.about:12} {self.text}"


ok, note, wrong = partial(Finding, "ok"), partial(Finding, "note"), partial(Finding, "WRONG")


def examine(stack: Stack, variables: Mapping[str, str]) -> int:
    """Print what was found, beside the operator's variables; returns 1 if something is wrong."""
    found = []
    for finding in findings(stack, variables):
        print(finding)
        found.append(finding.verdict)
    print(f"\n{found.count('WRONG')} wrong" if "WRONG" in found else "\nNothing is wrong.")
    return int("WRONG" in found)


def findings(stack: Stack, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that can be looked at, in the order in which it depends on each other."""
    yield from files(stack)
    yield from environment(stack, variables)
    yield database(stack)
    yield from store(RunSettings())
    yield (server := reachable(stack))
    if server.verdict == "WRONG":
        return
    with get_client(sync_client=True) as client:
        yield from registered(client)
        for pool in client.read_work_pools():
            if pool.name in POOLS:
                yield from templated(pool)
                yield from attended(pool, client.read_workers_for_work_pool(pool.name))
        yield dead_letters(stack.folder / DEAD_LETTERS)
        yield late(client)
        since = {"after_": datetime.now(UTC) - timedelta(days=7)}
        yield from dead(_runs(client, state={"type": {"any_": ["CRASHED"]}}, end_time=since))
        yield messages(client)


def files(stack: Stack) -> Iterator[Finding]:
    """Where credentials lie, and who can read them."""
    for path in (stack.folder / SERVER_FILE, stack.folder / PROFILES_FILE):
        yield ok("credentials", f"{path} (mode {path.stat().st_mode & 0o777:04o})")
    mode = stack.folder.stat().st_mode & 0o777
    if mode & 0o077:
        advice = f"Run `chmod 700 {stack.folder}`."
        yield wrong("credentials", f"others can enter {stack.folder} (mode {mode:04o}). {advice}")


def environment(stack: Stack, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that say something else than the stack's file, which wins."""
    place = stack.folder / SERVER_FILE
    for name in CHOICES:
        if name in variables and variables[name] != stack.server.get(name, variables[name]):
            yield note("environment", f"{name} is set and has no effect: change it in {place}.")


def database(stack: Stack) -> Finding:
    """What kind of database the server has."""
    url = stack.server[DATABASE]
    with suppress(ArgumentError, ValueError):  # ValueError: of a port that is no number
        if stack.database_kind == "postgresql":
            return ok("database", place(url))
        if stack.database_kind == "sqlite":
            path = make_url(url).database
            return note("database", f"SQLite, {path}: good for one machine, not for a team")
    right = "postgresql+asyncpg://… or sqlite+aiosqlite:///…"
    advice = f"Set {DATABASE} in {stack.folder / SERVER_FILE} to {right}."
    return wrong("database", f"Prefect knows no {stack.database_kind} at such an address. {advice}")


def store(settings: RunSettings) -> Iterator[Finding]:
    """Where runs keep what they compute, and how much room there is."""
    for about, folder in (("cache", settings.cache_root), ("models", settings.model_root)):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        text = f"{folder}, {free / 10**9:.1f} GB free"
        if not os.access(existing, os.W_OK):
            yield wrong(about, f"{text}: not writable. Run `ls -ld {existing}`.")
        elif free < FEW_BYTES:
            yield wrong(about, f"{text}. Run `.venv/bin/mnist-cache prune --max-size 2GB`.")
        else:
            yield ok(about, text)


def reachable(stack: Stack) -> Finding:
    """Whether the server answers, refuses strangers, and knows us."""
    url = stack.api_url
    try:
        httpx.get(f"{url}/health").raise_for_status()
        if httpx.get(f"{url}/version").status_code not in UNAUTHORIZED:
            advice = "Start it with `make server`, not by itself."
            return wrong("server", f"{url} answers without a password. {advice}")
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in UNAUTHORIZED:
            raise
        problem = "refuses our password: it was started with another"
        return wrong("server", f"{url} {problem}. Start it again.")
    except httpx.HTTPError as error:
        problem = f"does not answer ({type(error).__name__})"
        return wrong("server", f"{url} {problem}. Start it with `make server`.")
    return ok("server", f"{url} answers, refuses strangers, and takes our password")


def registered(client: SyncPrefectClient) -> Iterator[Finding]:
    """The deployments, their schedules, and the automations."""
    try:
        defined = read_deployments()
    except PipelineError as error:
        yield wrong("deployments", str(error))
        return
    found = {deployment.name: deployment for deployment in client.read_deployments()}
    kinds = present_kinds(client)
    needed = [each.name for each in defined if each.work_pool.kind in kinds]
    if lacking := [name for name in needed if name not in found]:
        yield wrong("deployments", f"{', '.join(lacking)} not registered. Run `make deploy`.")
        return
    for deployment in (found[name] for name in needed):
        active = [each.schedule for each in deployment.schedules if each.active]
        when = "paused" if deployment.paused else ", ".join(map(_when, active)) or "on demand"
        text = f"{deployment.name}: {when}, in the pool {deployment.work_pool_name}"
        yield (note if deployment.paused else ok)("deployment", text)
    yield from given_up(client, {each.name for each in defined})
    yield from automated(automations.wanted(client), client.read_automations())


def given_up(client: SyncPrefectClient, defined: Collection[str]) -> Iterator[Finding]:
    """Deployments of our flows that are no longer defined, as after an upgrade."""
    ours = FlowFilter.model_validate({"name": {"any_": [TRAINING, recovery.FLOW_NAME]}})
    for left in client.read_deployments(flow_filter=ours):
        if left.name not in defined:
            full = f"{client.read_flow(left.flow_id).name}/{left.name}"
            advice = "If it is not your own, remove it in the UI (Deployments)."
            yield note("deployment", f"{full} is not in {PREFECT_FILE}. {advice}")


def automated(wanted: list[AutomationCore], present: list[Automation]) -> Iterator[Finding]:
    """Whether the automations are those that `make deploy` registers."""
    for name, core, found in automations.differences(wanted, present):
        differs = "is not as it should be" if found else "is not registered"
        problem = differs if core else "is one too many"
        yield wrong("automations", f"“{name}” {problem}. Run `make deploy`.")
    names = {core.name for core in wanted}
    for name in (one.name for one in present if one.name in names and not one.enabled):
        yield note("automations", f"“{name}” is switched off")
    yield ok("automations", f"{len(wanted)} looked at")


def templated(pool: WorkPool) -> Iterator[Finding]:
    """Whether what a worker makes of a run is what we say, and not what somebody else has said."""
    if pool.base_job_template != job_template(POOLS[pool.name]):
        problem = "has another job template than ours, which may take commands"
        yield wrong("work pool", f"{pool.name} {problem}. Run `make deploy`.")


def attended(pool: WorkPool, workers: Iterable[Worker]) -> Iterator[Finding]:
    """Whether a work pool has workers; ours for the nightly run has to have one."""
    if pool.is_paused:
        yield wrong("worker", f"the pool {pool.name} is paused: resume it in the UI.")
    latest = sorted(workers, key=lambda worker: worker.last_heartbeat_time or NEVER)
    online = [worker for worker in latest if worker.status is WorkerStatus.ONLINE]
    yield from (ok("worker", f"looks after the pool {pool.name}: {_seen(one)}") for one in online)
    if not online:
        before = f"; the latest was {_seen(latest[-1])}" if latest else ""
        problem = f"nobody looks after the pool {pool.name}{before}"
        if pool.name == POOL:
            yield wrong("worker", f"{problem}. Start a worker with `make worker`.")
            return
        names = [each.name for each in read_deployments() if each.work_pool.name == pool.name]
        advice = (
            f"Start a worker of the type {pool.type}; or, if you need none, remove "
            f"{' and '.join(names)} and then this pool in the UI."
        )
        yield note("worker", f"{problem}. {advice}")


def _seen(worker: Worker) -> str:
    last = worker.last_heartbeat_time
    sign = f"last sign of life {naturaltime(last)}" if last else "no sign of life yet"
    return f"{worker.name}, {sign}"


def dead_letters(folder: Path) -> Finding:
    """Events that the server has given up, after four tries: nothing has come of them."""
    letters = list(folder.glob("*"))
    if not letters:
        return ok("events", "none was given up")
    latest = naturaltime(datetime.fromtimestamp(max(path.stat().st_mtime for path in letters), UTC))
    of = ", ".join(sorted(set(map(_given_up, letters))))
    problem = f"{len(letters)} were given up, of {of}, the latest {latest}"
    advice = "A message may not have got through, or an automation have missed one. Look at the"
    return wrong("events", f"{problem}. {advice} runs of that time, then run `rm -r {folder}`.")


def _given_up(letter: Path) -> str:
    """The automation that a dead letter is of, or the event."""
    try:
        about = json.loads(json.loads(letter.read_bytes())["data"])
        return f"“{about['automation']['name']}”" if "automation" in about else about["event"]
    except (ValueError, LookupError, TypeError):
        return "an unknown kind"


def late(client: SyncPrefectClient) -> Finding:
    """Runs that should have started."""
    if runs := _runs(client, state={"name": {"any_": ["Late"]}}):
        problem = f"{len(runs)} runs have not started in time."
        return wrong("late runs", f"{problem} Is a worker running? (`make worker`)")
    return ok("late runs", "none")


def dead(crashed: Iterable[FlowRun]) -> Iterator[Finding]:
    """Runs that died and that nothing was done about."""
    troubled = [run for run in crashed if run.deployment_id is not None]
    left = [run for run in troubled if not _tagged(run, recovery.BACK_LINK)]
    for run in left:
        if _tagged(run, recovery.TAG):
            what = "died like the run that it was to replace: see its log"
            yield note("dead runs", f"{run.name} ({run.id}) {what}")
        else:
            what = "has died and was not started again. If it is not about to be, run"
            again = f"deployment run {automations.RECOVERY} --param flow_run_id={run.id}"
            yield wrong("dead runs", f"{run.name} {what} {by_hand(again)}.")
    if not left:
        yield ok("dead runs", f"{len(troubled)} in the last week, each started again")


def messages(client: SyncPrefectClient) -> Finding:
    """Whether anybody is told when something goes wrong."""
    block = automations.NOTIFICATIONS
    if automations.notification_block(client):
        return ok("messages", f"go to the block {block}")
    advice = f"make a notification block {block} in the UI (Blocks), then run `make deploy`"
    return note("messages", f"nobody is told of failures: {advice}")


def _runs(client: SyncPrefectClient, **conditions: object) -> list[FlowRun]:
    return client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(conditions))


def _tagged(run: FlowRun, prefix: str) -> bool:
    return any(tag.startswith(prefix) for tag in run.tags)


def _when(schedule: object) -> str:
    if isinstance(schedule, CronSchedule):
        return f"cron {schedule.cron} ({schedule.timezone or 'UTC'})"
    return f"every {schedule.interval}" if isinstance(schedule, IntervalSchedule) else "scheduled"
