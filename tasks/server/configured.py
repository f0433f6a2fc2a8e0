"""The Prefect server that the environment, a profile or a settings file names."""

from __future__ import annotations

import os
import re
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.errors import ServerError
from tasks.server import home

CHECK_TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 0.5
# The settings that can hold the address, in upper case; the second is a JSON object.
API_VARIABLES = {"PREFECT_API_URL", "PREFECT_API"}
DOTENV_MENTION = re.compile(
    r"^(?!\s*#).*\bPREFECT_(API|API_URL|PROFILES_PATH)\b", re.IGNORECASE | re.MULTILINE
)


def is_configured() -> bool:
    """Whether a Prefect API is named in any of the places that Prefect reads.

    Prefect itself decides. It is asked only when one of these places mentions an API at
    all, or cannot be understood: importing it takes longer than everything else here.
    Raises ServerError when it cannot read its settings.
    """
    if "PREFECT_API_URL" in os.environ:  # before all other places, even when it is empty
        return bool(os.environ["PREFECT_API_URL"])
    with suppress(OSError, ValueError, TypeError, AttributeError):  # Prefect will say so
        if not _is_mentioned():
            return False
    try:
        return bool(_url())
    except Exception as error:  # noqa: BLE001 - whatever a setting's value makes of it
        raise ServerError(
            "Prefect must be able to read its settings.",
            received=f"{type(error).__name__}: {_without_values(error)}",
            advice="Fix the file or the variable that this names.",
        ) from None


def _without_values(error: Exception) -> str:
    """What pydantic says of settings, each with its name and not with its value."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def read_environment_again() -> None:
    """Let Prefect, where it had to be asked, notice what the environment has been set to since."""
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def wait_for_configured_server(on_waiting: Callable[[str], None], timeout_seconds: float) -> None:
    """Return when the configured server answers, and lets this process in. Raises ServerError.

    `on_waiting` is told once what is waited for, if the first try finds no answer.
    """
    _take_login_out_of_the_address()
    url = _url()
    if health_problem(url):
        on_waiting(f"waiting for the Prefect server at {url}")
        if problem := wait_until_healthy(url, timeout_seconds):
            raise ServerError(
                "The configured Prefect server must answer.",
                received=f"{problem}, for {timeout_seconds:.0f} s",
                where=url,
                advice="Start it with `prefect server start`, or unset PREFECT_API_URL "
                "to let the run bring up its own.",
            )
    _require_login(url)


def wait_until_healthy(
    url: str, timeout_seconds: float, has_ended: Callable[[], bool] = lambda: False
) -> str:
    """Return once a server answers, or will not; why it does not, empty when it does."""
    deadline = time.monotonic() + timeout_seconds
    while problem := health_problem(url):
        if has_ended() or time.monotonic() + PAUSE_SECONDS > deadline:
            break
        time.sleep(PAUSE_SECONDS)
    return problem


def _take_login_out_of_the_address() -> None:
    """What stands in the address is shown in logs and messages: no password may."""
    address = urlsplit(_url())
    if address.password is None:
        return
    login = f"{unquote(address.username or '')}:{unquote(address.password)}"
    host = address.netloc.rpartition("@")[2]
    os.environ[home.CLIENT_URL] = address._replace(netloc=host).geturl()
    os.environ.setdefault(home.CLIENT_AUTH, login)
    read_environment_again()


def _require_login(url: str) -> None:
    """Raise ServerError if the server wants a password that this process does not have."""
    import httpx
    from prefect.settings import PREFECT_API_AUTH_STRING

    login = PREFECT_API_AUTH_STRING.value() or ""
    user, _, password = login.partition(":")
    auth = (user, password) if login else None
    answer = httpx.get(f"{url}/admin/version", auth=auth, timeout=CHECK_TIMEOUT_SECONDS)
    if answer.status_code != HTTPStatus.UNAUTHORIZED:
        return
    stack = home.stack_folder()
    ours = stack.exists() and home.open_stack(stack).api_url == url
    raise ServerError(
        "The Prefect server must let this run in.",
        received=f"401 {'with the' if login else 'without a'} password in {home.CLIENT_AUTH}",
        where=url,
        advice=f"Set {home.CLIENT_AUTH} to the server's {home.AUTH}"
        + (f", which stands in {stack / home.SERVER_FILE}." if ours else "."),
    )


def lost_server(error: BaseException) -> ServerError | None:
    """What to say of an error that came up because the server went away; None for another."""
    import httpx

    if not isinstance(error, httpx.TransportError):
        return None
    return ServerError(
        "The Prefect server must answer until the run has ended.",
        received=f"{type(error).__name__}: {error}",
        where=_url(),
        advice="What the finished stages and epochs computed is kept: start the server again, "
        "then the run, which goes on from there.",
    )


def ui_url() -> str:
    """Where the configured server shows its UI."""
    from prefect.settings import PREFECT_UI_URL

    return str(PREFECT_UI_URL.value())


def _url() -> str:
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or ""


def health_problem(url: str) -> str:
    """Why the server does not answer; empty when it does. Without the retries of its client."""
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=CHECK_TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _is_mentioned() -> bool:
    """Whether one of the places that Prefect reads may name an API."""
    folder = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    if folder == home.stack_folder():  # whose profile names its server, whether that is up or not
        folder = Path(os.devnull)
    profiles = _toml(os.environ.get("PREFECT_PROFILES_PATH") or folder / "profiles.toml")
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active") or "ephemeral"
    # Prefect has profiles of its own. Of these, only the default one is known to name no server.
    own = {} if active == "ephemeral" else API_VARIABLES
    profile = profiles.get("profiles", {}).get(active, own)
    tables = _toml("prefect.toml"), _toml("pyproject.toml").get("tool", {}).get("prefect", {})
    return (
        not API_VARIABLES.isdisjoint(name.upper() for name in [*os.environ, *profile])
        or DOTENV_MENTION.search(_text(".env")) is not None
        or any("api" in table or "profiles_path" in table for table in tables)
    )


def _toml(path: str | Path) -> dict[str, Any]:
    return tomllib.loads(_text(path))


def _text(path: str | Path) -> str:
    path = Path(path)
    return path.read_text(encoding="utf-8") if path.is_file() else ""
