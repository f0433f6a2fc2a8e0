"""What Prefect's server does not do for whoever has no password, though Prefect's own checks would.

Its description of the API has pages without a password, whose scripts come from elsewhere. And a
websocket, which sends the password in its first message, may wait for ever without sending one.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLOSED = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
FIRST_MESSAGE_SECONDS = 10.0  # Prefect's clients send it at once, on a busy machine too
POLICY_VIOLATION = 1008


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
