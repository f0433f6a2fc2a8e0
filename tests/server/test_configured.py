"""Which spellings of a Prefect API are found, and how a run waits for the server that they name."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from traceback import format_exception

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from programs import ROOT
from pydantic import TypeAdapter

from tasks.errors import ServerError
from tasks.server.configured import is_configured, wait_for_configured_server
from tasks.server.home import open_stack

URL = "http://somewhere/api"
Files = dict[str, str]  # by name; "~/" is Prefect's home folder


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("PREFECT_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "~"))
    (tmp_path / "~").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prefect, when it is asked, names this address; the list shows that it was asked."""
    answers: list[str] = []

    class Setting:
        def value(self) -> str:
            answers.append("asked")
            return URL

    monkeypatch.setattr("prefect.settings.PREFECT_API_URL", Setting())
    return answers


def place(files: Files) -> None:
    for name, text in files.items():
        Path(name).write_text(text)


def profile(settings: str, active: str = 'active = "mine"') -> Files:
    return {"~/profiles.toml": f"{active}\n[profiles.mine]\n{settings}\n"}


NAMED = [
    {"prefect.toml": f'[api]\nurl = "{URL}"'},
    {"prefect.toml": f'[ api ]\nurl = "{URL}"'},
    {"prefect.toml": f'["api"]\n"url" = "{URL}"'},
    {"prefect.toml": f'api = {{ url = "{URL}" }}'},
    {"prefect.toml": f'api . url = "{URL}"'},
    {"prefect.toml": f"api.'url' = '{URL}'"},
    {"pyproject.toml": f'[tool.prefect.api]\nurl = "{URL}"'},
    {"pyproject.toml": f'[ tool . "prefect" ]\napi.url = "{URL}"'},
    {"pyproject.toml": f'[tool]\nprefect = {{ api = {{ url = "{URL}" }} }}'},
    {".env": f"PREFECT_API_URL={URL}"},
    {".env": f"# the team's\n export prefect_Api_url = '{URL}'"},
    {".env": f"'PREFECT_API_URL'={URL}"},
    {".env": f'PREFECT_API={{"url": "{URL}"}}'},
    profile(f'PREFECT_API_URL = "{URL}"'),
    profile(f'"PREFECT_API_URL"="{URL}"', active="\"active\" = 'mine'"),
    profile(f'PREFECT_API = \'{{"url": "{URL}"}}\''),
    {"~/profiles.toml": f'profiles = {{ mine.PREFECT_API_URL = "{URL}" }}\nactive="mine"'},
    {"~/profiles.toml": f'[profiles.ephemeral]\nPREFECT_API_URL = "{URL}"'},
    {
        "prefect.toml": 'profiles_path = "team.toml"',
        "team.toml": f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{URL}"',
    },
    {
        ".env": "PREFECT_PROFILES_PATH=team.toml",
        "team.toml": f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{URL}"',
    },
]
NOT_NAMED: list[Files] = [
    {},
    {"~/profiles.toml": 'active = "ephemeral"\n[profiles.ephemeral]'},
    {"~/profiles.toml": f'[profiles.other]\nPREFECT_API_URL = "{URL}"'},
    profile('PREFECT_LOGGING_LEVEL = "INFO"'),
    {"pyproject.toml": '[tool.ruff]\nsrc = ["api_url"]'},
    {"pyproject.toml": f'[tool.prefect.server.api]\nhost = "{URL}"'},
    {"prefect.toml": f'# api.url = "{URL}"\n[server.ui]\napi_url = "{URL}"'},
    {".env": f"# PREFECT_API_URL={URL}\nAPI_URL={URL}"},
]


def name_of(files: Files) -> str:
    return " ".join(f"{name}: {text}" for name, text in files.items()) or "nothing"


@pytest.mark.parametrize("files", NAMED, ids=name_of)
def test_every_spelling_of_an_api_is_found(files: Files, asked: list[str]) -> None:
    place(files)
    assert is_configured()
    assert asked == ["asked"]


@pytest.mark.parametrize("files", NOT_NAMED, ids=name_of)
def test_prefect_is_not_asked_where_no_api_is_mentioned(files: Files, asked: list[str]) -> None:
    place(files)
    assert not is_configured()
    assert asked == []


def value_in_prefect(folder: Path) -> str:
    """The address that Prefect itself reads in a folder, in a process of its own."""
    program = "from prefect.settings import PREFECT_API_URL; print(PREFECT_API_URL.value())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.process
@pytest.mark.parametrize(
    "files", [NAMED[3], NAMED[7], NAMED[10], NAMED[15], NOT_NAMED[2], NOT_NAMED[6]], ids=name_of
)
def test_answer_is_what_prefect_reads(files: Files, tmp_path: Path) -> None:
    place(files)
    assert (URL if files in NAMED else "None") == value_in_prefect(tmp_path)


@pytest.mark.parametrize("variable", ["PREFECT_API", "prefect_api_url"])
def test_prefect_is_asked_about_other_variables_that_it_reads(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], variable: str
) -> None:
    monkeypatch.setenv(variable, URL)
    assert is_configured()
    assert asked == ["asked"]


