"""What `make purge` lists, deletes and leaves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import files_below
from programs import run

from deployments import purge
from deployments.__main__ import main
from tasks.cache import blobs
from tasks.server.home import DATABASE, FOLDER_VARIABLE, open_stack, stack_folder
from tasks.settings import RunSettings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which the project has left what it leaves."""
    for name in list(os.environ):
        if name.startswith(("MNIST_", "PREFECT_", "XDG_", "PIPELINE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (cache := RunSettings().cache_root / "blobs").mkdir(parents=True)
    (cache / "array.npy").write_bytes(bytes(2_000_000))
    fill_models(RunSettings().model_root)
    open_stack()
    return tmp_path


def fill_models(folder: Path) -> None:
    (folder / "reports").mkdir(parents=True)
    (folder / "mnist-mlp-0123456789ab.keras").touch()


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what a person at the terminal types."""

    def types(text: str) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("builtins.input", lambda _: text)

    return types


def test_lists_each_folder_with_its_size_and_deletes_it_when_told_so(
    home: Path, answer: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    answer("yes")
    assert main(["purge"]) == 0
    said = capsys.readouterr().out
    assert f"   2.0MB  {home}/.cache/mnist-pipeline\n" in said
    assert f"deleted {home}/.local/share/mnist-pipeline/models\n" in said
    assert f"deleted {home}/.local/state/mnist-pipeline/stack\n" in said
    assert files_below(home) == set()
    assert list(home.rglob("mnist-pipeline")) == []


@pytest.mark.parametrize("text", ["", "y", "no", "YES"])
def test_deletes_nothing_unless_yes_is_typed(
    home: Path, answer: Callable[[str], None], text: str
) -> None:
    before = files_below(home)
    answer(text)
    assert main(["purge"]) == 1
    assert files_below(home) == before


def test_deletes_nothing_without_a_terminal(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(home)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert main(["purge"]) == 1
    assert "YES=1" in capsys.readouterr().err
    assert files_below(home) == before


def test_asks_nothing_when_told_not_to(home: Path) -> None:
    assert main(["purge", "--yes"]) == 0
    assert files_below(home) == set()


def test_deletes_nothing_while_a_server_runs(home: Path) -> None:
    before = files_below(home)
    with open_stack().serving():
        assert main(["purge", "--yes"]) == 1
    assert files_below(home) - {".local/state/mnist-pipeline/stack/server.lock"} == before


def test_leaves_a_folder_in_which_something_else_lies(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (RunSettings().model_root / "letters.txt").touch()
    before = {name for name in files_below(home) if name.startswith(".local/share")}
    assert main(["purge", "--yes"]) == 0
    assert files_below(home) == before
    assert "letters.txt in it is not ours" in capsys.readouterr().out


def test_deletes_whatever_a_cache_can_hold(home: Path) -> None:
    for name in blobs.OURS:
        (RunSettings().cache_root / name).mkdir(exist_ok=True)
    assert main(["purge", "--yes"]) == 0
    assert files_below(home) == set()
    assert not RunSettings().cache_root.exists()


def test_follows_no_link_out_of_a_folder(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "letters.txt").touch()
    (RunSettings().cache_root / "downloads").symlink_to(home / "mine")
    assert main(["purge", "--yes"]) == 0
    assert files_below(home) == {"mine/letters.txt"}


def test_finds_what_the_environment_chooses_and_what_was_moved_aside(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stack", "cache", "models"):
        (home / name).mkdir()
    fill_models(home / "models.before-restore-20261126T001846")
    monkeypatch.setenv(FOLDER_VARIABLE, str(home / "stack"))
    monkeypatch.setenv("MNIST_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("MNIST_MODEL_DIR", "~/models")
    found = {folder.relative_to(home).as_posix() for folder in purge.left()}
    assert found == {
        "stack",
        "cache",
        "models",
        "models.before-restore-20261126T001846",
        ".cache/mnist-pipeline",
        ".local/share/mnist-pipeline/models",
    }


def test_says_what_stays(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".keras").mkdir()
    path = stack_folder() / "server.env"
    path.write_text(f"{DATABASE}=postgresql+asyncpg://prefect:the-password@db/prefect\n")
    assert main(["purge", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "PostgreSQL at db, database prefect: remove it with PostgreSQL's dropdb" in said
    assert f"{home}/.keras: Keras's own folder" in said
    assert "the-password" not in said
    assert (home / ".keras").exists()


def test_nothing_left_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", "--yes"]) == 0
    capsys.readouterr()
    assert main(["purge"]) == 0
    assert "Nothing of this project is left here." in capsys.readouterr().out
    assert list(home.rglob("mnist-pipeline")) == []


@pytest.mark.process
def test_leaves_no_folder_of_its_own(home: Path) -> None:
    command = [sys.executable, "-m", "deployments", "purge", "--yes"]
    run(command, dict(os.environ))
    assert list(home.rglob("mnist-pipeline")) == []
    assert not (home / ".prefect").exists()
