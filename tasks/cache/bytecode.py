"""What runs is what the key says: bytecode of this project is judged by its source's content.

Python takes a `.pyc` for its source if their size and their time, in whole seconds, agree. After an
edit of equal size that keeps the time (`rsync -t`, `cp -p`, image layers, two edits in one second)
the old code would run, and its result be kept under the new code's key. Here a `.pyc` holds the
hash of its source (PEP 552), as Python itself checks it, and another one is made again.
"""

from __future__ import annotations

import marshal
import os
import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

CHECKED_HASH = (0b11).to_bytes(4, "little")
PACKAGES = ("tasks", "flows")


class CheckedLoader(SourceFileLoader):
    """Python's loader of source files, which takes only bytecode made of the same bytes."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of a module's source as it is now."""
        place = self.get_filename(fullname)
        source = self.get_data(place)
        header = MAGIC_NUMBER + CHECKED_HASH + source_hash(source)
        compiled = cache_from_source(place)
        with suppress(OSError, EOFError, ValueError, TypeError):  # none yet, or a damaged one
            found = self.get_data(compiled)
            if found.startswith(header) and isinstance(
                code := marshal.loads(memoryview(found)[len(header) :]),  # noqa: S302 - as Python
                CodeType,
            ):
                return code
        code = self.source_to_code(source, place)
        if not sys.dont_write_bytecode:
            with suppress(OSError):
                write_whole(Path(compiled), header + marshal.dumps(code))
        return code


class CheckedFinder:
    """Finds this project's modules where Python does, for them to be loaded by that loader."""

    @staticmethod
    def find_spec(
        fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module of this project lies; None for others."""
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):  # or what a library made of it
            spec.loader = CheckedLoader(spec.loader.name, spec.loader.path)
        return spec


def check_bytecode() -> None:
    """Use it from now on in this process, where Python would look for modules on its path."""
    if CheckedFinder not in sys.meta_path:
        sys.meta_path.insert(sys.meta_path.index(PathFinder), CheckedFinder)


def write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all, whoever else writes it."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
