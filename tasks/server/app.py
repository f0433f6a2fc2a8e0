"""Prefect's server as each of ours runs it, with two of its faults made good.

Several processes write to one SQLite database. A transaction that reads first and writes later
fails at once, without waiting, when another process has written in between: "database is locked".
Prefect's transactions are of that kind; its server then refuses requests and drops events.

And it does something for whoever has no password: its description of the API has pages without
one, whose scripts come from elsewhere, and a websocket, which sends the password in its first
message, may wait for ever without sending one.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLOSED = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
FIRST_MESSAGE_SECONDS = 10.0  # Prefect's clients send it at once, on a busy machine too
POLICY_VIOLATION = 1008


def make_app(**options: Any) -> Gate:
    """The app. From now on, each transaction waits up to 60 s for its turn before it reads."""
    begin = AioSqliteConfiguration.begin_transaction
    AioSqliteConfiguration.begin_transaction = (  # type: ignore[method-assign]
        lambda self, session, **_: begin(self, session, with_for_update=True)
    )
    return Gate(create_app(**options))


class Gate:
    """An app that is asked before the server's own."""

    def __init__(self, app: ASGIApp, seconds: float = FIRST_MESSAGE_SECONDS) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or look after one websocket."""
        if scope["type"] == "http" and scope["path"] in CLOSED:
            await Response(status_code=HTTPStatus.NOT_FOUND)(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.app(scope, self._in_time(receive, send), send)
        else:
            await self.app(scope, receive, send)

    def _in_time(self, receive: Receive, send: Send) -> Receive:
        """Receive as before, but let the first messages, a connection and a password, not wait."""
        at_first = iter([self.seconds, self.seconds])

        async def received() -> Message:
            try:
                return await asyncio.wait_for(receive(), next(at_first, None))
            except TimeoutError:
                await send({"type": "websocket.close", "code": POLICY_VIOLATION})
                return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}

        return received
