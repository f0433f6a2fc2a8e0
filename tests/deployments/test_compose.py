"""The compose file: what it needs, and that it starts what is tested outside of containers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from operating import RUN_SECONDS, START_SECONDS, Operated, postgres
from programs import comes_true, environment_in, free_port

from deployments import commands
from deployments.commands import (
    COMPOSE_PASSWORDS,
    FOR_ALL,
    FOR_CLIENTS,
    FOR_SERVERS,
    ROOT,
    make_compose_secrets,
)
from tasks.server.home import (
    AUTH,
    CLIENT_AUTH,
    CLIENT_URL,
    DATABASE,
    HOST,
    PORT,
    SECRETS,
    UI_API_URL,
    Stack,
    as_lines,
    open_stack,
    read_private,
    read_variables,
    write_private,
)

COMPOSE_FILE = ROOT / "deployments" / "compose.yaml"
TEXT = COMPOSE_FILE.read_text()
NEEDED = set(re.findall(r"\$\{(\w+)", TEXT))


def compose() -> list[str]:
    """Docker's compose command, of whichever generation is here; neither asks an engine."""
    docker = shutil.which("docker")
    if docker:
        plugin = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return [docker, "compose"]
    return ["docker-compose"]


def config(env_file: Path) -> subprocess.CompletedProcess[str]:
    """What compose says of the file, with the secrets of an env file."""
    return subprocess.run(
        [*compose(), "--env-file", str(env_file), "-f", str(COMPOSE_FILE), "config"],
        env={k: v for k, v in os.environ.items() if k not in NEEDED},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make compose-secrets` makes."""
    path = tmp_path_factory.mktemp("secrets") / ".env"
    make_compose_secrets(path)
    return path


@pytest.fixture(scope="module")
def secrets(env_file: Path) -> dict[str, str]:
    return read_private(env_file)


@pytest.fixture(scope="module")
def services(secrets: dict[str, str]) -> dict[str, Any]:
    """The services, the secrets in their places, with all that each is told."""
    filled = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda needed: secrets[needed[1]], TEXT)
    services: dict[str, Any] = yaml.safe_load(filled)["services"]
    for service in services.values():
        files = [read_variables(COMPOSE_FILE.parent / name) for name in service.get("env_file", [])]
        service["environment"] = dict(ChainMap(service["environment"], *reversed(files)))
    return services


def test_needs_the_secrets_that_the_target_makes(secrets: dict[str, str]) -> None:
    assert set(secrets) == NEEDED == {*COMPOSE_PASSWORDS, *SECRETS}


def test_no_secret_has_a_default() -> None:
    assert re.findall(r"\$\{\w+(.*?)\}", TEXT) == [":?run make compose-secrets"] * TEXT.count("${")


@pytest.mark.stack
def test_compose_takes_it_and_reads_it_as_these_tests_do(
    env_file: Path, services: dict[str, Any]
) -> None:
    done = config(env_file)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    for name, service in services.items():
        for part in ("command", "environment"):
            assert read[name].get(part) == service.get(part)


@pytest.mark.stack
@pytest.mark.parametrize("name", sorted(NEEDED))
def test_compose_refuses_it_without_a_secret(
    secrets: dict[str, str], name: str, tmp_path: Path
) -> None:
    lacking = tmp_path / ".env"
    write_private(lacking, as_lines({k: v for k, v in secrets.items() if k != name}))
    done = config(lacking)
    assert done.returncode != 0
    assert "run make compose-secrets" in done.stderr


def test_starts_the_commands_of_the_stack(services: dict[str, Any]) -> None:
    ours = {n: tuple(s["command"]) for n, s in services.items() if "mnist" in s.get("image", "")}
    assert ours["server"] == (*commands.SERVER, "--no-services")
    assert ours["services"] == ("prefect", "server", "services", "start")
    assert ours["deploy"] == commands.DEPLOY
    assert ours["worker"] == commands.WORKER


def test_is_reached_from_this_machine_only(services: dict[str, Any]) -> None:
    published = {n: s["ports"] for n, s in services.items() if s.get("ports")}
    assert list(published) == ["server"]
    (port,) = published["server"]
    assert "127.0.0.1" in str(port)


@pytest.mark.parametrize("name", ["server", "services"])
def test_server_is_told_what_every_server_is_told(services: dict[str, Any], name: str) -> None:
    told = services[name]["environment"]
    differs = {key for key, value in {**FOR_SERVERS, **FOR_ALL}.items() if told.get(key) != value}
    assert differs == {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"}  # Redis, for two processes


@pytest.mark.parametrize("name", ["worker", "deploy"])
def test_worker_is_told_what_every_worker_is_told(services: dict[str, Any], name: str) -> None:
    told = services[name]["environment"]
    assert {**FOR_CLIENTS, **FOR_ALL}.items() <= told.items()
    assert {DATABASE, *SECRETS} & set(told) == set()


def test_password_of_the_server_is_that_of_its_clients(services: dict[str, Any]) -> None:
    server = services["server"]["environment"][AUTH]
    assert server == services["worker"]["environment"][CLIENT_AUTH]
    assert server == services["deploy"]["environment"][CLIENT_AUTH]


@contextmanager
def redis(command: list[str], password: str, folder: Path, port: int) -> Iterator[None]:
    """Redis, by the compose file's own command, on a port of this machine."""
    settings = [part.replace("$$", "$") for part in command]
    settings[-1] = settings[-1].replace("exec redis-server -", f"exec redis-server - --port {port}")
    with (
        (folder / "redis.log").open("w") as log,
        subprocess.Popen(
            settings,
            cwd=folder,
            env={**os.environ, "REDIS_PASSWORD": password},
            stdout=log,
            stderr=log,
        ) as server,
    ):
        try:
            yield
        finally:
            server.terminate()


@pytest.mark.stack
def test_its_processes_work_together_outside_of_containers(
    services: dict[str, Any], secrets: dict[str, str], tmp_path: Path
) -> None:
    """Each by its own command and variables, with the addresses of this machine in them."""
    api, broker, health = free_port(), free_port(), free_port()
    with (
        postgres(secrets["POSTGRES_PASSWORD"]) as database,
        redis(services["redis"]["command"], secrets["REDIS_PASSWORD"], tmp_path, broker),
    ):
        here = {
            "@database:5432/prefect": f"@{database.rpartition('@')[2]}",
            "redis:6379": f"127.0.0.1:{broker}",
            "server:4200": f"127.0.0.1:{api}",
            "127.0.0.1:4200": f"127.0.0.1:{api}",
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - replaced
            "/var/lib/mnist": str(tmp_path),
        }

        def environment(service: str) -> dict[str, str]:
            told = dict(services[service]["environment"])
            for name, value in told.items():
                for there, instead in here.items():
                    told[name] = told[name].replace(there, instead)
                assert value == told[name] or name in ADDRESSES, name
            told |= {n: str(p) for n, p in ((PORT, api), (HEALTH, health)) if n in told}
            allowed = {"PIPELINE_DATA_DIRS": str(tmp_path)}  # where the dataset is
            return {**environment_in(tmp_path / f"home-{service}"), **allowed, **told}

        stack = Operated(tmp_path, database)
        made = open_stack(tmp_path / "known", {PORT: str(api)})

        def start(service: str) -> None:
            stack.start(service, tuple(services[service]["command"]), environment(service))

        stack.stack = Stack(made.folder, {**made.server, AUTH: secrets[AUTH]})
        try:
            start("server")
            assert comes_true(stack.answers, START_SECONDS), stack.log("server")
            start("services")
            start("deploy")
            assert stack.processes.pop("deploy").wait(RUN_SECONDS) == 0, stack.log("deploy")
            start("worker")
            dead = stack.submit(epochs=400)
            stack.in_training(dead).send_signal(signal.SIGKILL)
            assert stack.replaced_once(dead)
        finally:
            stack.end()


HEALTH = "PREFECT_WORKER_WEBSERVER_PORT"
ADDRESSES = {
    *(HOST, UI_API_URL, DATABASE, CLIENT_URL, "PREFECT_REDIS_MESSAGING_URL"),
    *("PREFECT_SERVER_DOCKET_URL", "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"),
    *("PREFECT_SERVER_UI_STATIC_DIRECTORY", "XDG_CACHE_HOME", "XDG_DATA_HOME"),
}
