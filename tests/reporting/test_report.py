"""The report of a run: one page that stands alone, and Markdown that Prefect can show."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from builders import store_dataset, tiny_arrays
from jinja2 import UndefinedError

from tasks.cache.blobs import Store
from tasks.learning.scores import score
from tasks.orchestration import artifacts
from tasks.records import (
    BlobRef,
    CheckResult,
    EpochMetrics,
    ModelRef,
    OwnModel,
    StageRecord,
    Suspect,
    Suspects,
    ValidationReport,
)
from tasks.reporting.pictures import LIMIT_BYTES
from tasks.reporting.rendering import rendered
from tasks.reporting.report import Report
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
def report(store: Store) -> Report:
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
    return Report(
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


def test_page_is_well_formed(report: Report) -> None:
    assert Page(report.html()).open == []


def test_page_loads_nothing(report: Report) -> None:
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


def test_page_has_every_section(report: Report) -> None:
    expected = ["Classes", "Calibration", "Mistakes", "Training", "Data", "Validation"]
    expected += ["Stages", "Run", "Settings and arrays"]

    assert expected == Page(report.html()).of("h2")


def test_page_shows_doubtful_labels_where_they_were_looked_for(report: Report) -> None:
    suspects = Suspects(found=(Suspect(row=4711, label=0, suggested=2, quality=0.0625),), images=30)

    page = Page(report.model_copy(update={"suspects": suspects}).html())

    assert "Doubtful labels" in page.of("h2")
    assert {"4711", "0.0625"} <= set(page.of("td"))


def test_page_shows_the_sheet_of_the_validation(report: Report) -> None:
    with_sheet = report.model_copy(update={"pictures": {**report.pictures, "sheet": b"sheet"}})

    assert "Images that break a rule, some for each check" in Page(with_sheet.html()).of(
        "figcaption"
    )


def test_page_gives_the_accuracy_with_its_interval(report: Report) -> None:
    """3 of 4: Wilson's interval is 0.3006 to 0.9544."""
    texts = Page(report.html()).of("dd")

    assert texts[:2] == ["0.7500", "95 % interval 0.3006 to 0.9544, 4 test images"]


def test_page_names_libraries_and_digests(report: Report) -> None:
    text = " ".join(Page(report.html()).of("td"))

    for expected in ("Python 3.", "tensorflow 2.", "keras 3.", "numpy 2.", "prefect 3."):
        assert expected in text
    assert report.dataset.digest in text
    assert report.dataset.x_test.sha256 in text
    assert report.model.weights_sha256 in text


def test_page_shows_what_a_failed_check_found(report: Report) -> None:
    assert "3, 5 and 5 more" in Page(report.html()).of("td")


def test_texts_are_escaped(report: Report) -> None:
    """They come out as they were, and none is taken for a tag."""
    page = Page(report.html())

    assert "script" not in {tag for tag, _ in page.elements}
    assert HOSTILE in page.of("td")
    assert f"no image is blank; found: {HOSTILE}" in page.of("td")


@pytest.fixture
def hostile(report: Report) -> Report:
    """A report in which every text that comes from outside is hostile."""
    return report.model_copy(
        update={
            "run_name": HOSTILE,
            "dataset": report.dataset.model_copy(update={"name": HOSTILE}),
            "settings": RunSettings(dataset=HOSTILE),
            "earlier": (0.5,),
        }
    )


def test_no_text_from_outside_is_taken_for_a_tag(hostile: Report) -> None:
    page = Page(hostile.html())

    assert "script" not in {tag for tag, _ in page.elements}
    assert f"{HOSTILE}: accuracy 0.7500" in page.of("h1")
    (caption,) = [text for text in page.of("figcaption") if text.startswith("This run after")]
    assert f"This run after 1 earlier of mlp on {HOSTILE}: +0.2500" == caption


@pytest.mark.parametrize("artifact", ["accuracy", "evaluation", "validation"])
def test_no_text_from_outside_is_taken_for_markup_in_markdown(
    hostile: Report, artifact: Literal["accuracy", "evaluation", "validation"]
) -> None:
    """Neither for a tag nor for the end of a line or a cell."""
    text = hostile.markdown(artifact)

    assert "&lt;script&gt;alert('x')&lt;/script&gt; \\| \"&amp; " in text
    assert "<" not in re.sub(r"\(data:\S+\)", "", text)


