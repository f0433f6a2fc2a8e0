"""Text from data, whatever it looks like, is shown as it is written: by an independent parser."""

from __future__ import annotations

import logging
from typing import Any, Self
from uuid import uuid4

import pytest
from browser import HOSTILE_NAMES
from markdown_it import MarkdownIt
from markdown_it.token import Token
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.states import Failed

from tasks.errors import DatasetError
from tasks.orchestration import events
from tasks.reporting.rendering import as_markdown

GITHUB = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PLAIN = {"text", "softbreak", "text_special"}


def inside(tokens: list[Token]) -> list[Token]:
    return [part for token in tokens for part in token.children or []]


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("frame", ["{}", "- x: {}", "| a |\n| --- |\n| {} |", "# {}"])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_name_is_shown_as_it_is_written(name: str, frame: str) -> None:
    tokens = GITHUB.parse(frame.format(as_markdown(name)))
    assert not {token.type for token in tokens} & {"html_block", "fence", "code_block"}
    found = inside(tokens)
    assert {token.type for token in found} <= PLAIN
    assert "".join(token.content for token in found).endswith(one_line(name))


@pytest.mark.parametrize("name", ["https://evil.example", "www.evil.example", "a@evil.example"])
def test_address_is_not_written_as_one(name: str) -> None:
    """What GitHub's Markdown makes links of by itself."""
    assert name not in as_markdown(name)


def test_name_that_means_nothing_is_written_plainly() -> None:
    for name in ("x_train.npy", "größe", "0.9741", "T-shirt/top", "12:30", "100 % (3 of 3)"):
        assert as_markdown(name) == name


def test_cells_of_the_table_and_the_message_of_a_failure_are_written_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = HOSTILE_NAMES[0]
    created: list[Any] = []
    monkeypatch.setattr(events, "flow_run_logger", lambda *_: logging.getLogger())
    monkeypatch.setattr(events, "get_client", lambda **_: Recorded(created))
    error = DatasetError("A dataset is one.", received=name, where=f"{name}\nand more")
    run = FlowRun(flow_id=uuid4(), deployment_id=uuid4())
    events.explain(Flow(lambda: None, name="mnist"), run, Failed(message=str(error)))
    (artifact,) = created
    for text in (artifact.data, artifact.description):
        assert {token.type for token in inside(GITHUB.parse(text))} <= PLAIN
        assert as_markdown(name) in text


class Recorded:
    """A client that keeps what it is told."""

    def __init__(self, created: list[Any]) -> None:
        self.create_artifact = created.append

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_terminal_is_told_no_control_characters() -> None:
    said = str(DatasetError("Rule.", received="\x1b[2J\r\x07\x9b1A\u202egnp.exe", where="a\x00b"))
    assert said == r"Rule. Received: \x1b[2J\r\x07\x9b1A\u202egnp.exe (in a\x00b)."
