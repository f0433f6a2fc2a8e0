"""Headless Chromium, Debian's: what a person sees of Prefect's UI and of the reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Route, sync_playwright

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


class ChromiumMissingError(Exception):
    """There is no browser to look with."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of one's own, with a new profile.

    Raises:
        ChromiumMissingError: none is installed.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise ChromiumMissingError(
            "The tests in the browser need Chromium. Received: no `chromium` (on the PATH). "
            "Install it, on Debian with `apt-get install --no-install-recommends chromium`."
        )
    # Chromium refuses to sandbox the pages of root.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(
    browser: Browser, width: int = 1280, height: int = 900, scheme: Scheme = "light"
) -> Iterator[tuple[Page, list[str]]]:
    """A new window that reaches nothing but this machine; also yields what it asked for."""
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        if urlsplit(route.request.url).hostname in ("127.0.0.1", "localhost"):
            route.continue_()
        else:
            route.abort()

    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB"
    )
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    try:
        page = context.new_page()
        page.route("**/*", answer)
        yield page, asked
    finally:
        context.close()
