"""What may stand in the place of a file, put there by a person, a program or a failing disk."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HANG_SECONDS = 60


def pipe(path: Path, _: bytes) -> None:
    """Whoever opens it to read waits for a writer."""
    os.mkfifo(path)


def folder(path: Path, _: bytes) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("of somebody")


def link(path: Path, content: bytes) -> None:
    """To a file with the content that was there before: it would be right."""
    outside = path.with_name("outside.partial")
    outside.write_bytes(content)
    path.symlink_to(outside)


def dangling_link(path: Path, _: bytes) -> None:
    path.symlink_to("nowhere")


def socket(path: Path, _: bytes) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def device(path: Path, _: bytes) -> None:
    """/dev/zero, which never ends."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


Kind = Callable[[Path, bytes], None]
KINDS: list[Kind] = [pipe, folder, link, dangling_link, socket, device]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])


def replace_by(kind: Kind, path: Path) -> None:
    """Put something strange in the place of a file, or where none is."""
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    kind(path, content)


@contextmanager
def no_hanging() -> Iterator[None]:
    """Turn waiting for ever into an error."""

    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