def test_class_names_in_the_table_of_the_classes_are_no_markup(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's pages take its cells for Markdown."""
    tables: list[list[dict[str, object]]] = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda *_, **__: None)
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda table, **_: tables.append(table))
    names = ("![x](http://x)", "<b>", "plain")
    dataset = report.dataset.model_copy(update={"class_names": names})
    artifacts.publish_evaluation(report.model_copy(update={"dataset": dataset}))
    assert [row["class"] for row in tables[0]] == [r"!\[x\](http\://x)", "&lt;b&gt;", "plain"]


def test_markdown_table_has_as_many_cells_in_each_row_as_in_its_head(report: Report) -> None:
    """Whatever an error says, bars and line ends included."""
    lines = report.markdown("validation").splitlines()

    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if "| blank |" in line}
    assert {1 + 5, 1 + 6} == cells  # of what failed, and of every check


def test_unknown_name_in_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        rendered("html", "report.html.j2")


def test_accuracy_artifact_has_settings_data_and_run(report: Report) -> None:
    text = report.markdown("accuracy")

    assert text.startswith("# tiny: accuracy 0.7500\n")
    for expected in ("mlp, 50,890 parameters", "batch 100", 64 * "c", "tiny-run, 1234"):
        assert expected in text


def test_first_run_has_no_trend(report: Report) -> None:
    assert "svg" not in report.markdown("accuracy")


def test_later_run_is_shown_against_the_earlier_ones(report: Report) -> None:
    text = report.model_copy(update={"earlier": (0.5, 0.7)}).markdown("accuracy")

    assert "This run after 2 earlier of mlp on tiny: +0.0500" in text
    assert "](data:image/svg+xml;base64," in text


def svg(accuracies: list[float]) -> ET.Element:
    text = rendered("html", "trend.svg.j2", accuracies=accuracies)
    return ET.fromstring(text)  # noqa: S314 - our own


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


def test_trend_in_markdown_is_the_one_of_the_page(report: Report) -> None:
    later = report.model_copy(update={"earlier": (0.5, 0.7)})

    (trend,) = re.findall(r"data:image/svg[^)]+", later.markdown("accuracy"))

    assert trend in later.html()


def test_picture_in_markdown_has_its_caption_below(report: Report) -> None:
    text = report.markdown("evaluation")

    curves = "data:image/png;base64,cG5nIG9mIGN1cnZlcw=="
    caption = "Means over the training images of each epoch, taken while it ran"
    assert text.endswith(f"## Training\n\n![{caption}]({curves})\n\n*{caption}*\n")


def test_facts_are_a_list_in_markdown(report: Report) -> None:
    text = report.markdown("accuracy")

    assert "## Run\n\n- **run**: tiny-run, 1234\n- **finished**: 2026-11-24 01:02:03 UTC\n" in text
    training = (
        "12 epochs, batch 100, seed 0, threads 2, 64 hidden units, rmsprop at 0.001 (constant), "
    )
    assert f"\n- **training**: {training}label smoothing 0, shifts by 0 px\n" in text


def test_tiles_are_a_table_in_markdown(report: Report) -> None:
    tiles = """
| figure | value | note |
| --- | --- | --- |
| accuracy | 0.7500 | 95 % interval 0.3006 to 0.9544, 4 test images |
"""
    assert tiles in report.markdown("accuracy")


def test_own_model_is_named_with_its_code(report: Report) -> None:
    own = OwnModel(name="tiny", file="nets.py", sha256=64 * "e", path=Path("nets.py"))
    plan = report.plan.model_copy(update={"model": own})

    page = Page(report.model_copy(update={"plan": plan}).html())

    assert "12 epochs, batch 100, seed 0, threads 2, code eeeeeeeeeeee" in page.of("td")
    assert "tiny, 50,890 parameters" in page.of("td")


def rows(report: Report, checks: list[CheckResult]) -> list[list[str]]:
    """The cells of the validation's tables in Markdown, their heads left out."""
    validation = ValidationReport(checks=tuple(checks))
    lines = report.model_copy(update={"validation": validation}).markdown("validation").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    return [row for row in cells if row[0] not in ("severity", "tier", "---")]


@pytest.fixture
def check(report: Report) -> CheckResult:
    (check,) = report.validation.checks
    return check.model_copy(update={"received": "7 of 30 images"})


