"""The stack's secrets: who can read them, when they are made, and what is told to whom."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from deployments.commands import (
    ROOT,
    client_environment,
    make_compose_secrets,
    server_environment,
)
from tasks.errors import PipelineError, ServerError
from tasks.server.home import (
    AUTH,
    DATABASE,
    ENCRYPTION_KEY,
    PORT,
    PROFILES_FILE,
    SERVER_FILE,
    open_stack,
    read_private,
    require_certificates,
    stack_folder,
)

CHOSEN = {PORT: "4300", DATABASE: "postgresql+asyncpg://prefect:word@db/prefect"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_folder_are_for_the_owner_only(tmp_path: Path) -> None:
    stack = open_stack(tmp_path / "stack", {})
    assert mode(stack.folder) == 0o700
    assert mode(stack.folder / SERVER_FILE) == 0o600
    assert mode(stack.folder / PROFILES_FILE) == 0o600


def test_first_start_makes_secrets_that_no_other_stack_has(tmp_path: Path) -> None:
    one, other = (open_stack(tmp_path / name, {}).server for name in ("one", "other"))
    assert one[AUTH].startswith("operator:")
    assert len(one[AUTH]) == len("operator:") + 43
    assert one[AUTH] != other[AUTH]
    assert one[ENCRYPTION_KEY] != other[ENCRYPTION_KEY]
    Fernet(one[ENCRYPTION_KEY])


def test_second_start_keeps_what_the_first_one_made(tmp_path: Path) -> None:
    first = open_stack(tmp_path, CHOSEN)
    assert open_stack(tmp_path, {PORT: "9999"}) == first
    assert first.server[PORT] == "4300"


def test_default_is_sqlite_on_loopback(tmp_path: Path) -> None:
    stack = open_stack(tmp_path, {})
    assert stack.api_url == "http://127.0.0.1:4200/api"
    assert stack.server[DATABASE] == f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    assert stack.database_kind == "sqlite"


def test_clients_reach_a_server_on_every_interface_through_loopback(tmp_path: Path) -> None:
    stack = open_stack(tmp_path, {"PREFECT_SERVER_API_HOST": "0.0.0.0"})  # noqa: S104 - not bound to
    assert stack.api_url == "http://127.0.0.1:4200/api"


MANY, ROUNDS = 4, 10
OPENS_STACKS = """
import json, sys
from pathlib import Path
from deployments.commands import make_compose_secrets
from tasks.server.home import open_stack, read_private
folder, rounds = Path(sys.argv[1]), range(int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
stacks = [dict(open_stack(folder / f"stack-{each}", {}).server) for each in rounds]
files = [folder / f"{each}.env" for each in rounds]
made = [[make_compose_secrets(file), read_private(file)] for file in files]
print(json.dumps({"stacks": stacks, "compose": made}))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where several commands make their files at once."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def found_at_once(shared: Path) -> list[dict[str, Any]]:
    """What each of several real processes has found there, all of them set off together."""
    program = [sys.executable, "-c", OPENS_STACKS, str(shared), str(ROUNDS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as started:
        processes = [
            started.enter_context(subprocess.Popen(program, cwd=ROOT, **pipes)) for _ in range(MANY)
        ]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * MANY
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.communicate(timeout=60)[0]) for process in processes]


def test_commands_started_at_once_have_the_same_secrets(
    shared: Path, found_at_once: list[dict[str, Any]]
) -> None:
    kept = [dict(open_stack(shared / f"stack-{each}", {}).server) for each in range(ROUNDS)]
    assert [found["stacks"] for found in found_at_once] == [kept] * MANY


@pytest.mark.parametrize("each", range(ROUNDS))
def test_secrets_for_compose_are_made_by_one_of_many(
    shared: Path, found_at_once: list[dict[str, Any]], each: int
) -> None:
    made, secrets = zip(*(found["compose"][each] for found in found_at_once), strict=True)
    assert sum(made) == 1
    assert list(secrets) == [read_private(shared / f"{each}.env")] * MANY


def test_folder_can_be_chosen(tmp_path: Path) -> None:
    assert stack_folder({"PIPELINE_STACK_DIR": str(tmp_path)}) == tmp_path


@pytest.mark.parametrize("lines", ["nonsense\n", "1X=2\n"])
def test_line_that_sets_nothing_is_named_without_its_text(tmp_path: Path, lines: str) -> None:
    path = tmp_path / SERVER_FILE
    open_stack(tmp_path, {})
    path.write_text("# comment\n" + lines)
    with pytest.raises(PipelineError, match=f"line 2 of {path}") as error:
        open_stack(tmp_path, {})
    assert lines.strip() not in str(error.value)


def test_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    open_stack(tmp_path, {})
    (tmp_path / SERVER_FILE).chmod(0o640)
    with pytest.raises(PipelineError, match=r"mode 0640.*chmod 600"):
        open_stack(tmp_path, {})


def test_missing_secret_is_named_and_not_made_again(tmp_path: Path) -> None:
    open_stack(tmp_path, {})
    path = tmp_path / SERVER_FILE
    path.write_text(path.read_text().replace(f"{ENCRYPTION_KEY}=", f"# {ENCRYPTION_KEY}="))
    with pytest.raises(PipelineError, match=rf"must set {ENCRYPTION_KEY}.*backup"):
        open_stack(tmp_path, {})


def test_profile_follows_the_servers_file(tmp_path: Path) -> None:
    open_stack(tmp_path, {})
    path = tmp_path / SERVER_FILE
    path.write_text(path.read_text().replace("4200", "4300"))
    open_stack(tmp_path, {})
    assert "http://127.0.0.1:4300/api" in (tmp_path / PROFILES_FILE).read_text()


class TestEnvironments:
    """What the server is told, and what a worker is."""

    def test_server_is_hardened(self, tmp_path: Path) -> None:
        told = server_environment(open_stack(tmp_path, {}), {})
        assert told["PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"] == "true"
        assert told["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert told["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"
        assert told["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4200/api"
        expected = "http://127.0.0.1:4200,http://localhost:4200"
        assert expected == told["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]

    def test_public_address_is_the_only_origin(self, tmp_path: Path) -> None:
        public = {"PREFECT_SERVER_UI_API_URL": "https://prefect.example.org/api"}
        told = server_environment(open_stack(tmp_path, public), {})
        origins = told["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]
        assert origins == "https://prefect.example.org"

    def test_file_wins_over_the_environment(self, tmp_path: Path) -> None:
        told = server_environment(open_stack(tmp_path, CHOSEN), {PORT: "9999", AUTH: "a:b"})
        assert told[PORT] == "4300"
        assert told[AUTH].startswith("operator:")

    def test_worker_knows_neither_the_database_nor_the_key(self, tmp_path: Path) -> None:
        stack = open_stack(tmp_path, CHOSEN)
        told = client_environment(stack, {**CHOSEN, "PREFECT_API_URL": "http://other/api"})
        assert {DATABASE, ENCRYPTION_KEY, AUTH, "PREFECT_API_URL"} & set(told) == set()
        assert told["PREFECT_HOME"] == str(tmp_path)

    def test_operator_can_ask_for_other_heartbeats(self, tmp_path: Path) -> None:
        stack, name = open_stack(tmp_path, {}), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
        assert client_environment(stack, {})[name] == "60"
        assert client_environment(stack, {name: "30"})[name] == "30"


def test_secrets_for_compose_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert make_compose_secrets(path)
    assert mode(path) == 0o600
    made = read_private(path)
    assert set(made) == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", AUTH, ENCRYPTION_KEY}
    assert not make_compose_secrets(path)
    assert read_private(path) == made


class TestServing:
    """Whose server answers."""

    def test_nobody_is_its_server_before_one_has_been_started(self, tmp_path: Path) -> None:
        assert not open_stack(tmp_path, {}).serves

    def test_it_serves_as_long_as_its_server_lives(self, tmp_path: Path) -> None:
        stack = open_stack(tmp_path, {})
        with stack.serving():
            assert stack.serves
        assert not stack.serves

    def test_a_second_server_is_refused(self, tmp_path: Path) -> None:
        stack = open_stack(tmp_path, {})
        with (
            stack.serving(),
            pytest.raises(ServerError, match=r"one server\. Received: another one"),
            stack.serving(),
        ):
            pass

    def test_looking_is_in_no_servers_way(self, tmp_path: Path) -> None:
        stack = open_stack(tmp_path, {})
        with stack.serving():
            pass
        assert not any(stack.serves for _ in range(100))
        with stack.serving():
            assert stack.serves


def test_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "stack").write_text("not a folder")
    with pytest.raises(PipelineError, match=r"folder of your own\. Received: .*PIPELINE_STACK_DIR"):
        open_stack(tmp_path / "stack", {})


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_not_there_are_named(name: str, tmp_path: Path) -> None:
    require_certificates({name: str(tmp_path)})
    with pytest.raises(ServerError, match=rf"{name} must name what exists\. Received: .*/gone"):
        require_certificates({name: str(tmp_path / "gone")})
