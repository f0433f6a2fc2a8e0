"""`make backup` and `make restore`: what cannot be computed again, in one file.

    mnist-pipeline-backup/
      stack/server.env      addresses and secrets
      stack/profiles.toml   Prefect's profile for this server
      stack/prefect.db      the database; of PostgreSQL, what pg_dump wrote: database.dump
      models/…              models, reports and history.jsonl
      manifest.json         written last: the names of all these files, and what made them

It is for its owner's eyes only. The cache is not in it.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import ValidationError

from deployments import database
from tasks.cache.blobs import PARTIAL, NewFile
from tasks.errors import PipelineError, file_errors
from tasks.records import Record
from tasks.server import home
from tasks.server.home import PROFILES_FILE, SERVER_FILE, Stack

TOP = "mnist-pipeline-backup"
STACK, MODELS, MANIFEST = "stack", "models", "manifest.json"
DATABASE_FILE, DUMP = "prefect.db", "database.dump"
SQLITE = f"{STACK}/{DATABASE_FILE}"
BLOCK_BYTES = 1 << 20


class Manifest(Record):
    """What is in an archive; `folder` was the stack's when the backup was made."""

    version: Literal[1] = 1
    made: datetime
    folder: Path
    database: Literal["postgresql", "sqlite"]
    revision: str
    files: frozenset[str]


readable_and_writable = file_errors(
    "What a backup is made of and restored to must be readable and writable.",
    advice="Check owner and permissions, and the room on the disk.",
)


@readable_and_writable
def backup(stack: Stack, models: Path, archive: Path) -> list[str]:
    """Write an archive, while the server runs or not; returns what is in it. Raises PipelineError.

    It gets its name when it is complete. Links to folders below the models are not followed.
    """
    _require_new(archive, outside=(stack.folder, models))
    sqlite = stack.database_kind == "sqlite"
    with (
        NewFile(archive.parent, option="FILE") as file,
        TemporaryDirectory(dir=archive.parent, prefix=f"{archive.name}.") as staging,
    ):
        copied, written = Path(staging, DUMP), Path(staging, MANIFEST)
        revision = database.copy(stack.server[home.DATABASE], copied)
        files = {f"{STACK}/{name}": stack.folder / name for name in (SERVER_FILE, PROFILES_FILE)}
        files[SQLITE if sqlite else DUMP] = copied
        for name, path in _files_below(models).items():
            if path.suffix != PARTIAL:
                files[f"{MODELS}/{name}"] = path
        manifest = Manifest(
            made=datetime.now(UTC),
            folder=stack.folder,
            database="sqlite" if sqlite else "postgresql",
            revision=revision,
            files=frozenset(files),
        )
        written.write_text(manifest.model_dump_json())
        with tarfile.open(file.temporary, "w:gz", dereference=True, compresslevel=6) as tar:
            for name, path in {**files, MANIFEST: written}.items():
                tar.add(path, f"{TOP}/{name}", filter=_owned_by_nobody)
        file.publish(archive, sync=True)
    return [
        f"kept  {stack.folder}: secrets, profile and the {stack.database_kind} database",
        f"kept  {models}: {len(files) - 3} files",
        f"in    {archive}: it holds the secrets, keep it from others",
    ]


@readable_and_writable
def restore(
    archive: Path,
    folder: Path,
    models: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    replace: bool = False,
) -> list[str]:
    """Make a stack and its models what an archive holds; returns what was done.

    What is there is moved aside if `replace` is set, otherwise nothing is done. Raises
    PipelineError, and then everything is as before. Addresses and a PostgreSQL database can be
    chosen by the environment, as on the first start.
    """
    folder, models, done = folder.resolve(), models.resolve(), list[str]()
    require_unused(folder)
    if not replace:
        _require_free(folder, models)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.restore-") as room,
        ExitStack() as undo,
    ):
        new, manifest = Path(room, TOP), _unpack(archive, Path(room))
        url = _tell(new / STACK, folder, manifest, environment)
        for name, place in ((STACK, folder), (MODELS, models)):
            if (new / name).is_dir():
                done += _put(new / name, place, undo, replace=replace)
        if manifest.database == "postgresql":
            database.fill(url, new / DUMP)
            done.append(f"made   {database.place(url)}")
        home.open_stack(folder, {})  # writes the profile
        undo.pop_all()
    return done


def _require_new(archive: Path, outside: tuple[Path, ...]) -> None:
    if os.path.lexists(archive):
        raise PipelineError(
            "A backup replaces no file.",
            received="one that is there",
            where=archive,
            advice="Choose another name, such as FILE=mnist-$(date +%F).tar.gz.",
        )
    if inside := [place for place in outside if archive.resolve().is_relative_to(place.resolve())]:
        raise PipelineError(
            "A backup must lie outside of what it keeps.",
            received=archive,
            where=inside[0],
            advice="Choose another folder.",
        )