def test_validation_says_what_failed_before_everything_else(
    report: Report, check: CheckResult
) -> None:
    what = "no image is blank; found: 7 of 30 images"

    assert [
        ["warning", "blank", what, "3, 5 and 5 more", "x_train"],
        ["rows", "blank", "no image is blank", "warning", "failed", "x_train"],
    ] == rows(report, [check])


def test_arrays_with_the_same_outcome_share_a_row(report: Report, check: CheckResult) -> None:
    passed = {"outcome": "passed", "received": "", "rows": (), "failing": 0}
    both = [
        check.model_copy(update={"subject": subject, **passed}) for subject in ("x_train", "x_test")
    ]

    assert [["rows", "blank", "no image is blank", "warning", "passed", "x_train, x_test"]] == rows(
        report, both
    )


def test_skipped_check_says_why(report: Report, check: CheckResult) -> None:
    skipped = check.model_copy(update={"outcome": "skipped", "received": "switched off"})

    assert [
        ["rows", "blank", "no image is blank", "warning", "skipped: switched off", "x_train"]
    ] == rows(report, [skipped])


@pytest.fixture
def failed(report: Report) -> Report:
    """The report of a run that ended at its validation."""
    (check,) = report.validation.checks
    error = check.model_copy(update={"severity": "error"})
    nothing = {"model": None, "metrics": None, "pictures": {"sheet": b"sheet"}}
    return report.model_copy(update={"validation": ValidationReport(checks=(error,)), **nothing})


def test_failed_validation_is_the_title(failed: Report) -> None:
    assert ["Validation of tiny: failed"] == Page(failed.html()).of("h1")
    assert failed.markdown("validation").startswith("# Validation of tiny: failed\n")


def test_failed_validation_has_what_there_is_of_a_run(failed: Report) -> None:
    page = Page(failed.html())

    assert page.open == []
    assert ["Stages", "Run", "Settings and arrays"] == page.of("h2")
    assert ["Images that break a rule, some for each check"] == page.of("figcaption")


def test_full_pictures_fit_into_an_artifact(report: Report) -> None:
    """Each as large as may be, and 256 classes of long names."""
    per_class = report.metrics.per_class[:1] * 256
    full = report.model_copy(
        update={
            "metrics": report.metrics.model_copy(update={"per_class": per_class}),
            "dataset": report.dataset.model_copy(update={"class_names": ("x" * 100,) * 256}),
            "pictures": dict.fromkeys((*PICTURES, "suspects"), bytes(LIMIT_BYTES)),
            "suspects": Suspects(
                found=(Suspect(row=59_999, label=10, suggested=20, quality=0.5),) * 100, images=1
            ),
        }
    )

    assert 5 == full.markdown("evaluation").count("](data:image/png")
    assert len(full.markdown("evaluation")) < 300_000


def test_full_sheet_fits_into_an_artifact_beside_the_data(report: Report) -> None:
    names = (*PICTURES, "sheet")
    full = report.model_copy(update={"pictures": dict.fromkeys(names, bytes(LIMIT_BYTES))})

    text = full.markdown("validation")

    assert 4 == text.count("](data:image/png")
    assert len(text) < 300_000


def test_classes_are_shown_by_their_names(report: Report) -> None:
    """In the tables of classes, confusions, mistakes and doubtful labels."""
    dataset = report.dataset.model_copy(update={"class_names": ("shirt", HOSTILE, "boot")})
    doubtful = Suspects(found=(Suspect(row=7, label=0, suggested=2, quality=0.5),), images=30)
    named = report.model_copy(update={"dataset": dataset, "suspects": doubtful})

    cells = Page(named.html()).of("td")
    text = named.markdown("evaluation")

    assert [2, 2] == [cells.count("boot"), text.count("boot")]  # a class, and a suspect's
    assert "| 7 | shirt | boot | 0.5000 |" in text
    assert "| 3 | shirt | &lt;script&gt;alert('x')&lt;/script&gt; \\| \"&amp;  | 1.0000 |" in text
    assert {"shirt", HOSTILE} <= set(cells)


def test_long_name_of_a_class_is_cut(report: Report) -> None:
    dataset = report.dataset.model_copy(update={"class_names": ("x" * 41, "y" * 40, "z")})
    named = report.model_copy(update={"dataset": dataset})

    assert [f"{'x' * 39}…", "y" * 40, "z"] == named.class_names
