"""What the stack keeps to itself: made on the first start, for the user's eyes only.

    <folder>/server.env       0600  addresses, database, the server's secrets
    <folder>/profiles.toml    0600  a Prefect profile: the server's address and how to log in
    <folder>/prefect.db             the database, unless another one is named

The folder is `PIPELINE_STACK_DIR`, or the application's folder for state. It is PREFECT_HOME of
everything that is started here, so that Prefect's own commands find the profile in it. No secret
is printed, logged or put on a command line.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
from cryptography.fernet import Fernet

from tasks.errors import PipelineError
from tasks.settings import APPLICATION

FOLDER_VARIABLE = "PIPELINE_STACK_DIR"
PROFILE = "mnist"
USER = "operator"
PRIVATE = 0o600
LOOPBACK = "127.0.0.1"
# Addresses that mean "every interface": clients on this machine use loopback.
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, never bound to unless asked

HOST = "PREFECT_SERVER_API_HOST"
PORT = "PREFECT_SERVER_API_PORT"
UI_API_URL = "PREFECT_SERVER_UI_API_URL"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
AUTH = "PREFECT_SERVER_API_AUTH_STRING"
ENCRYPTION_KEY = "PREFECT_SERVER_ENCRYPTION_KEY"
CLIENT_URL = "PREFECT_API_URL"
CLIENT_AUTH = "PREFECT_API_AUTH_STRING"

CHOICES = (HOST, PORT, UI_API_URL, DATABASE)
SECRETS = (AUTH, ENCRYPTION_KEY)
COMPOSE_PASSWORDS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD")

HEADER = """\
# Made on the first start. Whoever can read it can do everything that the server can.
# Change an address or the database here, and start the server again.
"""


class CredentialsError(PipelineError):
    """The stack's files cannot be used as they are."""


@dataclass(frozen=True)
class Stack:
    """Where the stack lies, and what its server is told.

    Args:
        folder: of everything that belongs to the stack; 0700.
        server: the variables of `server.env`.
    """

    folder: Path
    server: Mapping[str, str]

    @property
    def api_url(self) -> str:
        """Where clients on this machine reach the API."""
        host = LOOPBACK if self.server[HOST] in EVERYWHERE else self.server[HOST]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server[PORT]}/api"

    @property
    def ui_api_url(self) -> str:
        """Where a browser reaches the API."""
        return self.server.get(UI_API_URL) or self.api_url

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


def stack_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The stack's folder, whether it is there or not."""
    chosen = environment.get(FOLDER_VARIABLE)
    return (
        Path(chosen).expanduser().absolute()
        if chosen
        else platformdirs.user_state_path(APPLICATION) / "stack"
    )


def server_file(folder: Path) -> Path:
    """Where the server's variables lie."""
    return folder / "server.env"


def profiles_file(folder: Path) -> Path:
    """Where Prefect finds its profiles when the folder is PREFECT_HOME."""
    return folder / "profiles.toml"


def open_stack(folder: Path, environment: Mapping[str, str] = os.environ) -> Stack:
    """The stack in a folder; its files are made if there are none.

    Addresses and the database are taken from the environment on the first start only.

    Raises:
        CredentialsError: a file is readable by others, or a line of it is not NAME=VALUE.
    """
    path = server_file(folder)
    if not path.exists():
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        write_private(path, HEADER + as_lines(_made(folder, environment)))
    stack = Stack(folder, read_private(path))
    if lacking := [name for name in (HOST, PORT, DATABASE, *SECRETS) if not stack.server.get(name)]:
        raise CredentialsError(
            f"The stack's file must set {', '.join(lacking)}.",
            where=path,
            advice="Take it from a backup, or remove the file to have new secrets made: blocks "
            "that were encrypted with the old key can then no longer be read.",
        )
    _write_profile(stack)
    return stack


def read_private(path: Path) -> dict[str, str]:
    """The NAME=VALUE lines of a file. Raises CredentialsError."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise CredentialsError(
            "A file with secrets must be readable by its owner only.",
            received=f"mode {mode:04o}",
            where=path,
            advice=f"Run `chmod 600 {path}`, and renew the secrets if others could read them.",
        )
    variables = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.isidentifier():
            raise CredentialsError(
                "A line must be NAME=VALUE.",
                where=f"line {number} of {path}",
                advice="Mend the line, or put # before it.",
            )
        variables[name] = value
    return variables


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read at any moment, in one step."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def as_lines(variables: Mapping[str, str]) -> str:
    """Variables as NAME=VALUE lines."""
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def new_password() -> str:
    """A new password of 43 letters, digits, dashes and underscores: 256 random bits."""
    return secrets.token_urlsafe(32)


def new_secrets() -> dict[str, str]:
    """New secrets of a server."""
    return {
        AUTH: f"{USER}:{new_password()}",
        ENCRYPTION_KEY: Fernet.generate_key().decode(),
    }


def make_compose_secrets(path: Path) -> bool:
    """Make the file that the compose file takes its secrets from; False if it is there.

    Raises:
        CredentialsError: it is there, and others can read it.
    """
    if path.exists():
        read_private(path)
        return False
    passwords = {name: new_password() for name in COMPOSE_PASSWORDS}
    write_private(path, as_lines({**passwords, **new_secrets()}))
    return True


def _made(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    defaults = {
        HOST: LOOPBACK,
        PORT: "4200",
        DATABASE: f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
    }
    chosen = {name: environment[name] for name in CHOICES if environment.get(name)}
    return {**defaults, **chosen, **new_secrets()}


def _write_profile(stack: Stack) -> None:
    """Let Prefect's own commands reach the server, with the folder as PREFECT_HOME."""
    path = profiles_file(stack.folder)
    text = (
        f'active = "{PROFILE}"\n\n[profiles.{PROFILE}]\n'
        f'{CLIENT_URL} = "{stack.api_url}"\n{CLIENT_AUTH} = "{stack.server[AUTH]}"\n'
    )
    if not path.exists() or path.read_text() != text or path.stat().st_mode & 0o077:
        write_private(path, text)
