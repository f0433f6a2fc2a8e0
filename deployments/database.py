"""A copy of Prefect's database while its server runs, and a database made from such a copy.

Of SQLite, the copy is a database file; of PostgreSQL, what pg_dump writes. PostgreSQL's programs
are told the address and the password through the environment, never on a command line.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from importlib.metadata import distribution
from pathlib import Path

from sqlalchemy.engine import make_url

from tasks.errors import PipelineError

REVISION = "SELECT version_num FROM alembic_version"
TURNS_BACK = "UPDATE concurrency_limit_v2 SET active_slots = 0"  # no run survives in a copy
TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()"


def sqlite_file(url: str) -> Path:
    """The file of an SQLite database. Raises PipelineError if there is none."""
    path = Path(make_url(url).database or "")
    if not path.is_file():
        raise PipelineError(
            "The database must be a file that is there.",
            received="no such file",
            where=path,
            advice="Prefect makes it when the server first starts: `make server`.",
        )
    return path


def copy(url: str, target: Path) -> str:
    """Write a copy to a new file; returns its revision. Raises PipelineError."""
    if url.startswith("sqlite"):
        return _copy_sqlite(sqlite_file(url), target)
    revision = _ask(url, REVISION)
    dump = ("--format=custom", "--no-owner", "--no-privileges", f"--file={target}")
    _postgres(url, "pg_dump", *dump)
    return revision


def _copy_sqlite(path: Path, target: Path) -> str:
    source = f"{path.as_uri()}?mode=ro"
    try:
        with (
            closing(sqlite3.connect(source, uri=True, timeout=60.0)) as server,
            closing(sqlite3.connect(target)) as copied,
            copied,
        ):
            server.backup(copied)
            copied.execute(TURNS_BACK)
            return str(copied.execute(REVISION).fetchone()[0])
    except (sqlite3.Error, TypeError) as error:  # TypeError: no revision stands there
        raise PipelineError(
            "The database must be one of Prefect's, and readable.",
            received=error,
            where=path,
            advice="Check it with `make doctor`.",
        ) from error


def require_empty(url: str) -> None:
    """Raise PipelineError unless a PostgreSQL database is there and has no tables."""
    if int(_ask(url, TABLES)):
        raise PipelineError(
            "The database to restore into must be empty.",
            received="one with tables",
            where=place(url),
            advice="Make another one (`createdb`) and name it in front: "
            "PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://… make restore FILE=….",
        )


def fill(url: str, dump: Path) -> None:
    """Make an empty PostgreSQL database what was dumped, or leave it empty and raise."""
    whole = ("--single-transaction", "--exit-on-error")
    others = ("--no-owner", "--no-privileges", "--no-comments")  # a comment is its owner's to make
    _postgres(url, "pg_restore", *whole, *others, f"--dbname={make_url(url).database}", str(dump))
    _ask(url, TURNS_BACK)


def require_known(backend: str, revision: str) -> None:
    """Raise PipelineError if a newer Prefect than the installed one has made a database."""
    # Prefect is not imported: that would make a folder in the user's home.
    migrations = "prefect/server/database/_migrations/versions"
    versions = Path(str(distribution("prefect").locate_file(migrations)), backend).glob("*.py")
    if not any(f'"{revision}"' in path.read_text() for path in versions):
        raise PipelineError(
            "The installed Prefect must be as new as the one that made the database.",
            received=f"a database at the revision {revision}, which this Prefect does not know",
            advice="Check out the release of this project that made the backup, or a later one.",
        )


def in_use(path: Path) -> bool:
    """Whether a process has an SQLite database open: a server, or a run with one of its own."""
    if not path.is_file():
        return False
    with closing(sqlite3.connect(path, timeout=0)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            database.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:  # it may be none at all
            return error.sqlite_errorcode == sqlite3.SQLITE_BUSY
    return False


def place(url: str) -> str:
    """Where a PostgreSQL database lies, without user and password."""
    address = make_url(url)
    host = f"{address.host or 'this machine'}{f':{address.port}' if address.port else ''}"
    return f"PostgreSQL at {host}, database {address.database}"


def _ask(url: str, query: str) -> str:
    return _postgres(url, "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", query)


def _postgres(url: str, program: str, *arguments: str) -> str:
    """What one of PostgreSQL's programs writes. Raises PipelineError."""
    advice = "Install PostgreSQL's client programs, of its own version."
    try:
        done = subprocess.run(
            [program, *arguments],
            env={**os.environ, **login(url)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        rule = f"{program} must be installed for a backup of PostgreSQL."
        raise PipelineError(rule, advice=advice) from error
    if done.returncode:
        raise PipelineError(
            f"{program} must succeed.",
            received=next(iter(done.stderr.splitlines()), f"status {done.returncode}"),
            where=place(url),
            advice=advice if "version" in done.stderr else "Check the address in server.env.",
        )
    return done.stdout.strip()


def login(url: str) -> dict[str, str]:
    """The variables by which PostgreSQL's programs learn an address of SQLAlchemy's."""
    address = make_url(url)
    told = {
        "PGHOST": address.host or address.query.get("host"),
        "PGPORT": address.port or address.query.get("port"),
        "PGUSER": address.username,
        "PGPASSWORD": address.password,
        "PGDATABASE": address.database,
        "PGSSLMODE": address.query.get("ssl"),
    }
    return {name: str(value) for name, value in told.items() if value}
