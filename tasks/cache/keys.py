"""Keys: everything that decides one stage's result, and what changed since an earlier one.

    Ingredients(stage="train", code={"tasks/train.py": "5d0c…", "tasks/records.py": "e31b…", …},
                libraries={"keras": "3.15.1", …},
                inputs={"ready": {"x_train": {"sha256": "9f86…", …}, …},
                        "plan": {"epochs": 12, …}})

Their digest is the stage's cache key; their difference is why it runs again:

    epochs 12 → 6; input: x_train changed; code: tasks/learning/network.py; keras 3.15.1 → 3.15.2

The code of a stage is its module and every project module that it reaches through imports,
those inside function bodies included. It is read, never run, and digested as a syntax tree
without docstrings: comments, layout and documentation do not count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from tasks.records import Record

# Where this project lies, and where, if it is installed beside everybody else's packages, only
# its own and the stage's are its code.
PROJECT_ROOT = Path(__file__).parents[2]
PROJECT_PACKAGES = ("flows", "tasks")
SHARED_FOLDERS = ("site-packages", "dist-packages")
# Libraries that make what is stored. Those that carry or schedule cannot change a result.
COMPUTING_LIBRARIES = {
    "PIL": "pillow",
    "cleanlab": "cleanlab",
    "keras": "keras",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "pandera": "pandera",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow",
    "xarray": "xarray",
}
SHOWN = 3  # names in one reason, before "and 4 more"
# Tuples made once: what `isinstance` would be given again at each of 50,000 nodes.
NESTED = (ast.AST, list)
IMPORTING = (ast.Import, ast.ImportFrom)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Ingredients(Record):
    """What a stage's result is made of.

    `code`: SHA-256 of each file; `libraries`: versions; `inputs`: JSON, by parameter.
    """

    stage: str
    code: dict[str, str]
    libraries: dict[str, str]
    inputs: dict[str, Any]

    @property
    def key(self) -> str:
        """The cache key: SHA-256 over all of it, as 64 hexadecimal digits."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


class Fingerprint(NamedTuple):
    """What a stage's result depends on besides its inputs.

    `code`: SHA-256 by file, relative to the folder of its package.
    `libraries`: installed version by distribution, and Python's own.
    """

    code: dict[str, str]
    libraries: dict[str, str]


def content_of(value: Any) -> Any:
    """An input as JSON. Raises TypeError for what is neither a record nor a plain value."""
    if isinstance(value, Record):
        return value.content()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"A stage's inputs are records or plain values. Received: {type(value)}.")


def fingerprint_of(module: str) -> Fingerprint:
    """The code and the libraries that a module reaches, itself included, as the files are now.

    Project code is what lies in the folder of the module's top-level package or of this
    project's. Raises ValueError for a module that has no file.
    """
    reached = _reached(module, _root_of(module))
    packages = {_top_level(name) for file in reached for name in file.imports}
    computing = {
        distribution: _version(distribution)
        for package, distribution in sorted(COMPUTING_LIBRARIES.items())
        if package in packages
    }
    return Fingerprint(
        code={file.name: file.sha256 for file in reached},
        libraries={"python": "{}.{}".format(*sys.version_info), **computing},
    )


def code_of_file(path: Path) -> dict[str, str]:
    """SHA-256 by file of a file of code and of what it imports from its folder and this project."""
    return {file.name: file.sha256 for file in _reached(path.stem, path.parent)}


def what_changed(old: Ingredients, new: Ingredients) -> str:
    """The differences for a person to read; empty when there are none."""
    before, after = dict(_leaves((), old.inputs)), dict(_leaves((), new.inputs))
    changed = _differing(before, after)
    named = Counter(path[-1] for path in changed)
    contents, reasons = [], []
    for path in changed:
        values = before.get(path), after.get(path)
        if any(isinstance(value, _Digest) for value in values):
            contents.append(path[-1])
        else:
            name = path[-1] if named[path[-1]] == 1 else ".".join(path)
            reasons.append(f"{name.replace('_', ' ')} {_shown(values[0])} → {_shown(values[1])}")
    if contents:
        reasons.append(f"input: {_listed(list(dict.fromkeys(contents)))} changed")
    if code := _differing(old.code, new.code):
        reasons.append(f"code: {_listed(code)}")
    reasons += [
        f"{name} {old.libraries.get(name, 'none')} → {new.libraries.get(name, 'none')}"
        for name in _differing(old.libraries, new.libraries)
    ]
    return "; ".join(reasons)


def how_different(old: Ingredients, new: Ingredients) -> int:
    """In how many inputs, files and libraries two lists differ."""
    inputs = _differing(dict(_leaves((), old.inputs)), dict(_leaves((), new.inputs)))
    code, libraries = _differing(old.code, new.code), _differing(old.libraries, new.libraries)
    return len(inputs) + len(code) + len(libraries)


