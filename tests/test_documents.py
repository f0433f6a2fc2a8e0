"""What the documents print is typed here, block by block, by somebody who has just cloned."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from programs import HANG_SECONDS, ROOT, comes_true, free_port

pytestmark = pytest.mark.stack

DOCUMENTS = ["README.md", "deployments/README.md", "tasks/cache/README.md"]
DOCUMENTS += ["tasks/sources/README.md"]
UNTIL_CTRL_C = {"make ui", "make server", "make worker"}
# What these tests are part of.
IS_BEING_RUN = {"make test"}


@dataclass
class Typed:
    """A command as a document has it, and the lines that it shows below."""

    command: str
    shown: list[str] = field(default_factory=list)


def commands_in(text: str) -> list[Typed]:
    """The commands of every console block, without their comments."""
    found: list[Typed] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Typed(line[2:].partition("  #")[0].strip()))
            elif line.strip():
                found[-1].shown.append(line)
    return found


def without_figures(text: str) -> str:
    """With nothing that differs from run to run: digests, numbers, secrets of links, spaces."""
    text = re.sub(r"(?<=/)[\w-]{20,}|\b[0-9a-f]{8}[0-9a-f-]*", "#", text)
    return " ".join(re.sub(r"[\dT]*\d[\d.,:]*", "#", text).split())


def is_said(shown: list[str], said: str) -> bool:
    """Whether a command has said each line that is shown; … stands for anything.

    In any order: stages that run beside each other end as they like.
    """
    patterns = (re.escape(without_figures(line)).replace("…", ".*") for line in shown)
    return all(re.search(pattern, without_figures(said)) for pattern in patterns)


class Newcomer:
    """A copy of this project, and a home in which nothing is."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.home = folder / "clone", folder / "home"
        self.home.mkdir()
        left_out = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(ROOT, self.clone, ignore=left_out)  # with the times, which make looks at
        (self.clone / ".venv").symlink_to(ROOT / ".venv")
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TMPDIR")}
        ports = {
            "PREFECT_SERVER_API_PORT": free_port(),
            "PREFECT_WORKER_WEBSERVER_PORT": free_port(),
        }
        self.environment = kept | {name: str(port) for name, port in ports.items()}
        self.environment |= {"HOME": str(self.home), "COLUMNS": "1000"}
        self.running: list[subprocess.Popen[bytes]] = []

    def types(self, typed: Typed) -> str:
        """What a command says until it ends, or until it has said what is shown."""
        log = self.home.parent / "said.log"
        with log.open("wb") as file:
            program = subprocess.Popen(
                ["/bin/bash", "-c", typed.command],
                cwd=self.clone,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.running.append(program)

        def said() -> str:
            return log.read_text().replace(str(self.home), "~")

        if typed.command in UNTIL_CTRL_C:
            assert comes_true(lambda: is_said(typed.shown, said()), HANG_SECONDS), said()
        else:
            program.wait(HANG_SECONDS)
            failed = re.search("^failed ", said(), re.MULTILINE)
            assert (program.returncode == 0) == (failed is None), said()
            assert is_said(typed.shown, said()), f"{typed}\n{said()}"
        return said()

    def leave(self) -> None:
        """End what still runs, the last one first."""
        for program in reversed(self.running):
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGTERM)
                program.wait(HANG_SECONDS)


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path)
    try:
        yield newcomer
    finally:
        newcomer.leave()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_say_what_the_document_shows(newcomer: Newcomer, document: str) -> None:
    text = (ROOT / document).read_text()
    typed = commands_in(text)
    assert typed
    for name, code in re.findall(
        r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    ):
        (newcomer.clone / name).write_text(code)
    (newcomer.clone / "letters.npz").write_text("not what it should be")

    for each in typed:
        if each.command not in IS_BEING_RUN:
            newcomer.types(each)


def test_python_of_the_readme_runs(newcomer: Newcomer) -> None:
    """In a notebook's process, say: with no server, and without a line in red."""
    (code,) = re.findall(
        r"^```python\n(from .*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (newcomer.clone / "typed.py").write_text(f"{code}print(summary.accuracy)\n")

    said = newcomer.types(Typed(".venv/bin/python typed.py"))

    assert float(said.splitlines()[-1]) > 0.9
    assert "ERROR" not in said
