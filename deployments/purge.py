"""`make purge`: every folder that the project leaves on the machine, listed, then deleted.

    secrets, database   2.9MB  /home/me/.local/state/mnist-pipeline/stack
    cache             265.1MB  /home/me/.cache/mnist-pipeline
    models, reports     1.2MB  /home/me/.local/share/mnist-pipeline/models

A folder in which something else lies is left as it is: it may be one that its user has chosen for
other things, too.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path

from pydantic import ByteSize

from deployments import database
from deployments.archive import TOP, require_unused
from deployments.commands import ROOT, chosen_folders
from tasks import APPLICATION
from tasks.cache import blobs
from tasks.errors import PipelineError, file_errors
from tasks.server.home import DATABASE, SERVER_FILE, read_variables, stack_folder
from tasks.settings import RunSettings

# By what lies in a folder: the names that this project and Prefect give there.
SECRETS, CACHE, MODELS = "secrets, database", "cache", "models, reports"
OURS = {
    SECRETS: (
        *("server.env", "profiles.toml", "prefect.db*", ".lock", "*.lock", "*.partial", "ui"),
        *("concurrency_leases", "memo_store.toml", "storage", ".sdk_telemetry"),
    ),
    CACHE: tuple(blobs.OURS),
    MODELS: ("history.jsonl", "*.keras", "reports", "*.partial"),
}
ELSEWHERE = {
    "~/.prefect": "Prefect's own folder",
    "~/.keras": "Keras's own folder",
    "~/.cache/matplotlib": "Matplotlib's own folder",
    "~/.config/matplotlib": "Matplotlib's own folder",
    str(ROOT / "deployments" / ".env"): "the containers' secrets, part of the checkout",
}


def purge(*, ask: bool) -> int:
    """List the folders, ask, delete them; returns 1 if that was declined. Raises PipelineError."""
    require_unused(stack_folder())
    found = left()
    for folder, about in found.items():
        size_bytes = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
        size = ByteSize(size_bytes).human_readable(decimal=True)
        print(f"{about:17} {size:>8}  {folder}")
    for place, what in stays():
        print(f"{'stays':27} {place}: {what}")
    if not found:
        print("Nothing of this project is left here.")
        return 0
    if ask and not _confirmed():
        print("Nothing was deleted.")
        return 1
    for folder, about in found.items():
        print(_deleted(folder, [*OURS[about], TOP]))
    return 0


def left() -> dict[Path, str]:
    """The folders that are there: the user's, those chosen by the environment, those set aside."""
    roots = {stack_folder(): SECRETS}
    for settings in (RunSettings(), chosen_folders()):
        roots |= {settings.cache_root: CACHE, settings.model_root: MODELS}
    return {
        folder.resolve(): about
        for root, about in roots.items()
        for folder in (root, *sorted(root.parent.glob(f"{escape(root.name)}.*restore-*")))
        if folder.is_dir()
    }


def stays() -> Iterator[tuple[str, str]]:
    """What is not deleted, and why: where it is, what it is."""
    with suppress(OSError, PipelineError):
        url = read_variables(stack_folder() / SERVER_FILE).get(DATABASE, "sqlite://")
        if url.startswith("postgresql"):
            yield database.place(url), "remove it with PostgreSQL's dropdb"
        elif not (path := database.sqlite_file(url)).is_relative_to(stack_folder()):
            yield str(path), "the database, which was named elsewhere"
    for name, what in ELSEWHERE.items():
        if (place := Path(name).expanduser()).exists():
            yield str(place), what


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise PipelineError(
            "Whether to delete must be answered at a terminal.",
            received="no terminal",
            advice="`make purge YES=1` does not ask.",
        )
    return input("Delete these folders for good? Type yes: ").strip() == "yes"


def _deleted(folder: Path, ours: list[str]) -> str:
    """Delete a folder if only ours is in it; returns what was done. Raises PipelineError."""
    names = sorted(path.name for path in folder.iterdir())
    if strange := [name for name in names if not any(fnmatchcase(name, own) for own in ours)]:
        return (
            f"left    {folder}: {', '.join(strange)} in it is not ours. Move it, and purge again."
        )
    with file_errors(
        "A folder must be its user's own to be deleted.",
        advice="Check owner and permissions, and purge again.",
    ):
        shutil.rmtree(folder)
    if folder.parent.name == APPLICATION:
        with suppress(OSError):  # not empty yet
            folder.parent.rmdir()
    return f"deleted {folder}"
