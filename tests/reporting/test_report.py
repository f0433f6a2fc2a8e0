"""The report of a run: one page that stands alone, and Markdown that Prefect can show."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from builders import store_dataset, tiny_arrays

from tasks.cache.blobs import Store
from tasks.learning.scores import score
from tasks.records import (
    BlobRef,
    CheckResult,
    EpochMetrics,
    ModelRef,
    StageRecord,
    Suspect,
    Suspects,
    ValidationReport,
)
from tasks.reporting import offenders
from tasks.reporting.pictures import LIMIT_BYTES
from tasks.reporting.rendering import Picture, Section, Table, html_page, markdown, trend
from tasks.reporting.report import RunReport, validation_section
from tasks.settings import RunSettings

VOID = {"meta", "img"}
HOSTILE = "<script>alert('x')</script> | \"&\n"
PICTURES = ("samples", "balance", "preprocessing", "curves", "confusion", "reliability", "mistakes")


class Page(HTMLParser):
    """What a browser would find in a page: elements that nest, attributes, texts by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def of(self, tag: str) -> list[str]:
        return [text for element, text in self.texts if element == tag]


@pytest.fixture
def report(store: Store) -> RunReport:
    dataset = store_dataset(tiny_arrays(), store)
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
    check = CheckResult(
        tier="rows",
        name="blank",
        subject="x_train",
        rule="no image is blank",
        severity="warning",
        outcome="failed",
        received=HOSTILE,
        rows=(3, 5),
        failing=7,
    )
    settings = RunSettings(dataset="tiny")
    return RunReport(
        settings=settings,
        plan=settings.plan,
        dataset=dataset,
        validation=ValidationReport(checks=(check,)),
        model=ModelRef(
            keras_file=BlobRef(sha256=64 * "b", size_bytes=9, suffix=".keras"),
            weights_sha256=64 * "c",
            parameters=50_890,
            history=(EpochMetrics(loss=0.5, accuracy_fraction=0.75),),
        ),
        metrics=score(probabilities, np.array([0, 1, 2, 0]), store.put_array(probabilities)),
        suspects=None,
        pictures={name: f"png of {name}".encode() for name in PICTURES},
        earlier=(),
        stages={"load": StageRecord(state="computed", seconds=0.25, why=HOSTILE)},
        run_name="tiny-run",
        run_id="1234",
        finished=datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC),
    )


def test_page_is_well_formed(report: RunReport) -> None:
    assert Page(report.html()).open == []


def test_page_loads_nothing(report: RunReport) -> None:
    page = Page(report.html())

    loaded = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert len(PICTURES) == len(loaded)
    assert all(str(value).startswith("data:image/png;base64,") for value in loaded)
    assert {"link", "script", "iframe", "object"} & {tag for tag, _ in page.elements} == set()
    assert re.findall(r"https?://|url\(|@import", report.html()) == []


def test_page_has_every_section(report: RunReport) -> None:
    expected = ["Classes", "Calibration", "Mistakes", "Training", "Data", "Validation"]
    expected += ["Stages", "Run", "Settings and arrays"]

    assert expected == Page(report.html()).of("h2")


def test_page_shows_doubtful_labels_where_they_were_looked_for(report: RunReport) -> None:
    suspects = Suspects(found=(Suspect(row=4711, label=0, suggested=2, quality=0.0625),), images=30)

    page = Page(report.model_copy(update={"suspects": suspects}).html())

    assert "Doubtful labels" in page.of("h2")
    assert {"4711", "0.0625"} <= set(page.of("td"))


def test_page_shows_the_sheet_of_the_validation(report: RunReport) -> None:
    with_sheet = report.model_copy(update={"pictures": {**report.pictures, "sheet": b"sheet"}})

    assert "Images that break a rule, some for each check" in Page(with_sheet.html()).of(
        "figcaption"
    )


def test_page_gives_the_accuracy_with_its_interval(report: RunReport) -> None:
    """3 of 4: Wilson's interval is 0.3006 to 0.9544."""
    texts = Page(report.html()).of("dd")

    assert texts[:2] == ["0.7500", "95 % interval 0.3006 to 0.9544, 4 test images"]


def test_page_names_libraries_and_digests(report: RunReport) -> None:
    text = " ".join(Page(report.html()).of("td"))

    for expected in ("Python 3.", "tensorflow 2.", "keras 3.", "numpy 2.", "prefect 3."):
        assert expected in text
    assert report.dataset.digest in text
    assert report.dataset.x_test.sha256 in text
    assert report.model.weights_sha256 in text


def test_page_shows_what_a_failed_check_found(report: RunReport) -> None:
    assert "3, 5 and 5 more" in Page(report.html()).of("td")


def test_texts_are_escaped(report: RunReport) -> None:
    """They come out as they were, and none is taken for a tag."""
    page = Page(report.html())

    assert "script" not in {tag for tag, _ in page.elements}
    assert HOSTILE in page.of("td")
    assert f"no image is blank; found: {HOSTILE}" in page.of("td")


