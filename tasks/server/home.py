"""The one place of this project's Prefect, for runs, server, worker and deployments alike.

It is made by whatever comes first, for the user's eyes only:

    <folder>/server.env       0600  addresses, database, the server's secrets
    <folder>/profiles.toml    0600  a Prefect profile: the server's address and how to log in
    <folder>/prefect.db             the database, unless another one is named
    <folder>/.lock            0600  held while the files above are made
    <folder>/server.lock      0600  held by the server as long as it lives

The folder is `PIPELINE_STACK_DIR`, or the application's folder for state. It is PREFECT_HOME of
everything that is started here, so that Prefect's own commands find the profile in it. No secret
is printed, logged or put on a command line.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from tasks import APPLICATION, expanded
from tasks.errors import PipelineError, ServerError, file_errors

FOLDER_VARIABLE = "PIPELINE_STACK_DIR"
DATA_VARIABLE = "PIPELINE_DATA_DIRS"
SERVER_FILE, PROFILES_FILE, SERVER_LOCK = "server.env", "profiles.toml", "server.lock"
LOOPBACK = "127.0.0.1"
EVERY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound to unless asked

HOST = "PREFECT_SERVER_API_HOST"
PORT = "PREFECT_SERVER_API_PORT"
UI_API_URL = "PREFECT_SERVER_UI_API_URL"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
AUTH = "PREFECT_SERVER_API_AUTH_STRING"
ENCRYPTION_KEY = "PREFECT_SERVER_ENCRYPTION_KEY"
CLIENT_URL = "PREFECT_API_URL"
CLIENT_AUTH = "PREFECT_API_AUTH_STRING"
UI_URL = "PREFECT_UI_URL"

CLIENT = (CLIENT_URL, CLIENT_AUTH)
CHOICES = (HOST, PORT, UI_API_URL, DATABASE)
SECRETS = (AUTH, ENCRYPTION_KEY)

HEADER = """\
# Made on the first start. Whoever can read it can do everything that the server can.
# Change an address or the database here, and start the server again.
"""


@dataclass(frozen=True)
class Stack:
    """Where the stack lies, and what its server is told: the variables of `server.env`."""

    folder: Path
    server: Mapping[str, str]

    @property
    def api_url(self) -> str:
        """Where clients on this machine reach the API."""
        host = LOOPBACK if self.server[HOST] in EVERY_INTERFACE else self.server[HOST]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server[PORT]}/api"

    @property
    def ui_api_url(self) -> str:
        """Where a browser reaches the API."""
        return self.server.get(UI_API_URL) or self.api_url

    @property
    def pages(self) -> str:
        """Where a browser finds the UI."""
        return self.ui_api_url.removesuffix("/api")

    @property
    def origins(self) -> str:
        """From where a browser may use the API: the UI's own pages."""
        address = urlsplit(self.ui_api_url)
        hosts = [address.netloc]
        if address.hostname == LOOPBACK:
            hosts.append(f"localhost:{address.port}")
        return ",".join(f"{address.scheme}://{host}" for host in hosts)

    @property
    def database_kind(self) -> str:
        """`postgresql` or `sqlite`."""
        return self.server[DATABASE].partition("+")[0].partition(":")[0]

    @property
    def client(self) -> dict[str, str]:
        """How a client of its server finds it and logs in."""
        return {CLIENT_URL: self.api_url, CLIENT_AUTH: self.server[AUTH]}

    @property
    def serves(self) -> bool:
        """Whether a process on this machine is its server, or about to be.

        That something answers at the address would not do: on a machine with several users, it
        may be somebody else's, who would be told the password.
        """
        try:
            with (self.folder / SERVER_LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Be its server inside the block. Raises ServerError if another process is."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / SERVER_LOCK, mode=0o600, timeout=0.2)
        try:
            held = lock.acquire()  # waits a little: a run may look at this very moment
        except Timeout as error:
            raise ServerError(
                "A folder has one server.",
                received="another one, which is running",
                where=self.folder,
                advice=f"Use that one, or choose another folder with {FOLDER_VARIABLE}.",
            ) from error
        with held:
            yield


def stack_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The stack's folder, whether it is there or not."""
    chosen = environment.get(FOLDER_VARIABLE) or platformdirs.user_state_path(APPLICATION) / "stack"
    return expanded(chosen).absolute()


def data_folders(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Where runs of deployments may read and write: the application's data, and what is added."""
    added = filter(None, environment.get(DATA_VARIABLE, "").split(os.pathsep))
    folders = [str(platformdirs.user_data_path(APPLICATION)), *added]
    return [Path(os.path.realpath(expanded(folder))) for folder in folders]


def require_certificates(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ServerError if the environment names certificates that are not there.

    Prefect cannot be imported then, and says so in fifty lines.
    """
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (value := environment.get(name)) and not Path(value).exists():
            raise ServerError(
                f"{name} must name what exists.",
                received=value,
                where="the environment",
                advice="Correct it, or unset it to use the certificates of Python's packages.",
            )


@file_errors(
    "The folder of Prefect's database and secrets must be a folder of your own.",
    advice=f"Check its owner and permissions, or choose another with {FOLDER_VARIABLE}.",
)
def open_stack(folder: Path | None = None, environment: Mapping[str, str] = os.environ) -> Stack:
    """The stack in a folder; its files are made if there are none. Raises PipelineError.

    Addresses and the database are taken from the environment on the first start only.
    """
    folder = folder or stack_folder(environment)
    path = folder / SERVER_FILE
    if not path.exists():
        made = {HOST: LOOPBACK, PORT: "4200", **new_secrets(), **chosen(environment)}
        make_private(path, HEADER + as_lines(made))
        folder.chmod(0o700)
    sqlite = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"  # not in the file: it may be moved
    stack = Stack(folder, {DATABASE: sqlite, **read_private(path)})
    needed = (HOST, PORT, *SECRETS)
    if lacking := [name for name in needed if not stack.server.get(name)]:
        raise PipelineError(
            f"The stack's file must set {', '.join(lacking)}.",
            where=path,
            advice="Take it from a backup, or remove the file to have new secrets made: blocks "
            "that were encrypted with the old key can then no longer be read.",
        )
    _write_profile(stack)
    return stack


def read_private(path: Path) -> dict[str, str]:
    """The variables of a file that nobody else may read. Raises PipelineError."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise PipelineError(
            "A file with secrets must be readable by its owner only.",
            received=f"mode {mode:04o}",
            where=path,
            advice=f"Run `chmod 600 {path}`, and renew the secrets if others could read them.",
        )
    return read_variables(path)


def read_variables(path: Path) -> dict[str, str]:
    """The NAME=VALUE lines of a file. Raises PipelineError, without the line's text."""
    variables = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        name, equals, value = line.partition("=")
        if equals and name.isidentifier():
            variables[name] = value
        elif line.strip() and not line.startswith("#"):
            where, advice = f"line {number} of {path}", "Fix the line, or put # before it."
            raise PipelineError("A line must be NAME=VALUE.", where=where, advice=advice)
    return variables


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read at any moment, in one step."""
    from tasks.cache.blobs import NewFile  # imports NumPy, and most runs write nothing here

    with NewFile(path.parent, option=FOLDER_VARIABLE) as file:
        file.write(text.encode())
        file.publish(path, sync=True)


def make_private(path: Path, text: str) -> bool:
    """Write such a file unless it is there; of several commands at once, one does. Whether it did.

    Raises PipelineError if it is there and others can read it.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    with FileLock(path.parent / ".lock", mode=0o600):
        if path.exists():
            read_private(path)
            return False
        write_private(path, text)
        return True


def as_lines(variables: Mapping[str, str]) -> str:
    """Variables as NAME=VALUE lines."""
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def chosen(environment: Mapping[str, str]) -> dict[str, str]:
    """What an operator has chosen of a new stack's addresses, its database among them."""
    return {name: environment[name] for name in CHOICES if environment.get(name)}


def new_password() -> str:
    """A new password of 43 letters, digits, dashes and underscores: 256 random bits."""
    return secrets.token_urlsafe(32)


def new_secrets() -> dict[str, str]:
    """New secrets of a server: what to log in with, and a key as `cryptography.fernet` has it."""
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return {AUTH: f"operator:{new_password()}", ENCRYPTION_KEY: key}


def _write_profile(stack: Stack) -> None:
    """Let Prefect's own commands reach the server, with the folder as PREFECT_HOME."""
    path = stack.folder / PROFILES_FILE
    lines = [f'{name} = "{value}"\n' for name, value in stack.client.items()]
    text = "".join(['active = "mnist"\n\n[profiles.mnist]\n', *lines])
    if not path.exists() or path.read_text() != text or path.stat().st_mode & 0o077:
        write_private(path, text)