def test_address_in_the_environment_needs_no_prefect(
    monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", URL)
    assert is_configured()
    assert asked == []


def test_empty_address_in_the_environment_overrules_every_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place(NAMED[0])
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert not is_configured()
    assert value_in_prefect(tmp_path) == ""


@pytest.mark.parametrize("where", ["PREFECT_PROFILE", "~/profiles.toml"])
def test_prefect_is_asked_about_a_profile_that_is_not_in_the_file(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], where: str
) -> None:
    if where == "PREFECT_PROFILE":
        monkeypatch.setenv(where, "local")
    else:
        place({where: 'active = "local"'})
    assert is_configured()
    assert asked == ["asked"]


def test_profile_of_the_environment_overrules_the_active_one(
    monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    place(profile(f'PREFECT_API_URL = "{URL}"', active='active = "other"\n[profiles.other]'))
    assert not is_configured()
    monkeypatch.setenv("PREFECT_PROFILE", "mine")
    assert is_configured()
    assert asked == ["asked"]


@pytest.mark.parametrize(
    "files",
    [
        {"prefect.toml": "[api"},
        {"pyproject.toml": "tool = 1"},
        {"~/profiles.toml": "active = []\nprofiles = 1"},
        {".env": "\x80"},
    ],
    ids=name_of,
)
def test_file_that_cannot_be_understood_is_left_to_prefect(files: Files, asked: list[str]) -> None:
    for name, text in files.items():
        Path(name).write_text(text, encoding="latin-1")
    assert is_configured()
    assert asked == ["asked"]


def test_settings_that_prefect_cannot_read_are_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Setting:
        def value(self) -> str:
            raise ValueError("prefect.toml: invalid TOML")

    place({"prefect.toml": "[api"})
    monkeypatch.setattr("prefect.settings.PREFECT_API_URL", Setting())
    with pytest.raises(ServerError, match=r"Received: ValueError: prefect\.toml: invalid TOML"):
        is_configured()


def test_settings_that_prefect_cannot_read_are_named_without_their_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Setting:
        def value(self) -> float:
            return TypeAdapter(dict[str, float]).validate_python({"timeout": "sekrit"})["timeout"]

    place({"prefect.toml": "[api"})
    monkeypatch.setattr("prefect.settings.PREFECT_API_URL", Setting())
    with pytest.raises(ServerError, match="timeout: Input should be a valid number") as error:
        is_configured()
    assert "sekrit" not in "".join(format_exception(error.value))


SERVER_OF_ITS_OWN = f"""
import os
from tasks.server.configured import is_configured, read_environment_again
from prefect.settings import PREFECT_API_URL
assert not is_configured()
os.environ["PREFECT_API_URL"] = "{URL}"
read_environment_again()
print(PREFECT_API_URL.value())
"""


@pytest.mark.process
def test_own_server_is_used_where_prefect_was_asked_and_named_none() -> None:
    place({"prefect.toml": "[api]\nrequest_timeout = 30"})
    done = subprocess.run(
        [sys.executable, "-c", SERVER_OF_ITS_OWN], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == URL


def test_server_that_accepts_and_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.server.configured.CHECK_TIMEOUT_SECONDS", 0.2)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(ServerError, match=url),
        ):
            wait_for_configured_server(said.append, timeout_seconds=0.5)
    assert [f"waiting for the Prefect server at {url}"] == said


class Guarded(BaseHTTPRequestHandler):
    """A server that lets in whoever logs in as `me:word:s`."""

    def do_GET(self) -> None:
        login = base64.b64encode(b"me:word:s").decode()
        open_to_all = self.path.endswith("/health")
        let_in = open_to_all or self.headers.get("Authorization") == f"Basic {login}"
        self.send_response(200 if let_in else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def guarded() -> Iterator[str]:
    """Where that server listens: host and port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


WAITS = """
import os
from tasks.errors import ServerError
from tasks.server.configured import wait_for_configured_server
try:
    wait_for_configured_server(print, timeout_seconds=5.0)
except ServerError as error:
    print(error)
else:
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
    print("let in", PREFECT_API_URL.value(), PREFECT_UI_URL.value())
"""


def waits_for(address: str, stack: Path, **environment: str) -> str:
    """What a process says that waits for a server."""
    told = {"PREFECT_API_URL": address, "PIPELINE_STACK_DIR": str(stack), **environment}
    done = subprocess.run(
        [sys.executable, "-c", WAITS],
        env={**os.environ, **told},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.process
def test_password_in_the_address_is_used_and_never_shown(guarded: str, tmp_path: Path) -> None:
    said = waits_for(f"http://me:word%3As@{guarded}/api", tmp_path)
    assert said == f"let in http://{guarded}/api http://{guarded}"


@pytest.mark.process
def test_missing_password_is_told_by_the_variable_that_it_belongs_in(
    guarded: str, tmp_path: Path
) -> None:
    said = waits_for(f"http://{guarded}/api", tmp_path / "none")
    assert "Received: 401 without a password in PREFECT_API_AUTH_STRING" in said
    assert said.endswith(
        "Set PREFECT_API_AUTH_STRING to the server's PREFECT_SERVER_API_AUTH_STRING."
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.process
def test_wrong_password_of_the_projects_server_is_told_by_where_the_right_one_lies(
    guarded: str, tmp_path: Path
) -> None:
    open_stack(tmp_path, {"PREFECT_SERVER_API_PORT": guarded.rpartition(":")[2]})
    said = waits_for(f"http://{guarded}/api", tmp_path, PREFECT_API_AUTH_STRING="me:mistyped")
    assert "Received: 401 with the password in PREFECT_API_AUTH_STRING" in said
    assert said.endswith(f"which stands in {tmp_path}/server.env.")
    assert "mistyped" not in said