@pytest.mark.parametrize("kind", ["title", "text", "cell", "picture"])
def test_hostile_text_is_escaped_wherever_it_stands(kind: str) -> None:
    sections = {
        "title": Section(HOSTILE),
        "text": Section("s", HOSTILE),
        "cell": Section("s", parts=[Table((HOSTILE,), [(HOSTILE,)])]),
        "picture": Section("s", parts=[Picture(HOSTILE, b"png")]),
    }

    page = Page(html_page(HOSTILE, [sections[kind]]))

    assert "script" not in {tag for tag, _ in page.elements}
    assert "<script" not in markdown(HOSTILE, [sections[kind]])


def test_markdown_cell_cannot_end_its_row() -> None:
    rows = markdown("t", [Section("s", parts=[Table(("a", "b"), [("x | y\nz", 1)])])])

    assert "| x \\| y z | 1 |" in rows


def test_accuracy_artifact_has_settings_data_and_run(report: RunReport) -> None:
    text = report.accuracy_markdown()

    assert text.startswith("# tiny: accuracy 0.7500\n")
    for expected in ("mlp, 50,890 parameters", "batch 100", 64 * "c", "tiny-run, 1234"):
        assert expected in text


def test_first_run_has_no_trend(report: RunReport) -> None:
    assert "svg" not in report.accuracy_markdown()


def test_later_run_is_shown_against_the_earlier_ones(report: RunReport) -> None:
    text = report.model_copy(update={"earlier": (0.5, 0.7)}).accuracy_markdown()

    assert "This run after 2 earlier on tiny: +0.0500" in text
    assert "](data:image/svg+xml;base64," in text


def svg(accuracies: list[float]) -> ET.Element:
    return ET.fromstring(trend(accuracies))  # noqa: S314 - our own


def points(accuracies: list[float]) -> list[tuple[float, float]]:
    (line,) = svg(accuracies).iter("{http://www.w3.org/2000/svg}polyline")
    return [
        (float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())
    ]


def test_trend_rises_with_the_accuracy() -> None:
    (_, first), (_, second), (_, third) = points([0.5, 0.9, 0.7])

    assert second < third < first  # upwards is less, in an SVG


def test_trend_of_equal_accuracies_is_level() -> None:
    assert {65.0} == {y for _, y in points([0.9751] * 4)}  # halfway between 18 and 112


def test_trend_labels_its_range_and_the_latest_accuracy() -> None:
    texts = [text.text for text in svg([0.5, 0.9, 0.75]).iter("{http://www.w3.org/2000/svg}text")]

    assert ["0.5000", "0.9000", "0.7500", "earlier runs", "this run"] == texts


def test_picture_in_markdown_has_its_caption_below() -> None:
    text = markdown("t", [Section("s", parts=[Picture("a trend", b"png")])])

    assert text.endswith("(data:image/png;base64,cG5n)\n\n*a trend*\n")


def test_table_without_a_header_is_a_list_in_markdown() -> None:
    text = markdown("t", [Section("s", parts=[Table(("", ""), [("run", 1), ("seed", 2)])])])

    assert text.endswith("- **run**: 1\n- **seed**: 2\n")


def test_validation_says_what_failed_before_everything_else(report: RunReport) -> None:
    failed, checks = validation_section(report.validation, None).parts

    assert isinstance(failed, Table)
    assert isinstance(checks, Table)
    what = f"no image is blank; found: {HOSTILE}"
    assert [("warning", "blank", what, "3, 5 and 5 more", "x_train")] == failed.rows
    assert [("rows", "blank", "no image is blank", "warning", "failed", "x_train")] == checks.rows


def test_arrays_with_the_same_outcome_share_a_row(report: RunReport) -> None:
    (check,) = report.validation.checks
    passed = {"outcome": "passed", "received": "", "rows": (), "failing": 0}
    both = [
        check.model_copy(update={"subject": subject, **passed}) for subject in ("x_train", "x_test")
    ]

    (checks,) = validation_section(ValidationReport(checks=tuple(both)), None).parts

    assert isinstance(checks, Table)
    assert ["x_train, x_test"] == [row[-1] for row in checks.rows]


def test_skipped_check_says_why(report: RunReport) -> None:
    (check,) = report.validation.checks
    skipped = check.model_copy(update={"outcome": "skipped", "received": "switched off"})

    (checks,) = validation_section(ValidationReport(checks=(skipped,)), None).parts

    assert isinstance(checks, Table)
    assert "skipped: switched off" in checks.rows[0]


def test_full_pictures_fit_into_an_artifact(report: RunReport) -> None:
    """Each as large as may be, and 256 classes."""
    per_class = report.metrics.per_class[:1] * 256
    full = report.model_copy(
        update={
            "metrics": report.metrics.model_copy(update={"per_class": per_class}),
            "pictures": dict.fromkeys((*PICTURES, "suspects"), bytes(LIMIT_BYTES)),
            "suspects": Suspects(
                found=(Suspect(row=59_999, label=10, suggested=20, quality=0.5),) * 100, images=1
            ),
        }
    )

    assert 5 == full.evaluation_markdown().count("](data:image/png")
    assert len(full.evaluation_markdown()) < 300_000


def test_full_sheet_fits_into_an_artifact_beside_the_data(report: RunReport) -> None:
    full = report.model_copy(update={"pictures": dict.fromkeys(PICTURES, bytes(LIMIT_BYTES))})
    sheet = bytes(offenders.LIMIT_BYTES)

    sections = [validation_section(report.validation, sheet), full.data()]

    assert 4 == markdown("t", sections).count("](data:image/png")
    assert len(markdown("t", sections)) < 300_000
