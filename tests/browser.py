"""Headless Chromium, Debian's: what a person sees of Prefect's UI and of the reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID

from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from programs import client_of

Scheme = Literal["light", "dark"]

PATIENCE_MILLISECONDS = 60_000
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Prefect 3.8 serves two generations of its UI, and a person may use either.
GENERATIONS = {"V1": "", "V2": "/v2"}


class ChromiumMissingError(Exception):
    """There is no browser to look with."""


# Of classes, files or members of an archive: what a page could take for something else.
FOREIGN = "evil.example"
HOSTILE_NAMES = (
    f"![x](http://{FOREIGN}/a.png)",
    "[click](javascript:alert(1))",
    f"<img src=http://{FOREIGN}/b onerror=alert(1)>",
    f"<http://{FOREIGN}/c>",
    f"\\![x](http://{FOREIGN}/d.png)",
    f"![x][y] [y]: http://{FOREIGN}/e",
    "a | b || c",
    "`code` ``c``",
    "*a* **b** _c_ __d__ ~~e~~ \\",
    "&lt;img&gt; &amp;",
    "two\n\nlines\r\n# and a heading",
    f"https://{FOREIGN}/f www.{FOREIGN} a@{FOREIGN}",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own.

    Raises:
        ChromiumMissingError: none is installed.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise ChromiumMissingError(
            "Chromium is needed to look at pages. Received: no `chromium` (on the PATH). "
            "Install it, on Debian with `apt-get install --no-install-recommends chromium`."
        )
    # Chromium refuses to put the pages of root into a sandbox.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(
    browser: Browser,
    width: int = 1280,
    height: int = 900,
    scheme: Scheme = "light",
    home: str | None = None,
) -> Iterator[tuple[Page, list[str]]]:
    """A new window that reaches nothing but this machine; also yields what it asks for.

    Addresses without a host are below `home`.
    """
    asked: list[str] = []

    def answer(route: Route) -> None:
        url = urlsplit(route.request.url)
        asked.append(route.request.url)
        if url.scheme == "file" or url.hostname == "127.0.0.1":
            route.continue_()
        else:
            route.abort()

    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        locale="en-GB",
        base_url=home,
    )
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        page.route("**/*", answer)
        yield page, asked
    finally:
        context.close()


def open_run(page: Page, url: str, run_id: str, generation: str = "V2") -> None:
    """Show a run's page, its log open. `url` is that of the server's API."""
    page.goto(f"{url.removesuffix('/api')}{GENERATIONS[generation]}/runs/flow-run/{run_id}")
    expect(page.get_by_text("Beginning flow run")).to_be_visible()


def open_stages(page: Page) -> None:
    """From a run's page, go on to the list of its stages."""
    page.get_by_text("Task Runs", exact=True).click()
    expect(page.get_by_role("link", name="load", exact=True)).to_be_visible()


def open_artifact(page: Page, url: str, key: str, generation: str = "V2") -> None:
    """Show the newest artifact of a key. `url` is that of the server's API."""
    artifact = newest_artifact(url, key)
    page.goto(f"{url.removesuffix('/api')}{GENERATIONS[generation]}/artifacts/artifact/{artifact}")
    expect(page.get_by_role("link", name=key).first).to_be_visible()


def newest_artifact(url: str, key: str) -> UUID:
    """The number of the newest artifact of a key."""
    with client_of(url) as client:
        (artifact,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    return artifact.id


def picture_widths(page: Page, count: int) -> list[int]:
    """The natural widths of a report's so many pictures, in pixels; 0 of what is not a picture."""
    expect(page.locator("img[src^='data:image/']")).to_have_count(count)
    page.wait_for_function("[...document.images].every(image => image.complete)")
    widths: list[int] = page.eval_on_selector_all(
        "img[src^='data:image/']", "images => images.map(image => image.naturalWidth)"
    )
    return widths
