"""Files that are read as they were digested, or not at all.

A file can be rewritten after it was digested, and its size and its time set back. What a dataset's
formats read goes through here: bytes are handed out once they are known to be those of then. A file
of one block is read at once and checked against its own digest. Of a larger one, the blocks are
digested in one go with the whole, and each is checked whenever it is read: memory is for a block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from io import SEEK_SET, BufferedReader, BytesIO, FileIO, RawIOBase
from pathlib import Path
from typing import Any

from tasks.errors import DatasetError
from tasks.records import SourceFile, SourceFiles

BLOCK_BYTES = 1 << 20
OTHER_BYTES = "other bytes than those that were digested"

Opened = BufferedReader | BytesIO
Opener = Callable[[Path], Opened]


def open_unverified(path: Path) -> Opened:
    """Open a file of which no digest is known, to see what it is."""
    return path.open("rb")


class VerifiedFiles:
    """The files of a dataset, which open as they were digested."""

    def __init__(self, files: SourceFiles) -> None:
        self._files = {file.path: file for file in files}
        self._remembered_in = files.remembered_in
        self._blocks: dict[Path, list[bytes]] = {}

    def open(self, path: Path) -> Opened:
        """Open one. Now, or once it is read, it raises DatasetError if it is another."""
        try:
            return self._opened(self._files[path])
        except OSError as error:
            raise self._changed(path, error.strerror or OTHER_BYTES) from error

    def _opened(self, file: SourceFile) -> Opened:
        if file.size_bytes <= BLOCK_BYTES:
            with FileIO(file.path) as opened:
                content = opened.read(file.size_bytes)
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise self._changed(file.path)
            return BytesIO(content)
        if file.path not in self._blocks:
            self._blocks[file.path] = list(self._digest_blocks(file))
        return BufferedReader(_Blocks(file, self._blocks[file.path], self._changed))

    def _digest_blocks(self, file: SourceFile) -> Iterator[bytes]:
        whole = hashlib.sha256()
        with file.path.open("rb") as opened:
            for start in range(0, file.size_bytes, BLOCK_BYTES):
                block = opened.read(min(BLOCK_BYTES, file.size_bytes - start))
                whole.update(block)
                yield hashlib.sha256(block).digest()
        if whole.hexdigest() != file.sha256:
            raise self._changed(file.path)

    def _changed(self, path: Path, received: str = OTHER_BYTES) -> DatasetError:
        """Digests from an earlier run are forgotten: the next run digests again."""
        if self._remembered_in:
            self._remembered_in.unlink(missing_ok=True)
        return DatasetError(
            "A dataset must not change while it is read.",
            received=received,
            where=path,
            advice="Run again when nothing writes to it.",
        )


class _Blocks(RawIOBase):
    """A file of several blocks, each of which is checked before anything of it is handed out."""

    def __init__(
        self,
        file: SourceFile,
        digests: Sequence[bytes],
        changed: Callable[[Path], DatasetError],
    ) -> None:
        self._path, self._size_bytes = file.path, file.size_bytes
        self._digests, self._changed = digests, changed
        self._file, self._position = FileIO(file.path), 0
        self._number, self._block = -1, b""  # the one that was read last

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        start = (0, self._position, self._size_bytes)[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        number, start = divmod(self._position, BLOCK_BYTES)
        piece = self._checked(number)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _checked(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        if start >= self._size_bytes:
            return b""
        if number != self._number:
            length = min(BLOCK_BYTES, self._size_bytes - start)
            block = os.pread(self._file.fileno(), length, start)
            if hashlib.sha256(block).digest() != self._digests[number]:
                raise self._changed(self._path)
            self._number, self._block = number, block
        return self._block
