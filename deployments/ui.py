"""`make ui`: Prefect's pages in a browser, logged in; the server is started if there is none.

The browser gets a link that works once: http://127.0.0.1:PORT/TOKEN, answered by this process,
leads to `pages/log-in.html` of the server with the password behind a `#`. What stands there is sent
to nobody, and is neither printed nor kept in the browser's history.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import urlencode

from deployments.commands import ROOT, SERVER, command, server_environment
from tasks.errors import ServerError
from tasks.server.configured import wait_until_healthy
from tasks.server.home import AUTH, SERVER_FILE, Stack

START_SECONDS = 120.0  # a new database takes ten, or more
LINK_SECONDS = 600.0


def show_ui(stack: Stack) -> int:
    """Open the pages; with a server of this command's own, until that ends. The exit status."""
    with one_time_link(stack) as (link, used):
        if stack.serves:
            _show(stack, link)
            used.wait(LINK_SECONDS)
            return 0
        environment = server_environment(stack)
        with subprocess.Popen(command(SERVER), env=environment, cwd=ROOT) as server:
            try:
                _show(stack, link, lambda: server.poll() is not None)
                print("The server runs until Ctrl-C.", flush=True)
                return server.wait()
            except KeyboardInterrupt:  # which the server has got as well
                return server.wait()
            except BaseException:
                server.terminate()
                raise


@contextmanager
def one_time_link(stack: Stack) -> Iterator[tuple[str, Event]]:
    """A link that logs one browser in, and whether it has."""
    path, used = f"/{secrets.token_urlsafe(24)}", Event()
    password = base64.b64encode(stack.server[AUTH].encode()).decode()
    target = f"{stack.pages}/log-in.html#{urlencode({'password': password})}"

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if used.is_set() or not hmac.compare_digest(self.path, path):
                self.send_error(HTTPStatus.NOT_FOUND, "This link has been used.")
                return
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", target)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            used.set()

        def log_message(self, *_: object) -> None:
            """Say nothing: it would be the link."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{path}", used
        finally:
            server.shutdown()


def _show(stack: Stack, link: str, has_ended: Callable[[], bool] = lambda: False) -> None:
    """Once the server answers, open the link where there is a screen; in any case, print it."""
    if problem := wait_until_healthy(stack.api_url, START_SECONDS, has_ended):
        raise ServerError(
            "The stack's server must start.",
            received=problem,
            where=stack.api_url,
            advice="Read what it says above, or run `make server` by itself.",
        )
    print(f"UI        {stack.pages}")
    print(f"log in    {link}")
    print("          works once, on this machine. From elsewhere, use the value of")
    print(f"          {AUTH} in {stack.folder / SERVER_FILE}", flush=True)
    if sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        webbrowser.open(link)
