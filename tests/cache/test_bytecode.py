"""An edit counts even where Python would take its old bytecode for it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path

import pytest
from programs import ROOT

from tasks.cache.bytecode import CheckedFinder, CheckedLoader


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module whose bytecode is kept, as Python does unless it is told otherwise."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "module.py"
    path.write_text("VALUE = 1\n")
    return path


def value_in(source: Path) -> int:
    """What the module says when it is imported now."""
    spec = importlib.util.spec_from_loader("module", CheckedLoader("module", str(source)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return int(module.VALUE)


def edit(path: Path, old: str, new: str) -> None:
    """Change a file, but neither its size nor its time."""
    status, text = path.stat(), path.read_text()
    assert old in text
    assert len(old) == len(new)
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def bytecode(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def test_edit_of_equal_size_and_time_is_run(source: Path) -> None:
    assert value_in(source) == 1
    edit(source, "1", "2")
    assert value_in(source) == 2


def test_edit_of_the_projects_code_is_run(tmp_path: Path) -> None:
    for package in ("tasks", "flows"):
        shutil.copytree(ROOT / package, tmp_path / package)
    line = "import tasks.cache.keys; print(tasks.cache.keys.SHOWN)"

    def shown() -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        command = [sys.executable, "-c", line]
        return subprocess.check_output(command, cwd=tmp_path, env=environment, text=True).strip()

    assert shown() == "3"
    edit(tmp_path / "tasks" / "cache" / "keys.py", "SHOWN = 3", "SHOWN = 4")
    assert shown() == "4"


def test_unchanged_source_is_compiled_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value_in(source)
    monkeypatch.setattr(CheckedLoader, "source_to_code", None)
    assert value_in(source) == 1


@pytest.mark.parametrize("keep", [0, 3, 15, 16, 20, 40])
def test_damaged_bytecode_is_made_again(source: Path, keep: int) -> None:
    value_in(source)
    whole = bytecode(source).read_bytes()
    bytecode(source).write_bytes(whole[:keep])
    assert value_in(source) == 1
    assert bytecode(source).read_bytes() == whole


def test_bytecode_that_python_made_is_not_taken(source: Path) -> None:
    importlib.util.spec_from_file_location("module", source).loader.get_code("module")  # type: ignore[union-attr]
    edit(source, "1", "2")
    assert value_in(source) == 2


def test_folder_that_cannot_be_written_is_no_error(source: Path) -> None:
    (source.parent / "__pycache__").write_text("not a folder")
    assert value_in(source) == 1


def test_loader_that_a_library_has_put_in_pythons_place_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As beartype's, which comes with what Prefect imports."""

    class Loader(SourceFileLoader):
        pass

    monkeypatch.setattr(sys, "path_hooks", [FileFinder.path_hook((Loader, [".py"]))])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    found = CheckedFinder.find_spec("tasks.load", [str(ROOT / "tasks")])
    assert found is not None
    assert type(found.loader) is CheckedLoader