class _Digest(str):
    """The digest of a content, which tells a person nothing."""

    __slots__ = ()


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every plain value by the names that lead to it; of a file or array, its digest."""
    if isinstance(value, dict) and "sha256" in value:
        yield (*path[:-1], value.get("name", path[-1])), _Digest(value["sha256"])
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _leaves((*path, name), member)
    elif isinstance(value, list) and any(isinstance(member, dict | list) for member in value):
        for number, member in enumerate(value):
            yield from _leaves((*path, str(number)), member)
    else:
        yield path, value


def _differing(old: dict[Any, Any], new: dict[Any, Any]) -> list[Any]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


class _SourceFile(NamedTuple):
    """One file of source code: its name, its digest and the modules that it may import."""

    name: str
    sha256: str
    imports: tuple[str, ...]


def _reached(module: str, root: Path) -> list[_SourceFile]:
    """The files that a module reaches, in the order of their paths."""
    roots = dict.fromkeys((root, PROJECT_ROOT))
    packages = {*PROJECT_PACKAGES, _top_level(module)}
    listed = cache(_listing)  # each folder once, as it is now
    reached: dict[Path, _SourceFile] = {}
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for folder in roots:
            shared = folder.name in SHARED_FOLDERS and _top_level(name) not in packages
            path = None if shared else _file_of(folder, name, listed)
            if path is not None:
                status = path.stat()
                # A copy may keep an old time of modification, but not of its own place.
                stamp = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
                reached[path] = _read(path, folder, name, stamp)
                waiting += [*reached[path].imports, *_parents(name)]
                break
    return [reached[path] for path in sorted(reached)]


def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - names, no paths: it is on every run's way
    except OSError:
        return frozenset()


def _file_of(root: Path, module: str, listed: Any) -> Path | None:
    """Where Python would find a module; None if it is not below this root."""
    *packages, name = module.split(".")
    folder = root
    for package in packages:
        if package not in listed(folder):
            return None
        folder = folder / package
    if name in listed(folder) and "__init__.py" in listed(folder / name):
        return folder / name / "__init__.py"
    return folder / f"{name}.py" if f"{name}.py" in listed(folder) else None


@lru_cache(maxsize=1024)
def _read(path: Path, root: Path, module: str, stamp: tuple[int, ...]) -> _SourceFile:
    """Digest a file and list its imports. `stamp` only keys the memory."""
    del stamp
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports: list[str] = []
    flat: list[object] = []
    waiting: list[object] = [ast.parse(path.read_bytes(), filename=str(path))]
    while waiting:  # the tree from its root on, each node by its type and its fields in order
        node = waiting.pop()
        if isinstance(node, ast.AST):
            if isinstance(node, IMPORTING):
                imports += _imported(node, package)
            elif isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
            flat.append(type(node).__name__)
            waiting += _fields(node, flat)
        elif isinstance(node, list):
            flat.append(len(node))
            waiting += node
        else:
            flat.append(node)
    return _SourceFile(
        name=path.relative_to(root).as_posix(),
        sha256=hashlib.sha256(repr(flat).encode()).hexdigest(),
        imports=tuple(dict.fromkeys(imports)),
    )


def _fields(node: ast.AST, flat: list[object]) -> list[object]:
    """Write down a node's plain fields; returns those that are nodes themselves."""
    nested: list[object] = []
    fields = node.__dict__
    for field in node._fields:
        value = fields.get(field)
        # Without empty ones: each version of Python adds some, and keys would differ.
        # Whether a name is read or written, its place in the tree says.
        if value is None or value == [] or field == "ctx":
            continue
        if isinstance(value, NESTED):
            flat.append(field)
            nested.append(value)
        else:
            flat.append((field, value))
    return nested


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    origin = package.split(".")[: len(package.split(".")) - max(node.level - 1, 0)]
    prefix = [*origin, *filter(None, [node.module])] if node.level else [node.module or ""]
    base = ".".join(prefix)
    yield base
    yield from (f"{base}.{alias.name}" for alias in node.names)  # perhaps submodules


def _parents(module: str) -> Iterator[str]:
    while module := module.rpartition(".")[0]:
        yield module


def _top_level(module: str) -> str:
    return module.partition(".")[0]


@lru_cache(maxsize=64)
def _root_of(module: str) -> Path:
    spec = importlib.util.find_spec(_top_level(module))
    if spec is None or spec.origin is None:
        raise ValueError(f"A stage must be defined in a module with a file. Received: {module!r}.")
    origin = Path(spec.origin)
    return origin.parent.parent if origin.name == "__init__.py" else origin.parent


@lru_cache(maxsize=64)
def _version(distribution: str) -> str:
    return metadata.version(distribution)
