"""The code of a user's own model: what it reaches, what of that counts, and that it is what runs.

    reach_of(Path("nets.py"))
    Reach(sources={"nets": …, "helper": …}, libraries={"einops": "0.8.1"}, unfollowed=(), …)

Of what `nets.py` imports, directly or not, there counts by content what is the user's own: beside
the file, elsewhere on Python's path, installed as editable. By version counts what is installed as
a distribution, with the distributions that it requires. Python's own modules count by its version,
which is in every key. What cannot be told without running it is named: imports of computed names,
changes of `sys.path`, code from text, compiled modules that are nobody's distribution.

While such a model is used, Python finds those modules here, and runs them from the very text that
was digested, whenever they are imported.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from importlib.util import decode_source, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ClassVar, NamedTuple

from tasks import PARSING
from tasks.cache.keys import (
    COMPUTING_LIBRARIES,
    PROJECT_PACKAGES,
    PROJECT_ROOT,
    SHARED_FOLDERS,
    version_of,
)
from tasks.cache.source import Source, follow, listing, read_source
from tasks.errors import ModelError

ENDINGS = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)  # in Python's own order
PYTHONS_OWN = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib"))
OF_THIS_PROJECT = tuple(f"{PROJECT_ROOT / package}/" for package in PROJECT_PACKAGES)
REQUIREMENT = re.compile(r"[\w.-]+")
CHANGED = "The model's file must not change while the run uses it."


class Place(NamedTuple):
    """Where a module is: its file, if it has one, and the folders of its own modules."""

    file: str | None
    folders: tuple[str, ...] = ()


class Reach(NamedTuple):
    """What a model's file reaches. `places`: of the modules that are the user's own."""

    file: str
    sources: dict[str, Source]
    libraries: dict[str, str]
    unfollowed: tuple[str, ...]
    places: dict[str, Place]

    @property
    def sha256(self) -> str:
        """Over what counts: the digest of each source by module, and versions."""
        code = sorted((name, source.sha256) for name, source in self.sources.items())
        return hashlib.sha256(repr((code, sorted(self.libraries.items()))).encode()).hexdigest()


def reach_of(path: Path) -> Reach:
    """What a model's file reaches, as the files are now. Raises OSError, SyntaxError, ValueError.

    Nothing is imported.
    """
    search = Search(path)
    libraries: dict[str, str] = {}
    unfollowed: list[str] = []

    def read(module: str) -> Source | None:
        file = search.place(module).file
        versions = _versions_that_count(module, file) if module != path.stem else None
        libraries.update(versions or {})
        if file is None or versions is not None:
            return None
        if not file.endswith(".py"):
            unfollowed.append(f"{Path(file).name} is compiled")
            return None
        source = read_source(file, module)
        if not file.startswith(OF_THIS_PROJECT):
            unfollowed.extend(f"{Path(file).name}, {what}" for what in source.unfollowed)
        return source

    sources = follow(path.stem, read)
    imported = {name for source in sources.values() for name in source.imports}
    own = {name for name, source in sources.items() if not source.path.startswith(OF_THIS_PROJECT)}
    parents = {name.rpartition(".")[0] for name in own} - sources.keys() - {""}
    own |= {name for name in parents if search.place(name).file is None}
    own -= {path.stem} - imported
    places = {name: search.place(name) for name in own}
    return Reach(str(path), sources, libraries, tuple(sorted(unfollowed)), places)


def _versions_that_count(module: str, file: str | None) -> dict[str, str] | None:
    """By distribution, of a module that does not count by content; None for one that does."""
    if file is None or file.startswith(OF_THIS_PROJECT):
        return None
    if any(f"/{folder}/" in file for folder in SHARED_FOLDERS):
        return versions_of(module.partition(".")[0]) or None
    return {} if file.startswith(PYTHONS_OWN) else None


class Search:
    """Where Python would find modules if the folder of a file came first on its path."""

    def __init__(self, path: Path) -> None:
        self._path = [str(path.parent), *(os.path.abspath(folder) for folder in sys.path)]  # noqa: PTH100 - text
        # `from . import x`, which Python refuses outside of a package, names "".
        self._known = {path.stem: Place(str(path)), "": Place(None)}
        self._entries = cache(listing)  # each folder once, as it is now

    def place(self, module: str) -> Place:
        """Where a module is; nowhere, if it is one of those that Python brings without a file."""
        if module not in self._known:
            parent, _, name = module.rpartition(".")
            folders = self.place(parent).folders if parent else self._path
            found = _place_in(folders, name, self._entries)
            self._known[module] = found if parent or any(found) else _found_by_others(module)
        return self._known[module]


def _place_in(
    folders: Sequence[str], name: str, entries_of: Callable[[str], frozenset[str]]
) -> Place:
    """As Python's own finder looks: a package, a module, or folders that together are one."""
    portions: list[str] = []
    for folder in folders:
        entries = entries_of(folder)
        if name in entries:
            inner = entries_of(f"{folder}/{name}")
            for ending in ENDINGS:
                if f"__init__{ending}" in inner:
                    return Place(f"{folder}/{name}/__init__{ending}", (f"{folder}/{name}",))
        for ending in ENDINGS:
            if f"{name}{ending}" in entries:
                return Place(f"{folder}/{name}{ending}")
        if name in entries and os.path.isdir(f"{folder}/{name}"):  # noqa: PTH112 - text
            portions.append(f"{folder}/{name}")
    return Place(None, tuple(portions))


