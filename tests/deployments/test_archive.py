"""What `make backup` keeps, and how `make restore` brings it back: without a server."""

from __future__ import annotations

import gzip
import io
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import files_below
from programs import HANG_SECONDS, ROOT, comes_true

from deployments.archive import DUMP, MANIFEST, TOP, Manifest, backup, restore
from tasks.errors import PipelineError
from tasks.server.home import (
    AUTH,
    CLIENT_AUTH,
    DATABASE,
    PORT,
    PROFILES_FILE,
    SERVER_FILE,
    Stack,
    open_stack,
)

KNOWN_REVISION = "bb2345678901"
POSTGRES = "postgresql+asyncpg://prefect:the-password@127.0.0.1:5499/prefect"
# What stands in for pg_dump and psql: it notes what it is told, and answers as they do.
RECORDER = """\
#!/bin/sh
echo "$0 $*" >> "$RECORD/arguments"
echo "$PGHOST $PGPORT $PGUSER $PGPASSWORD $PGDATABASE" >> "$RECORD/told"
for argument in "$@"; do case "$argument" in --file=*) echo dump > "${argument#--file=}"; esac; done
case "$0" in *psql) echo bb2345678901;; esac
case "$0" in *pg_dump) $WAIT;; esac
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of models as runs leave it."""
    folder = tmp_path / "home" / "models"
    (folder / "reports").mkdir(parents=True)
    (folder / "mnist-mlp-0123456789ab.keras").write_bytes(b"weights")
    (folder / "reports" / "20261126T001846-run.html").write_text("report")
    (folder / "history.jsonl").write_text("{}\n")
    return folder


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A stack whose database holds one taken turn."""
    made = open_stack(tmp_path / "home" / "stack", {PORT: "4711"})
    with closing(sqlite3.connect(made.folder / "prefect.db")) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.execute("INSERT INTO alembic_version VALUES (?)", [KNOWN_REVISION])
        database.execute("CREATE TABLE concurrency_limit_v2 (active_slots)")
        database.execute("INSERT INTO concurrency_limit_v2 VALUES (1)")
    return made


@pytest.fixture
def archive(tmp_path: Path, stack: Stack, models: Path) -> Path:
    path = tmp_path / "backup.tar.gz"
    backup(stack, models, path)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another home, in which nothing lies yet."""
    return tmp_path / "other"


def restore_in(home: Path, archive: Path, **options: Any) -> list[str]:
    return restore(archive, home / "stack", home / "models", options.pop("told", {}), **options)


def taken_turns(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "prefect.db")) as database:
        return int(database.execute("SELECT active_slots FROM concurrency_limit_v2").fetchone()[0])


def names_in(archive: Path) -> set[str]:
    with tarfile.open(archive) as tar:
        return set(tar.getnames())


class TestBackup:
    def test_keeps_secrets_profile_database_models_and_nothing_else(self, archive: Path) -> None:
        assert names_in(archive) == {
            f"{TOP}/{name}"
            for name in (
                "stack/server.env",
                "stack/profiles.toml",
                "stack/prefect.db",
                "models/mnist-mlp-0123456789ab.keras",
                "models/reports/20261126T001846-run.html",
                "models/history.jsonl",
                "manifest.json",
            )
        }

    def test_is_for_the_owners_eyes_only(self, archive: Path) -> None:
        assert stat.S_IMODE(archive.stat().st_mode) == 0o600

    def test_names_nobody_as_the_owner_of_its_files(self, archive: Path) -> None:
        with tarfile.open(archive) as tar:
            assert {(info.uid, info.uname) for info in tar} == {(0, "")}

    def test_holds_what_the_server_has_written_but_not_yet_put_in_place(
        self, tmp_path: Path, stack: Stack, models: Path, other: Path
    ) -> None:
        with closing(sqlite3.connect(stack.folder / "prefect.db")) as server:
            server.execute("CREATE TABLE later (word)")
            server.commit()
            assert (stack.folder / "prefect.db-wal").stat().st_size > 0
            backup(stack, models, tmp_path / "a.tar.gz")
        restore_in(other, tmp_path / "a.tar.gz")
        with closing(sqlite3.connect(other / "stack" / "prefect.db")) as database:
            assert database.execute("SELECT * FROM later").fetchall() == []

    def test_needs_no_models(self, tmp_path: Path, stack: Stack, other: Path) -> None:
        backup(stack, tmp_path / "none", tmp_path / "a.tar.gz")
        restore_in(other, tmp_path / "a.tar.gz")
        assert not (other / "models").exists()

    @pytest.mark.parametrize("damage", ["missing", "not a database", "not one of Prefect's"])
    def test_that_fails_leaves_nothing(
        self, tmp_path: Path, stack: Stack, models: Path, damage: str
    ) -> None:
        path = stack.folder / "prefect.db"
        path.unlink()
        if damage == "not a database":
            path.write_bytes(b"no database" * 100)
        elif damage == "not one of Prefect's":
            sqlite3.connect(path).execute("CREATE TABLE other (word)").connection.close()
        (place := tmp_path / "place").mkdir()
        with pytest.raises(PipelineError, match="The database must be"):
            backup(stack, models, place / "a.tar.gz")
        assert list(place.iterdir()) == []

    def test_replaces_no_file(self, stack: Stack, models: Path, archive: Path) -> None:
        before = archive.read_bytes()
        with pytest.raises(PipelineError, match="A backup replaces no file"):
            backup(stack, models, archive)
        assert archive.read_bytes() == before

    @pytest.mark.parametrize("place", ["stack", "models/reports"])
    def test_does_not_lie_in_what_it_keeps(self, stack: Stack, models: Path, place: str) -> None:
        with pytest.raises(PipelineError, match="must lie outside"):
            backup(stack, models, models.parent / place / "a.tar.gz")

    def test_of_a_folder_that_is_not_there_says_so(self, stack: Stack, models: Path) -> None:
        with pytest.raises(PipelineError, match="No such file or directory"):
            backup(stack, models, models.parent / "missing" / "a.tar.gz")


