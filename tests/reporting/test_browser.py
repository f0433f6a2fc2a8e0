"""What a person sees in Chromium: runs and artifacts in Prefect's UI, and a run's own report.

One server and one browser serve the whole module. Windows reach nothing but this machine.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from browser import (
    FOREIGN,
    GENERATIONS,
    HOSTILE_NAMES,
    ChromiumMissingError,
    Scheme,
    chromium,
    open_artifact,
    open_run,
    open_stages,
    picture_widths,
    window,
)
from builders import STAGES, Arrays, stripes
from playwright.sync_api import Browser, Page, expect
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from programs import client_of, environment_in, folders_in, prefect_server_in, run_program

pytestmark = pytest.mark.stack

WIDE, NARROW = 1280, 390
# Of the report of a run that looked for doubtful labels: by section.
PICTURES = {
    "trend": 1,
    "confusion": 1,
    "reliability": 1,
    "mistakes": 1,
    "suspects": 1,
    "curves": 1,
    "data": 3,
}
LEAST_CONTRAST = 4.5  # of text to its background: WCAG 2.2, level AA
# By what stands where: the colours of text and of the nearest background behind it.
COLOURS = """
selectors => selectors.map(selector => {
  const element = document.querySelector(selector);
  let behind = element;
  const clear = colour => colour === 'rgba(0, 0, 0, 0)';
  while (clear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const numbers = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
  return [numbers(getComputedStyle(element).color),
          numbers(getComputedStyle(behind).backgroundColor)];
})
"""


@dataclass(frozen=True)
class Seen:
    """What there is to look at: a server with two runs on `stripes`, and a failed one.

    `first` and `summary` are what --json said of the first and the second run.
    """

    url: str
    first: dict[str, Any]
    summary: dict[str, Any]
    hostile: dict[str, Any]
    failed_id: str
    failed_report: Path

    @property
    def accuracy(self) -> str:
        return f"{self.summary['accuracy']:.4f}"


@pytest.fixture(scope="module")
def seen(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("seen")
    home = shutil.copytree(prepared_home, folder / "prefect")
    with prefect_server_in(home) as url:
        environment = {**environment_in(home), "PREFECT_API_URL": url}

        def run_on(
            name: str, arrays: Mapping[str, np.ndarray], *options: str, status: int = 0
        ) -> dict[str, Any]:
            np.savez(folder / f"{name}.npz", **arrays)
            dataset = ["--dataset", str(folder / f"{name}.npz"), "--json"]
            command = [*dataset, *folders_in(folder), *options]
            return dict(json.loads(run_program(command, environment, status=status).stdout))

        first = run_on("stripes", stripes(), "--epochs", "3")
        second = run_on("stripes", stripes(), "--epochs", "2", "--label-suspects")
        hostile = run_on("hostile", named_with(HOSTILE_NAMES), "--epochs", "1")
        run_on("doubled", doubled(), "--severity", "duplicates=error", status=1)
        (report,) = (folder / "models" / "reports").glob("*-doubled-*.html")
        yield Seen(url, first, second, hostile, run_named(url, "doubled-"), report)


def named_with(names: Sequence[str]) -> dict[str, np.ndarray]:
    """A class for each name, of which each split has three images."""
    labels = np.repeat(np.array(names), 3)
    images = np.random.default_rng(0).integers(0, 256, (2, len(labels), 8, 8), np.uint8)
    return {"x_train": images[0], "y_train": labels, "x_test": images[1], "y_test": labels}


def doubled() -> Arrays:
    """Two training images occur again, in rows 21 and 24."""
    arrays = stripes()
    arrays["x_train"][[21, 24]] = arrays["x_train"][18]
    return arrays


def run_named(url: str, start: str) -> str:
    """The number of the one run whose name starts so."""
    with client_of(url) as client:
        (found,) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_=start))
        )
    return str(UUID(str(found.id)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    """Both generations of Prefect's UI."""
    return str(request.param)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window high enough that nothing is left out until it is scrolled to."""
    with window(browser, height=3000) as (page, _):
        yield page


def test_missing_chromium_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(ChromiumMissingError, match="apt-get install"), chromium():
        pass


# --- Prefect's UI ------------------------------------------------------------------------------


def test_run_page_shows_every_stage_completed(seen: Seen, page: Page, generation: str) -> None:
    open_run(page, seen.url, seen.first["flow_run_id"], generation)
    open_stages(page)

    for stage in STAGES:
        expect(page.get_by_role("link", name=stage, exact=True)).to_be_visible()
    expect(page.get_by_text(f"({len(STAGES)} Completed)")).to_be_visible()


def test_run_page_shows_the_log(seen: Seen, page: Page, generation: str) -> None:
    open_run(page, seen.url, seen.first["flow_run_id"], generation)

    for text in ("epoch 1/3", "epoch 3/3", "on 33 test images", "checks passed, 0 warnings"):
        expect(page.get_by_text(text).first).to_be_visible()
    reasons = {"first run": len(STAGES) - 2, "always runs": 2}  # what fetch and publish say
    for reason, count in reasons.items():
        finished = page.get_by_text(f"Finished in state Completed('{reason}')")
        expect(finished).to_have_count(count)


def test_evaluation_shows_the_accuracy_and_its_pictures(
    seen: Seen, page: Page, generation: str
) -> None:
    open_artifact(page, seen.url, "stripes-evaluation", generation)

    expect(page.get_by_role("heading", name=f"stripes: accuracy {seen.accuracy}")).to_be_visible()
    expect(page.get_by_role("cell", name="95 % interval")).to_be_visible()
    count = sum(PICTURES.values()) - PICTURES["data"]
    assert min(picture_widths(page, count)) > 0


def test_accuracy_is_shown_against_the_earlier_run(seen: Seen, page: Page, generation: str) -> None:
    open_artifact(page, seen.url, "stripes-accuracy", generation)

    expect(page.get_by_role("heading", name=f"stripes: accuracy {seen.accuracy}")).to_be_visible()
    change = seen.summary["accuracy"] - seen.first["accuracy"]
    caption = f"This run after 1 earlier of mlp on stripes: {change:+.4f}"
    expect(page.get_by_text(caption, exact=True)).to_be_visible()
    assert [640] == picture_widths(page, 1)


def test_validation_shows_what_the_data_looks_like(seen: Seen, page: Page, generation: str) -> None:
    open_artifact(page, seen.url, "stripes-validation", generation)

    expect(page.get_by_role("heading", name="Validation of stripes")).to_be_visible()
    assert min(picture_widths(page, PICTURES["data"])) > 0


def test_table_of_the_classes_is_shown(seen: Seen, page: Page, generation: str) -> None:
    open_artifact(page, seen.url, "stripes-per-class", generation)

    for column in ("precision", "recall", "F1"):
        expect(page.get_by_text(column, exact=True).first).to_be_visible()


def test_hostile_names_are_shown_as_they_are_written(
    seen: Seen, browser: Browser, generation: str
) -> None:
    """On every page of Prefect's that has them, and in the report."""
    for kind in ("evaluation", "validation", "accuracy", "per-class"):
        with window(browser, height=3000) as (page, asked):
            open_artifact(page, seen.url, f"hostile-{kind}", generation)
            if kind == "evaluation":
                expect(page.get_by_text(HOSTILE_NAMES[0]).first).to_be_visible()
            require_harmless(page, asked)
    with window(browser, height=3000) as (page, asked):
        page.goto(f"{seen.url.removesuffix('/api')}{GENERATIONS[generation]}/artifacts")
        expect(page.get_by_text("hostile-evaluation").first).to_be_visible()
        require_harmless(page, asked)
    with window(browser, height=3000) as (page, asked):
        open_run(page, seen.url, seen.hostile["flow_run_id"], generation)
        require_harmless(page, asked)
    with window(browser, height=3000) as (page, asked):
        page.goto(Path(seen.hostile["report_path"]).as_uri())
        expect(page.get_by_text(HOSTILE_NAMES[0]).first).to_be_visible()
        require_harmless(page, asked)


def require_harmless(page: Page, asked: list[str]) -> None:
    """Nothing was asked of another machine, and no link runs a script or hides where it leads.

    Logs, and all of the newer UI, make links of addresses that can be read.
    """
    assert [address for address in asked if FOREIGN in address] == []
    script = "found => found.map(element => [element.src ?? element.href, element.innerText])"
    pictures = page.eval_on_selector_all("img", script)
    links = page.eval_on_selector_all("a[href]", script)
    assert [source for source, _ in pictures if FOREIGN in source] == []
    assert [to for to, text in links if FOREIGN in to and FOREIGN not in text] == []
    assert [to for to, _ in links if to.startswith("javascript:")] == []


def test_failed_run_shows_the_stage_and_the_reason(seen: Seen, page: Page, generation: str) -> None:
    open_run(page, seen.url, seen.failed_id, generation)

    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    expect(page.get_by_text("1 of 27 checks failed for doubled").first).to_be_visible()
    open_stages(page)
    expect(page.get_by_role("link", name="validate", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile("1 failed", re.IGNORECASE))).to_be_visible()
    expect(page.get_by_role("link", name="train", exact=True)).to_have_count(0)


def test_failed_validation_shows_its_checks_and_the_images(
    seen: Seen, page: Page, generation: str
) -> None:
    open_artifact(page, seen.url, "doubled-validation", generation)

    expect(page.get_by_role("heading", name="Validation of doubled: failed")).to_be_visible()
    cell = page.get_by_role(
        "cell", name="no image occurs again in its split; found: 2 of 60 images"
    )
    expect(cell).to_be_visible()
    expect(page.get_by_role("cell", name="21, 24", exact=True)).to_be_visible()
    expect(page.get_by_role("cell", name="skipped: an earlier tier failed").first).to_be_visible()
    (width,) = picture_widths(page, 1)
    assert width > 0


# --- the report of a run -----------------------------------------------------------------------


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> Scheme:
    chosen: Scheme = request.param
    return chosen


@pytest.fixture
def report(
    seen: Seen, browser: Browser, width: int, scheme: Scheme
) -> Iterator[tuple[Page, list[str]]]:
    """The report of the second run, without a network, and what it asked for."""
    with window(browser, width, scheme=scheme) as (page, asked):
        page.context.set_offline(True)
        page.goto(Path(seen.summary["report_path"]).as_uri())
        yield page, asked


def test_report_needs_nothing_but_its_file(seen: Seen, report: tuple[Page, list[str]]) -> None:
    page, asked = report
    page.wait_for_load_state("networkidle")

    assert [Path(seen.summary["report_path"]).as_uri()] == [
        url for url in asked if not url.startswith("data:")
    ]


def test_report_shows_the_accuracy_and_every_picture(
    seen: Seen, report: tuple[Page, list[str]]
) -> None:
    page, _ = report

    expect(page.get_by_role("heading", name=f"stripes: accuracy {seen.accuracy}")).to_be_visible()
    widths = picture_widths(page, sum(PICTURES.values()))
    assert len(widths) == page.locator("img").count()
    assert min(widths) > 0


def test_report_fits_the_window(report: tuple[Page, list[str]], width: int) -> None:
    page, _ = report

    assert width == page.evaluate("innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = page.eval_on_selector_all("img", "images => images.map(image => image.clientWidth)")
    assert min(shown) > 0.7 * min(width, WIDE / 2)  # as wide as a column, or the window


def luminance(colour: list[float]) -> float:
    """Relative luminance of an sRGB colour 0 … 255, from 0 to 1: WCAG 2.2."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_report_keeps_to_the_colour_scheme_and_is_legible(
    report: tuple[Page, list[str]], scheme: Scheme
) -> None:
    page, _ = report

    for text, background in page.evaluate(
        COLOURS, ["h1", "h2", "p", "dt", "th", "td", "figcaption"]
    ):
        low, high = sorted([luminance(text), luminance(background)])
        assert (high + 0.05) / (low + 0.05) >= LEAST_CONTRAST
        assert (luminance(background) > 0.5) == (scheme == "light")


def test_report_of_a_failed_validation_shows_the_images(
    seen: Seen, browser: Browser, width: int, scheme: Scheme
) -> None:
    with window(browser, width, scheme=scheme) as (page, _):
        page.context.set_offline(True)
        page.goto(seen.failed_report.as_uri())

        expect(page.get_by_role("heading", name="Validation of doubled: failed")).to_be_visible()
        (natural_width,) = picture_widths(page, 1)
        assert natural_width > 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
