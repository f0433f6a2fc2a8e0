"""Files of a large dataset that have not changed are not read again; all others are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.sources import digests
from tasks.sources.digests import MANY, Digests


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """As many small files as are remembered, none of them written just now."""
    folder = tmp_path / "many"
    folder.mkdir()
    paths = [folder / f"{number:03d}" for number in range(MANY)]
    for number, path in enumerate(paths):
        path.write_text(f"{number}")
    return paths


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, as they are."""
    names: list[str] = []
    digest = digests.sha256_of_file

    def reading(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(digests, "sha256_of_file", reading)
    monkeypatch.setattr(digests, "MOMENT_NS", -3_600_000_000_000)  # what was just written counts
    return names


def known(tmp_path: Path) -> Digests:
    return Digests(tmp_path / "digests", tmp_path / "many")


def test_unchanged_files_are_read_once(tmp_path: Path, paths: list[Path], read: list[str]) -> None:
    first = known(tmp_path).of(paths)
    again = known(tmp_path).of(paths)

    assert MANY == len(read)
    assert [each.sha256 for each in first] == [each.sha256 for each in again]


def test_changed_file_is_read_again_though_its_size_and_time_are_as_before(
    tmp_path: Path, paths: list[Path], read: list[str]
) -> None:
    before, status = known(tmp_path).of(paths)[5], paths[5].stat()
    read.clear()
    paths[5].write_text("x")
    os.utime(paths[5], ns=(status.st_atime_ns, status.st_mtime_ns))

    after = known(tmp_path).of(paths)[5]

    assert ["005"] == read
    assert before.sha256 != after.sha256


def test_file_that_took_the_place_of_another_is_read(
    tmp_path: Path, paths: list[Path], read: list[str]
) -> None:
    known(tmp_path).of(paths)
    read.clear()
    paths[6].replace(paths[7])
    paths[6].write_text("6")

    known(tmp_path).of(paths)

    assert ["006", "007"] == read


def test_file_that_was_written_in_the_same_moment_is_read_again(
    tmp_path: Path, paths: list[Path], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "MOMENT_NS", 3_600_000_000_000)
    for _ in range(2):
        known(tmp_path).of(paths)

    assert 2 * MANY == len(read)


@pytest.mark.parametrize("content", [b"", b"torn", b"0" * 64 + b"\n[]"])
def test_damaged_note_is_not_believed(
    tmp_path: Path, paths: list[Path], read: list[str], content: bytes
) -> None:
    known(tmp_path).of(paths)
    (note,) = (tmp_path / "digests").iterdir()
    note.write_bytes(content)

    known(tmp_path).of(paths)

    assert 2 * MANY == len(read)


def test_few_files_are_always_read(tmp_path: Path, paths: list[Path], read: list[str]) -> None:
    for _ in range(2):
        known(tmp_path).of(paths[:3])

    assert 6 == len(read)
    assert not (tmp_path / "digests").exists()
