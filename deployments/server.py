"""`python -m deployments.server`: Prefect's server, its UI and its services in one process.

With `--no-services`, these run elsewhere, and the settings alone say what it is to do.

Four things differ from `prefect server start`. The app is that of tasks/server/app.py. The UI sends
whoever is not logged in to `pages/log-in.html`, where Prefect shows its pages with errors on them.
Its lists open at a click. And the newer of Prefect's two UIs is not offered: it tells a company's
server about each visit.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import prefect
import uvicorn
from prefect.settings import get_current_settings

from tasks.errors import PipelineError
from tasks.server.app import make_app
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
    prefect.__ui_v2_static_path__ = Path(os.devnull) / "not here"
    app = make_app(final=True, webserver_only=webserver_only)
    told = get_current_settings().server
    assert told.ui.static_directory, "said by whoever starts this"
    gate_pages(Path(told.ui.static_directory) / "v1")
    level = told.logging_level.lower()
    uvicorn.run(app, host=told.api.host, port=told.api.port, log_level=level)


def gate_pages(folder: Path) -> None:
    """Let the UI in this folder, which Prefect has copied there, ask for the password first."""
    shutil.copytree(PAGES, folder, dirs_exist_ok=True)
    index = folder / "index.html"
    text = index.read_text()
    if GATE not in text:
        index.write_text(text.replace("<head>", f"<head>{GATE}", 1))


if __name__ == "__main__":
    main(sys.argv[1:])
