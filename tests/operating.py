"""A whole stack for the tests, as an operator has it: PostgreSQL, the server, a worker, runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from programs import (
    HANG_SECONDS,
    ROOT,
    comes_true,
    environment_in,
    free_port,
    run,
    write_dataset,
)

from deployments.commands import command
from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.records import ModelRef
from tasks.server.home import AUTH, Stack, new_password, open_stack, stack_folder

POSTGRES_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
START_SECONDS = 300.0
RUN_SECONDS = 300.0
# Quicker than an operator would have it, so that the tests do not wait.
SOON = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the shortest that Prefect takes
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "3",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_BATCH_SIZE": "10",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
}


def as_someone_else() -> dict[str, str]:
    """How to start a program that refuses to run as root."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


@contextmanager
def postgres(password: str) -> Iterator[str]:
    """A PostgreSQL server with a password; yields SQLAlchemy's URL of its database."""
    binaries, port = POSTGRES_BINARIES[-1], free_port()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path holds 107 bytes
    password_file = folder / "password"
    password_file.write_text(password)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        shutil.chown(password_file, "postgres")
    initdb = [str(binaries / "initdb"), "--pgdata", str(folder / "data"), "--auth=scram-sha-256"]
    try:
        subprocess.run(
            [*initdb, "--username=prefect", f"--pwfile={password_file}"],
            cwd=folder,
            check=True,
            capture_output=True,
            **as_someone_else(),
        )
        start = [str(binaries / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
        with subprocess.Popen(
            [*start, "-h", "127.0.0.1", "-p", str(port), "-c", "fsync=off"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_someone_else(),
        ) as server:
            try:
                yield f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)  # ends sessions, unlike SIGTERM
                server.wait(HANG_SECONDS)
    finally:
        shutil.rmtree(folder)


@dataclass
class Operated:
    """A stack in a folder, its processes, and what can be asked of it."""

    folder: Path
    database: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    caches: int = 0

    @cached_property
    def environment(self) -> dict[str, str]:
        """The environment of the operator's commands, who has chosen a port and a database."""
        return {
            **environment_in(self.folder / "elsewhere"),
            **SOON,
            "PIPELINE_STACK_DIR": str(self.folder / "stack"),
            "XDG_CACHE_HOME": str(self.folder / "home" / "cache"),
            "XDG_DATA_HOME": str(self.folder / "home" / "data"),
            "PIPELINE_DATA_DIRS": str(self.folder),
            "PREFECT_SERVER_API_PORT": str(free_port()),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.database,
            "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
        }

    @cached_property
    def stack(self) -> Stack:
        """Its files, made now if they are not there."""
        return open_stack(stack_folder(self.environment), self.environment)

    def start(self, name: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        """Start a process that is known by a name; its output goes to a file of that name."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command(arguments),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def operate(self, target: str) -> None:
        """Start what `make server` or `make worker` starts."""
        self.start(target, ("python", "-m", "deployments", target), self.environment)

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a process and wait until it is gone."""
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(HANG_SECONDS)

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text()

    def deploy(self, *kinds: str) -> None:
        """What `make deploy` does, with what it is asked for in ARGS."""
        run([sys.executable, "-m", "deployments", "deploy", *kinds], self.environment)

    def doctor(self) -> str:
        """What `make doctor` says; its status has to be that."""
        command = [sys.executable, "-m", "deployments", "doctor"]
        done = run(command, self.environment, status=None)
        assert (done.returncode == 0) == ("Nothing is wrong." in done.stdout), done.stderr
        return done.stdout

    def answers(self) -> bool:
        """Whether the server answers."""
        try:
            return httpx.get(f"{self.stack.api_url}/health").is_success
        except httpx.HTTPError:
            return False

    def start_server(self) -> None:
        self.operate("server")
        assert comes_true(self.answers, START_SECONDS), self.log("server")

    def start_worker(self) -> None:
        self.operate("worker")
        port = self.environment["PREFECT_WORKER_WEBSERVER_PORT"]
        health = f"http://127.0.0.1:{port}/health"

        def polls() -> bool:
            try:
                return httpx.get(health).is_success
            except httpx.HTTPError:
                return False

        assert comes_true(polls, START_SECONDS), self.log("worker")

    def bring_up(self) -> None:
        """Start again what a test has stopped."""
        if "server" not in self.processes:
            self.start_server()
        if "worker" not in self.processes:
            self.start_worker()

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        """A client that is logged in."""
        login = {
            PREFECT_API_URL: self.stack.api_url,
            PREFECT_API_AUTH_STRING: self.stack.server[AUTH],
        }
        with temporary_settings(login), get_client(sync_client=True) as client:
            yield client

    @property
    def cache(self) -> Path:
        """The cache folder of the runs that are asked for now."""
        return self.folder / f"cache-{self.caches}"

    def settings(self, **others: Any) -> dict[str, Any]:
        """The settings of a run on tiny images."""
        dataset = self.folder / "stripes.npz"
        if not dataset.exists():
            write_dataset(dataset)
        return {
            "dataset": str(dataset),
            "epochs": 1,
            "cache_dir": str(self.cache),
            "model_dir": str(self.folder / "models"),
            **others,
        }

    def submit(self, **settings: Any) -> UUID:
        """Ask for a run of the deployment `smoke`."""
        with self.client() as client:
            deployment = client.read_deployment_by_name("mnist/smoke")
            created = client.create_flow_run_from_deployment(
                deployment.id, parameters={"settings": self.settings(**settings)}
            )
        return created.id

    def read(self, run: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run)

    def state(self, run: UUID) -> str:
        """The name of a run's state."""
        return str(self.read(run).state_name)

    def becomes(self, run: UUID, state: str, seconds: float = RUN_SECONDS) -> bool:
        """Whether a run comes to a state."""
        return comes_true(lambda: self.state(run) == state, seconds)

    def replacements(self, run: UUID) -> list[FlowRun]:
        """The runs that were started in place of one."""
        with self.client() as client:
            return client.read_flow_runs(
                flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[f"recovers:{run}"]))
            )

    def replaced_once(self, dead: UUID) -> bool:
        """Whether a dead run gets one new run, which completes while the dead one stays dead."""
        assert self.becomes(dead, "Crashed"), self.state(dead)
        assert comes_true(lambda: len(self.replacements(dead)) == 1, RUN_SECONDS)
        (new,) = self.replacements(dead)
        assert self.becomes(new.id, "Completed"), self.log("worker")
        assert self.state(dead) == "Crashed"
        assert f"recovered-by:{new.id}" in self.read(dead).tags
        return len(self.replacements(dead)) == 1

    def triggered(self) -> set[str]:
        """The names of the automations that have acted."""
        events = self.events("prefect.automation.triggered")
        return {event["resource"]["prefect.resource.name"] for event in events}

    def events(self, name: str) -> list[dict[str, Any]]:
        """The latest events of a name."""
        asked = {"filter": {"event": {"name": [name]}}}
        with self.client() as client:
            return list(client.request("POST", "/events/filter", json=asked).json()["events"])

    def looked_at(self, run: UUID) -> list[FlowRun]:
        """The runs that have looked, or look, whether a run is dead."""
        looks = self.runs_of("recover")
        return [look for look in looks if look.parameters.get("flow_run_id") == str(run)]

    def open_tasks(self, run: UUID) -> list[TaskRun]:
        """The tasks of a run that have not ended."""
        of_the_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        with self.client() as client:
            tasks = client.read_task_runs(flow_run_filter=of_the_run)
        return [task for task in tasks if task.state is None or not task.state.is_final()]

    def runs_of(self, deployment: str) -> list[FlowRun]:
        with self.client() as client:
            return client.read_flow_runs(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
            )

    def checkpoints(self) -> int:
        """How many checkpoints lie in the cache."""
        return len([path for path in (self.cache / "checkpoints").rglob("0*") if path.is_file()])

    def in_training(self, run: UUID) -> psutil.Process:
        """The process of a run that has trained an epoch; it is waited for."""
        assert self.becomes(run, "Running"), self.log("worker")
        assert comes_true(lambda: self.checkpoints() > 0, RUN_SECONDS), self.log("worker")
        pid = self.read(run).infrastructure_pid
        assert pid is not None
        return psutil.Process(int(pid))

    def weights(self) -> set[str]:
        """The SHA-256 of the weights of every model in the cache."""
        entries = Entries(Store(root=self.cache))
        results = [entries.read(key).result for key in entries]
        return {result.weights_sha256 for result in results if isinstance(result, ModelRef)}

    def end(self) -> None:
        """End every process, whatever a test has left."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def operated(folder: Path) -> Iterator[Operated]:
    """PostgreSQL, the server on it, everything deployed, a worker."""
    with postgres(new_password()) as database:
        stack = Operated(folder, database)
        try:
            stack.start_server()
            stack.deploy()
            stack.start_worker()
            yield stack
        finally:
            stack.end()
