"""Runs the fast tests on every supported Python that is installed: `make test-pythons`.

Versions as arguments choose among them. Each version but the one that runs this gets an
environment of its own under .venvs/.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORTED = ("3.11", "3.12", "3.13")
INSTALL = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps")


def find(version: str) -> str | None:
    """The path of an installed interpreter that starts, on the PATH or managed by pyenv."""
    managed = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [shutil.which(f"python{version}"), *managed.glob(f"{version}.*/bin/python")]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    return None


def environment(version: str, interpreter: str) -> Path:
    """The Python of an environment with the locked requirements, made if it is not there."""
    folder = ROOT / ".venvs" / version
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
        lock = ROOT / "requirements-dev.lock"
        subprocess.run([python, *INSTALL, "--require-hashes", "-r", lock], check=True)
        editable = ("--no-build-isolation", "--editable", ROOT)
        subprocess.run([python, *INSTALL, *editable], check=True)
        (folder / "complete").touch()
    return python


def main() -> int:
    """Test each version; the status is 1 when one of them fails."""
    current = f"{sys.version_info.major}.{sys.version_info.minor}"
    failed = []
    for version in sys.argv[1:] or SUPPORTED:
        interpreter = find(version)
        if version == current or interpreter is None:
            why = "runs in .venv: make test" if version == current else "not installed"
            print(f"Python {version}: {why}", flush=True)
            continue
        print(f"Python {version}: {interpreter}", flush=True)
        python = environment(version, interpreter)
        if subprocess.run(
            [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"], cwd=ROOT, check=False
        ).returncode:
            failed.append(version)
    if failed:
        print(f"Failed on Python {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