def _files_below(folder: Path) -> dict[str, Path]:
    """The files of a folder, by their names in it."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _owned_by_nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Whoever restores it will own it."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def require_unused(folder: Path) -> None:
    """Raise PipelineError while a server, or a run with one of its own, uses a stack."""
    if Stack(folder, {}).serves or database.in_use(folder / DATABASE_FILE):
        raise PipelineError(
            "Nothing may use the database meanwhile.",
            received="a server or a run that does",
            where=folder,
            advice="Stop them (Ctrl-C), then try again.",
        )


def _require_free(*places: Path) -> None:
    if taken := [place for place in places if _holds_something(place)]:
        raise PipelineError(
            "A backup is restored to where there is nothing yet.",
            received=[str(place) for place in taken],
            advice="With REPLACE=1, what is there is moved aside, not deleted.",
        )


def _holds_something(place: Path) -> bool:
    return place.is_dir() and any(place.iterdir())


def _unpack(archive: Path, room: Path) -> Manifest:
    """Unpack a whole archive of ours. Raises PipelineError for any other."""
    try:
        with gzip.open(archive) as content:
            with tarfile.open(fileobj=content, mode="r|") as tar:
                tar.extraction_filter = getattr(tarfile, "data_filter", lambda info, _: info)
                tar.extractall(room, map(_plain, tar))  # noqa: S202 - each is looked at
            while content.read(BLOCK_BYTES):  # up to the checksum at its end
                pass
        return _whole(room / TOP)
    except (gzip.BadGzipFile, EOFError, tarfile.TarError, zlib.error) as error:
        raise PipelineError(
            "The file must be a whole archive that `make backup` has made.",
            received=error,
            where=archive,
            advice="Nothing was changed. Name another file: make restore FILE=….",
        ) from error


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """A file that would be written into the folder. Raises TarError for anything else."""
    name = PurePosixPath(info.name)
    if not info.isreg() or name.is_absolute() or ".." in name.parts:
        raise tarfile.TarError(f"it holds {info.name!r}, which is no file below its folder")
    return info


def _whole(unpacked: Path) -> Manifest:
    """The manifest of what was unpacked, if nothing is missing or one too many, or TarError."""
    found = set(_files_below(unpacked))
    if MANIFEST not in found:
        raise tarfile.TarError(f"no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json((unpacked / MANIFEST).read_bytes())
    except ValidationError as error:
        kind = f"a {MANIFEST} of another kind or a later release"
        raise tarfile.TarError(kind) from error
    needed = {f"{STACK}/{SERVER_FILE}", SQLITE if manifest.database == "sqlite" else DUMP}
    if differing := sorted(found ^ {MANIFEST, *manifest.files} | needed - found):
        raise tarfile.TarError(f"{differing[0]} is missing or one too many")
    database.require_known(manifest.database, manifest.revision)
    return manifest


def _tell(new: Path, folder: Path, manifest: Manifest, environment: Mapping[str, str]) -> str:
    """Write the unpacked stack's files for where it will lie; returns its database's address."""
    chosen = home.chosen(environment)
    if not chosen.get(home.DATABASE, manifest.database).startswith(manifest.database):
        raise PipelineError(
            "The database must be of the kind that was backed up.",
            received=f"a backup of {manifest.database}",
            where=home.DATABASE,
            advice="Unset the variable, or name such a database.",
        )
    if manifest.database == "sqlite":
        chosen[home.DATABASE] = f"sqlite+aiosqlite:///{folder / DATABASE_FILE}"
    path = new / SERVER_FILE
    text = path.read_text().replace(f"{manifest.folder}/", f"{folder}/")
    kept = [line for line in text.splitlines(keepends=True) if line.split("=")[0] not in chosen]
    home.write_private(path, "".join(kept) + home.as_lines(chosen))
    new.chmod(0o700)
    url = home.read_private(path)[home.DATABASE]
    if manifest.database == "postgresql":
        database.require_empty(url)
    return url


def _put(new: Path, place: Path, undo: ExitStack, *, replace: bool) -> list[str]:
    """Give an unpacked folder its place; returns what was done, which `undo` takes back.

    What another command has made there meanwhile, secrets say, is left to it, and an OSError.
    """
    done = []
    place.parent.mkdir(parents=True, exist_ok=True)
    if replace and _holds_something(place):
        aside = place.with_name(f"{place.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        place.rename(aside)
        undo.callback(aside.rename, place)
        done.append(f"moved  {place} to {aside}")
    elif place.is_dir():
        place.rmdir()
    try:
        new.rename(place)
        undo.callback(shutil.rmtree, place, ignore_errors=True)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        undo.callback(shutil.rmtree, place, ignore_errors=True)
        shutil.move(new, place)  # to another file system
    return [*done, f"made   {place}"]
