"""What is noted of a source file is what parsing it gives, or is not taken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from builders import flip_bit
from programs import ROOT

from tasks.cache import source
from tasks.cache.source import noted_source, read_source

TEXT = "import json\nfrom . import b\nname = __import__(json)\nVALUE = 1\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of which a note is kept."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "a.py"
    path.write_text(TEXT)
    noted_source(str(path), "p.a")
    return path


def note_of(path: Path) -> Path:
    (note,) = path.parent.rglob("a.*.source")
    return note


def test_note_gives_what_parsing_gives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = read_source(str(path), "p.a")
    assert parsed.unfollowed == ("line 3: __import__(json)",)
    monkeypatch.setattr(source, "read_source", None)
    assert noted_source(str(path), "p.a") == parsed


@pytest.mark.usefixtures("path")
def test_notes_of_this_project_give_what_parsing_gives(tmp_path: Path) -> None:
    for each in sorted((ROOT / "tasks").rglob("*.py")):
        copy = tmp_path / each.name
        copy.write_bytes(each.read_bytes())
        first, second = (noted_source(str(copy), "tasks.a.module") for _ in range(2))
        assert first == second == read_source(str(copy), "tasks.a.module")


def test_note_of_another_text_is_not_taken(path: Path) -> None:
    path.write_text(TEXT.replace("1", "2"))
    assert noted_source(str(path), "p.a") == read_source(str(path), "p.a")


def test_note_of_another_module_is_not_taken(path: Path) -> None:
    """Its relative imports lead elsewhere."""
    assert noted_source(str(path), "q.a").imports == ("q", "q.b", "json")


def test_note_by_other_code_that_reads_is_not_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = read_source(str(path), "p.a")._replace(sha256="new")
    monkeypatch.setattr(source, "READER", "another")
    monkeypatch.setattr(source, "read_source", lambda *_: new)
    assert noted_source(str(path), "p.a").sha256 == "new"


def test_damaged_note_is_made_again(path: Path) -> None:
    whole, parsed = note_of(path).read_bytes(), read_source(str(path), "p.a")
    for position in range(len(whole)):
        flip_bit(note_of(path), position)
        assert noted_source(str(path), "p.a") == parsed
        assert note_of(path).read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"{}\n[]"])
def test_note_that_is_none_is_made_again(path: Path, content: bytes) -> None:
    note_of(path).write_bytes(content)
    assert noted_source(str(path), "p.a") == read_source(str(path), "p.a")


def test_where_python_keeps_no_bytecode_nothing_is_noted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_of(path).unlink()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    noted_source(str(path), "p.a")
    assert not list(path.parent.rglob("*.source"))


def test_folder_that_cannot_be_written_is_no_error(path: Path) -> None:
    note_of(path).unlink()
    (path.parent / "__pycache__").rmdir()
    (path.parent / "__pycache__").write_text("not a folder")
    assert noted_source(str(path), "p.a") == read_source(str(path), "p.a")
