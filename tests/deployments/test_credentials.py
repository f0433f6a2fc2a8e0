"""The stack's secrets: who can read them, when they are made, and what is told to whom."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from deployments.commands import client_environment, server_environment
from deployments.credentials import (
    AUTH,
    DATABASE,
    ENCRYPTION_KEY,
    PORT,
    CredentialsError,
    make_compose_secrets,
    open_stack,
    profiles_file,
    read_private,
    server_file,
    stack_folder,
)

CHOSEN = {PORT: "4300", DATABASE: "postgresql+asyncpg://prefect:word@db/prefect"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_folder_are_for_the_owner_only(tmp_path: Path) -> None:
    stack = open_stack(tmp_path / "stack", {})
    assert mode(stack.folder) == 0o700
    assert mode(server_file(stack.folder)) == 0o600
    assert mode(profiles_file(stack.folder)) == 0o600


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


def test_folder_can_be_chosen(tmp_path: Path) -> None:
    assert stack_folder({"PIPELINE_STACK_DIR": str(tmp_path)}) == tmp_path


@pytest.mark.parametrize("lines", ["nonsense\n", "1X=2\n"])
def test_line_that_sets_nothing_is_named_without_its_text(tmp_path: Path, lines: str) -> None:
    path = server_file(tmp_path)
    open_stack(tmp_path, {})
    path.write_text("# comment\n" + lines)
    with pytest.raises(CredentialsError, match=f"line 2 of {path}") as error:
        open_stack(tmp_path, {})
    assert lines.strip() not in str(error.value)


def test_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    open_stack(tmp_path, {})
    server_file(tmp_path).chmod(0o640)
    with pytest.raises(CredentialsError, match=r"mode 0640.*chmod 600"):
        open_stack(tmp_path, {})


def test_missing_secret_is_named_and_not_made_anew(tmp_path: Path) -> None:
    open_stack(tmp_path, {})
    path = server_file(tmp_path)
    path.write_text(path.read_text().replace(f"{ENCRYPTION_KEY}=", f"# {ENCRYPTION_KEY}="))
    with pytest.raises(CredentialsError, match=rf"must set {ENCRYPTION_KEY}.*backup"):
        open_stack(tmp_path, {})


def test_profile_follows_the_servers_file(tmp_path: Path) -> None:
    open_stack(tmp_path, {})
    path = server_file(tmp_path)
    path.write_text(path.read_text().replace("4200", "4300"))
    open_stack(tmp_path, {})
    assert "http://127.0.0.1:4300/api" in profiles_file(tmp_path).read_text()


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