class TestPostgres:
    """With programs that stand in for PostgreSQL's own."""

    @pytest.fixture
    def record(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (folder := tmp_path / "record").mkdir()
        for program in ("psql", "pg_dump", "pg_restore"):
            (folder / program).write_text(RECORDER)
            (folder / program).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setenv("RECORD", str(folder))
        monkeypatch.setenv("WAIT", "true")
        return folder

    def test_password_is_on_no_command_line(
        self, tmp_path: Path, models: Path, record: Path
    ) -> None:
        stack = open_stack(tmp_path / "home" / "stack", {DATABASE: POSTGRES})
        backup(stack, models, tmp_path / "a.tar.gz")
        assert "the-password" not in (record / "arguments").read_text()
        told = set((record / "told").read_text().splitlines())
        assert told == {"127.0.0.1 5499 prefect the-password prefect"}
        assert f"{TOP}/{DUMP}" in names_in(tmp_path / "a.tar.gz")

    def test_database_with_tables_is_left_alone(
        self, tmp_path: Path, models: Path, record: Path, other: Path
    ) -> None:
        stack = open_stack(tmp_path / "home" / "stack", {DATABASE: POSTGRES})
        (record / "psql").write_text("#!/bin/sh\necho aa1234567890\n")
        backup(stack, models, tmp_path / "a.tar.gz")
        (record / "psql").write_text("#!/bin/sh\necho 42\n")
        with pytest.raises(PipelineError, match="must be empty") as raised:
            restore_in(other, tmp_path / "a.tar.gz")
        assert "the-password" not in str(raised.value)
        assert files_below(other) == set()

    def test_program_that_is_missing_or_fails_is_named(
        self, tmp_path: Path, models: Path, record: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stack = open_stack(tmp_path / "home" / "stack", {DATABASE: POSTGRES})
        (record / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump: error: no' >&2; exit 1\n")
        with pytest.raises(PipelineError, match=r"pg_dump must succeed. Received: pg_dump: error"):
            backup(stack, models, tmp_path / "a.tar.gz")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(PipelineError, match="psql must be installed"):
            backup(stack, models, tmp_path / "a.tar.gz")

    @pytest.mark.process
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_backup_that_is_ended_by_a_signal_leaves_nothing(
        self, tmp_path: Path, record: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        open_stack(tmp_path / "stack", {DATABASE: POSTGRES})
        (place := tmp_path / "place").mkdir()
        monkeypatch.setenv("WAIT", f"sleep {HANG_SECONDS}")
        monkeypatch.setenv("PIPELINE_STACK_DIR", str(tmp_path / "stack"))
        command = [sys.executable, "-m", "deployments", "backup", str(place / "a.tar.gz")]
        with subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True, text=True
        ) as process:
            assert process.stderr is not None
            assert comes_true(lambda: "pg_dump" in _text(record / "arguments"), HANG_SECONDS)
            os.killpg(process.pid, number)
            assert process.stderr.read() == ""
        assert process.returncode == 128 + number
        assert list(place.iterdir()) == []


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class TestRestore:
    def test_brings_everything_back_under_another_home(
        self, stack: Stack, models: Path, archive: Path, other: Path
    ) -> None:
        restore_in(other, archive)
        restored = open_stack(other / "stack", {})
        url = f"sqlite+aiosqlite:///{other / 'stack' / 'prefect.db'}"
        assert restored.server == {**stack.server, DATABASE: url}
        assert files_below(other / "models") == files_below(models)
        assert (other / "models" / "history.jsonl").read_text() == "{}\n"
        assert str(models.parent) not in (other / "stack" / SERVER_FILE).read_text()

    def test_files_have_the_modes_that_they_had(self, archive: Path, other: Path) -> None:
        restore_in(other, archive)
        modes = {
            name: stat.S_IMODE((other / name).stat().st_mode)
            for name in ("stack", f"stack/{SERVER_FILE}", f"stack/{PROFILES_FILE}")
        }
        assert list(modes.values()) == [0o700, 0o600, 0o600]

    def test_profile_logs_in_at_the_server(self, archive: Path, other: Path) -> None:
        restore_in(other, archive, told={PORT: "4712"})
        profile = (other / "stack" / PROFILES_FILE).read_text()
        password = open_stack(other / "stack", {}).server[AUTH]
        assert f'{CLIENT_AUTH} = "{password}"' in profile
        assert "http://127.0.0.1:4712/api" in profile

    def test_gives_back_the_turns_that_runs_had(self, archive: Path, other: Path) -> None:
        restore_in(other, archive)
        assert taken_turns(other / "stack") == 0

    def test_keeps_comments_and_variables_of_the_operators_own(
        self, tmp_path: Path, stack: Stack, models: Path, other: Path
    ) -> None:
        with (stack.folder / SERVER_FILE).open("a") as file:
            file.write(f"# mine\nPREFECT_LOGGING_LEVEL=DEBUG\nMY_FILE={stack.folder}/mine\n")
        backup(stack, models, tmp_path / "a.tar.gz")
        restore_in(other, tmp_path / "a.tar.gz")
        text = (other / "stack" / SERVER_FILE).read_text()
        assert f"# mine\nPREFECT_LOGGING_LEVEL=DEBUG\nMY_FILE={other}/stack/mine\n" in text

    def test_needs_a_database_of_the_same_kind(self, archive: Path, other: Path) -> None:
        with pytest.raises(PipelineError, match="of the kind that was backed up"):
            restore_in(other, archive, told={DATABASE: POSTGRES})
        assert files_below(other) == set()

    @pytest.mark.parametrize("place", ["stack", "models"])
    def test_refuses_where_something_lies(self, archive: Path, other: Path, place: str) -> None:
        (other / place).mkdir(parents=True)
        (other / place / "mine").touch()
        with pytest.raises(PipelineError, match=r"where there is nothing yet.*REPLACE=1"):
            restore_in(other, archive)
        assert files_below(other) == {f"{place}/mine"}

    def test_leaves_the_secrets_that_a_command_has_made_meanwhile(
        self, archive: Path, other: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[Stack] = []

        def meanwhile(*places: Path) -> None:
            made.append(open_stack(places[0], {}))

        monkeypatch.setattr("deployments.archive._require_free", meanwhile)
        with pytest.raises(PipelineError):
            restore_in(other, archive)
        assert open_stack(other / "stack", {}) == made[0]
        assert {path.name for path in other.iterdir()} == {"stack"}

    def test_moves_aside_what_lies_there_when_asked(self, archive: Path, other: Path) -> None:
        for place in ("stack", "models"):
            (other / place).mkdir(parents=True)
            (other / place / "mine").write_text(place)
        restore_in(other, archive, replace=True)
        for place in ("stack", "models"):
            assert not (other / place / "mine").exists()
            (aside,) = other.glob(f"{place}.before-restore-*")
            assert (aside / "mine").read_text() == place

    def test_refuses_while_a_server_runs(self, archive: Path, stack: Stack, models: Path) -> None:
        with stack.serving(), pytest.raises(PipelineError, match="Nothing may use the database"):
            restore(archive, stack.folder, models, {}, replace=True)
        assert open_stack(stack.folder, {}) == stack

    def test_refuses_while_a_run_has_the_database_open(
        self, archive: Path, stack: Stack, models: Path
    ) -> None:
        with closing(sqlite3.connect(stack.folder / "prefect.db")) as run:
            run.execute("SELECT * FROM alembic_version")
            with pytest.raises(PipelineError, match="Nothing may use the database"):
                restore(archive, stack.folder, models, {}, replace=True)
        restore(archive, stack.folder, models, {}, replace=True)

    def test_that_fails_half_way_takes_everything_back(
        self, archive: Path, tmp_path: Path, other: Path
    ) -> None:
        (other / "stack").mkdir(parents=True)
        (other / "stack" / "mine").touch()
        (tmp_path / "file").touch()
        with pytest.raises(PipelineError, match="must be readable and writable"):
            restore(archive, other / "stack", tmp_path / "file" / "models", {}, replace=True)
        assert files_below(other) == {"stack/mine"}
        assert [path.name for path in other.iterdir()] == ["stack"]

    def test_of_a_newer_prefects_database_is_refused(
        self, tmp_path: Path, stack: Stack, models: Path, other: Path
    ) -> None:
        with closing(sqlite3.connect(stack.folder / "prefect.db")) as database, database:
            database.execute("UPDATE alembic_version SET version_num = 'feedfacecafe'")
        backup(stack, models, tmp_path / "a.tar.gz")
        with pytest.raises(PipelineError, match=r"must be as new as .* revision feedfacecafe"):
            restore_in(other, tmp_path / "a.tar.gz")
        assert files_below(other) == set()


def members(archive: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(archive) as tar:
        for info in tar:
            file = tar.extractfile(info)
            yield info, file.read() if file else b""


def write_members(path: Path, pairs: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in pairs:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def strange(kind: str, outside: Path) -> tarfile.TarInfo:
    """A member that would be written elsewhere, or that leads there."""
    names = {"absolute": str(outside / "planted"), "above": f"{TOP}/../../planted"}
    info = tarfile.TarInfo(names.get(kind, f"{TOP}/models/planted"))
    types = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    info.type, info.linkname = types.get(kind, tarfile.REGTYPE), str(outside / "target")
    return info


class TestArchiveThatIsNotWhole:
    """Each is refused, and nothing lies anywhere afterwards."""

    @pytest.fixture
    def refused(self, other: Path) -> Any:
        def holds(archive: Path) -> bool:
            with pytest.raises(PipelineError, match="must be a whole archive"):
                restore_in(other, archive)
            return not other.exists() or list(other.iterdir()) == []

        return holds

    @pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 0.999])
    def test_truncated(self, archive: Path, refused: Any, fraction: float) -> None:
        whole = archive.read_bytes()
        archive.write_bytes(whole[: int(len(whole) * fraction)])
        assert refused(archive)

    @pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
    def test_damaged(self, archive: Path, refused: Any, place: float) -> None:
        damaged = bytearray(archive.read_bytes())
        damaged[int(len(damaged) * place)] ^= 0xFF  # one bit alone may mean the same to gzip
        archive.write_bytes(damaged)
        assert refused(archive)

    def test_damaged_checksum(self, archive: Path, refused: Any) -> None:
        damaged = bytearray(archive.read_bytes())
        damaged[-8] ^= 1
        archive.write_bytes(damaged)
        assert refused(archive)

    @pytest.mark.parametrize(
        "content",
        [b"", b"text", gzip.compress(b"text")],
        ids=["nothing", "text", "zipped"],  # zipped, it holds the second of its making
    )
    def test_no_archive(self, tmp_path: Path, refused: Any, content: bytes) -> None:
        (tmp_path / "other.tar.gz").write_bytes(content)
        assert refused(tmp_path / "other.tar.gz")

    def test_missing_file(self, tmp_path: Path, other: Path) -> None:
        with pytest.raises(PipelineError, match=r"No such file .* \(in .*/missing.tar.gz\)"):
            restore_in(other, tmp_path / "missing.tar.gz")

    def test_somebody_elses_archive(self, tmp_path: Path, refused: Any) -> None:
        write_members(tmp_path / "a.tar.gz", [(tarfile.TarInfo("notes.txt"), b"notes")])
        assert refused(tmp_path / "a.tar.gz")

    @pytest.mark.parametrize(
        "name", ["manifest.json", "stack/server.env", "stack/prefect.db", "models/history.jsonl"]
    )
    def test_lacks_a_member(self, archive: Path, refused: Any, name: str) -> None:
        kept = [pair for pair in members(archive) if pair[0].name != f"{TOP}/{name}"]
        write_members(archive, kept)
        assert refused(archive)

    def test_of_a_later_release(self, archive: Path, refused: Any) -> None:
        *others, (info, content) = members(archive)
        write_members(archive, [*others, (info, content.replace(b'"version":1', b'"version":2'))])
        assert refused(archive)

    def test_lacks_the_secrets_by_its_own_manifest(self, archive: Path, refused: Any) -> None:
        kept = [pair for pair in members(archive) if not pair[0].name.endswith(SERVER_FILE)]
        info, content = kept[-1]
        manifest = Manifest.model_validate_json(content)
        files = manifest.files - {f"stack/{SERVER_FILE}"}
        written = manifest.model_copy(update={"files": files}).model_dump_json()
        assert info.name == f"{TOP}/{MANIFEST}"
        write_members(archive, [*kept[:-1], (info, written.encode())])
        assert refused(archive)

    @pytest.mark.parametrize(
        "kind", ["absolute", "above", "link", "hard link", "device", "one too many"]
    )
    def test_holds_what_a_backup_never_does(
        self, tmp_path: Path, archive: Path, refused: Any, kind: str
    ) -> None:
        (outside := tmp_path / "outside").mkdir()
        write_members(archive, [(strange(kind, outside), b""), *members(archive)])
        assert refused(archive)
        assert list(outside.iterdir()) == []
        assert not (tmp_path / "planted").exists()
