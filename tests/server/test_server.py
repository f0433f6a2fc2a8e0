"""When a run brings up its own Prefect server, and how it waits for another."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.errors import ServerError
from tasks.server.own import is_configured, wait_for_configured_server


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prefect, when it is asked, names this address; the list shows that it was asked."""
    answers: list[str] = []

    class Setting:
        def value(self) -> str:
            answers.append("asked")
            return "http://somewhere/api"

    monkeypatch.setattr("prefect.settings.PREFECT_API_URL", Setting())
    return answers


def test_fresh_machine_has_none(asked: list[str]) -> None:
    assert not is_configured()
    assert asked == []


def test_default_profile_and_foreign_projects_have_none(tmp_path: Path, asked: list[str]) -> None:
    (tmp_path / "home" / "profiles.toml").write_text('active = "ephemeral"\n[profiles.ephemeral]\n')
    (tmp_path / "pyproject.toml").write_text('[tool.ruff]\nsrc = ["api_url"]\n')
    assert not is_configured()
    assert asked == []


def test_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://somewhere/api")
    assert is_configured()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("home/profiles.toml", 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://x"\n'),
        ("home/profiles.toml", 'active = "local"\n'),
        (".env", "PREFECT_API_URL=http://x\n"),
        ("prefect.toml", '[api]\nurl = "http://x"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://x"\n'),
    ],
)
def test_prefect_is_asked_when_a_file_may_name_one(
    tmp_path: Path, asked: list[str], file: str, text: str
) -> None:
    (tmp_path / file).write_text(text)
    assert is_configured()
    assert asked == ["asked"]


def test_prefect_is_asked_about_a_profile_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setenv("PREFECT_PROFILE", "local")
    assert is_configured()
    assert asked == ["asked"]


def test_file_that_cannot_be_decoded_is_left_to_prefect(tmp_path: Path, asked: list[str]) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    assert is_configured()
    assert asked == ["asked"]


def test_server_that_accepts_and_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.server.own.CHECK_TIMEOUT_SECONDS", 0.2)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(ServerError, match=url),
        ):
            wait_for_configured_server(said.append, timeout_seconds=0.5)
    assert said[:1] == [f"waiting for the Prefect server at {url}"]