def _found_by_others(module: str) -> Place:
    """By what an editable installation has left in Python, say."""
    for finder in sys.meta_path:
        if finder in (PathFinder, OwnModules):
            continue
        spec = finder.find_spec(module, None)
        if spec and spec.has_location:
            return Place(spec.origin, tuple(spec.submodule_search_locations or ()))
    return Place(None)


@cache
def versions_of(package: str) -> dict[str, str]:
    """By distribution the version of those that a package is of, and of those that they require."""
    if package in COMPUTING_LIBRARIES:
        return {COMPUTING_LIBRARIES[package]: version_of(COMPUTING_LIBRARIES[package])}
    waiting, versions = list(distributions().get(package, ())), dict[str, str]()
    while waiting:
        try:
            found = metadata.distribution(waiting.pop())
        except metadata.PackageNotFoundError:
            continue  # of another system, say
        if found.name not in versions:
            versions[found.name] = found.version
            needed = [text for text in found.requires or () if "extra ==" not in text]
            waiting += [name[0] for text in needed if (name := REQUIREMENT.match(text))]
    return versions


@cache
def distributions() -> Any:
    """Those that are installed, by the packages in them: a quarter of a second."""
    return metadata.packages_distributions()


class OwnModules:
    """Finds the modules of the model that is in use, before Python looks for them."""

    reach: ClassVar[Reach] = Reach("", {}, {}, (), {})

    @classmethod
    def find_spec(
        cls, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where one of them lies; None for others."""
        del target
        place = cls.reach.places.get(fullname)
        if place is None:
            return cls._found_beside(fullname, path) if cls.reach.unfollowed else None
        if place.file is None:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = list(place.folders)
            return spec
        loader = DigestedLoader(fullname, place.file, cls.reach.sources[fullname].sha256)
        folders = list(place.folders) or None
        return spec_from_file_location(
            fullname, place.file, loader=loader, submodule_search_locations=folders
        )

    @classmethod
    def _found_beside(cls, fullname: str, path: Any) -> ModuleSpec | None:
        """What was not followed, if it lies where the model's file does."""
        folder = os.path.dirname(cls.reach.file)  # noqa: PTH120 - text
        if fullname in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(fullname, path or [folder])
        if spec is None or not str(spec.origin).startswith(f"{folder}/"):
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = DigestedLoader(fullname, spec.loader.path)
        return spec


class DigestedLoader(SourceFileLoader):
    """Loads a module from the text that was digested: no bytecode, and no later text."""

    def __init__(self, fullname: str, path: str, sha256: str | None = None) -> None:
        super().__init__(fullname, path)
        self._sha256 = sha256

    def get_code(self, fullname: str) -> CodeType:
        """The code of that text. Raises ModelError if the file is another by now."""
        text = self.get_data(self.path)
        if self._sha256 not in (None, read_source(self.path, fullname, text).sha256):
            raise ModelError(CHANGED, where=self.path, advice="Run again.")
        # TensorFlow compiles some functions from their text: it gets this one, too.
        lines = decode_source(text).splitlines(keepends=True)
        linecache.cache[self.path] = len(text), None, lines, self.path
        with PARSING:
            return self.source_to_code(text, self.path)


def use_modules(reach: Reach) -> str:
    """From now on the modules of this model are imported, and none from memory.

    Returns the name to import its file by. Raises ModelError if another module has the name of
    one that it imports.
    """
    if OwnModules not in sys.meta_path:
        sys.meta_path.insert(0, OwnModules)
    loaded = {
        name for name, module in list(sys.modules.items())  # another thread may import
        if isinstance(getattr(module, "__loader__", None), DigestedLoader)
    }  # fmt: skip
    for name in loaded:
        del sys.modules[name]
    for name in reach.sources.keys() & reach.places.keys():
        _require_own_name(name, reach.sources[name].path)
        sys.modules.pop(name, None)
    stem = Path(reach.file).stem
    name = f"own_model_{stem}"  # stands in the model's configuration
    OwnModules.reach = reach._replace(
        sources=reach.sources | {name: reach.sources[stem]},
        places=reach.places | {name: Place(reach.file)},
    )
    return name


def _require_own_name(module: str, file: str) -> None:
    there = getattr(sys.modules.get(module), "__file__", None)
    others = module in sys.modules and (there is None or not Path(there).samefile(file))
    if others or module in sys.stdlib_module_names:
        rule = "A module that the model's file imports must not have the name of another module."
        raise ModelError(rule, received=module, where=file, advice="Rename it.")
