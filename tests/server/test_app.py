"""What the server does for whoever has no password: what is stated, and nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.server.api.server import create_app
from prefect.settings import (
    PREFECT_SERVER_API_AUTH_STRING,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_UI_ENABLED,
    temporary_settings,
)
from starlette.types import ASGIApp, Message

from tasks.server.app import Gate

STATED = {("get", "/api/health"), ("get", "/api/ready"), ("get", "/ui-settings")}
CHANNELS = [
    "/api/events/in",
    "/api/events/out",
    "/api/logs/out",
    "/api/task_runs/subscriptions/scheduled",
]
SOON_SECONDS, HANG_SECONDS = 0.1, 30.0


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ASGIApp]:
    """Prefect's server without its services and without its UI's files; nothing is started."""
    database = tmp_path_factory.mktemp("gate") / "prefect.db"
    told = {
        PREFECT_SERVER_API_AUTH_STRING: "operator:word",
        PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{database}",
        PREFECT_SERVER_UI_ENABLED: False,
    }
    with temporary_settings(told):
        yield create_app(ignore_cache=True)


def answers(app: ASGIApp, asked: set[tuple[str, str]]) -> dict[tuple[str, str], httpx.Response]:
    """What a stranger is answered, by method and path."""

    async def ask() -> dict[tuple[str, str], httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as stranger:
            return {each: await stranger.request(*each) for each in asked}

    return asyncio.run(ask())


def routes(app: ASGIApp) -> set[tuple[str, str]]:
    """All that the server says it has, with something in each place of a path."""
    (described,) = answers(app, {("get", "/openapi.json")}).values()
    return {
        (method, "/api" + re.sub(r"\{[^}]*\}", str(UUID(int=1)), path))
        for path, known in described.json()["paths"].items()
        for method in known
    }


def test_only_what_is_stated_answers_without_the_password(app: ASGIApp) -> None:
    asked = routes(app)
    assert len(asked) > 100
    found = answers(Gate(app), asked | STATED).items()
    assert STATED == {route for route, answer in found if answer.status_code != 401}


def test_pages_about_the_api_are_closed(app: ASGIApp) -> None:
    pages = ["/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"]
    found = answers(Gate(app), {(method, page) for method in ("get", "head") for page in pages})
    assert {404} == {answer.status_code for answer in found.values()}


def conversation(app: ASGIApp, channel: str, *messages: tuple[float, str]) -> list[Message]:
    """What the server sends to a websocket that sends these messages, each after some seconds."""
    sent: list[Message] = []

    async def talk() -> None:
        inbox: asyncio.Queue[Message] = asyncio.Queue()
        inbox.put_nowait({"type": "websocket.connect"})
        for seconds, text in messages:
            message = {"type": "websocket.receive", "text": text}
            asyncio.get_running_loop().call_later(seconds, inbox.put_nowait, message)

        async def send(message: Message) -> None:
            sent.append(message)

        scope: dict[str, Any] = {"type": "websocket", "path": channel, "query_string": b""}
        scope |= {"headers": [(b"sec-websocket-protocol", b"prefect")], "root_path": ""}
        await asyncio.wait_for(Gate(app, SOON_SECONDS)(scope, inbox.get, send), HANG_SECONDS)

    asyncio.run(talk())
    return sent


@pytest.mark.parametrize("channel", CHANNELS)
def test_websocket_that_never_sends_the_password_is_closed(app: ASGIApp, channel: str) -> None:
    accepted, closed = conversation(app, channel)
    assert accepted["type"] == "websocket.accept"
    assert closed == {"type": "websocket.close", "code": 1008}


def test_websocket_that_has_sent_the_password_may_wait(app: ASGIApp) -> None:
    password = 0.0, '{"type": "auth", "token": "operator:word"}'
    later = 3 * SOON_SECONDS, '{"type": "something else"}'
    _, success, closed = conversation(app, "/api/events/out", password, later)
    assert success["text"] == '{"type":"auth_success"}'
    assert "filter" in closed["reason"]  # it was still listened to
