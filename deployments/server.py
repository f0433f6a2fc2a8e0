"""`python -m deployments.server`: Prefect's server, its UI and its services in one process.

With `--no-services`, these run elsewhere, and the settings alone say what it is to do.

Five things differ from `prefect server start`. With SQLite, transactions take turns (see
tasks/server/sqlite.py). The UI sends whoever is not logged in to `pages/log-in.html`, where Prefect
shows its pages with errors on them. Its lists open at a click. And the newer of Prefect's two UIs
is not offered: it tells a company's server about each visit. What else needs no password, or could
wait for one for ever, is closed (see tasks/server/gate.py).
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import prefect
import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import (
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
    PREFECT_SERVER_LOGGING_LEVEL,
    PREFECT_SERVER_UI_STATIC_DIRECTORY,
)

from tasks.errors import PipelineError
from tasks.server import sqlite
from tasks.server.gate import Gate
from tasks.server.home import open_stack
from tasks.terminal.streams import on_any_streams

PAGES = Path(__file__).with_name("pages")
GATE = '<script src="/log-in.js"></script>'


@on_any_streams
def main(arguments: list[str]) -> None:
    """Serve until a signal comes; ends with status 1 if that cannot be."""
    alone = arguments == ["--no-services"]
    try:
        with nullcontext() if alone else open_stack().serving():
            serve(webserver_only=alone)
    except PipelineError as error:
        sys.exit(f"failed {error}")


def serve(*, webserver_only: bool) -> None:
    """Serve as Prefect's settings say."""
    sqlite.take_turns()
    prefect.__ui_v2_static_path__ = Path(os.devnull) / "not here"
    app = create_app(final=True, webserver_only=webserver_only)
    gate_pages(Path(PREFECT_SERVER_UI_STATIC_DIRECTORY.value()) / "v1")
    host, port = PREFECT_SERVER_API_HOST.value(), PREFECT_SERVER_API_PORT.value()
    level = PREFECT_SERVER_LOGGING_LEVEL.value().lower()
    uvicorn.run(Gate(app), host=host, port=port, log_level=level)


def gate_pages(folder: Path) -> None:
    """Let the UI in this folder, which Prefect has copied there, ask for the password first."""
    shutil.copytree(PAGES, folder, dirs_exist_ok=True)
    index = folder / "index.html"
    text = index.read_text()
    if GATE not in text:
        index.write_text(text.replace("<head>", f"<head>{GATE}", 1))


if __name__ == "__main__":
    main(sys.argv[1:])
