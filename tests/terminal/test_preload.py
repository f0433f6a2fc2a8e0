"""The notes that say which runs will not need TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.settings import RunSettings
from tasks.terminal.preload import remember


def notes(folder: Path) -> set[str]:
    return {path.name for path in (folder / "warm").iterdir()}


def test_run_is_noted_beside_the_cache(tmp_path: Path) -> None:
    remember(RunSettings(cache_dir=tmp_path))
    assert len(notes(tmp_path)) == 1


def test_only_the_newest_fifty_notes_are_kept(tmp_path: Path) -> None:
    (tmp_path / "warm").mkdir()
    for age in range(1, 61):
        old = tmp_path / "warm" / f"{age:032x}"
        old.touch()
        now = old.stat().st_mtime
        os.utime(old, (now - age, now - age))
    remember(RunSettings(cache_dir=tmp_path))
    newest = {f"{age:032x}" for age in range(1, 50)}
    assert newest < notes(tmp_path)
    assert len(notes(tmp_path)) == 50
