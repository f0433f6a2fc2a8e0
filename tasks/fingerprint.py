"""What decides a stage's result besides its inputs: its code and its libraries.

The code of a stage is its module and every project module that it reaches through imports,
those inside function bodies included. It is read, never run, and hashed as a syntax tree
without docstrings: comments, layout and documentation do not count.

    Fingerprint(code={"tasks/preprocess.py": "5d0c…", "tasks/schema.py": "e31b…", …},
                libraries={"numpy": "2.3.5", "pandera": "0.35.1", …})
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import time
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# What runs is what was imported; a file that changed later is not what its digest would say.
STARTED_NS = time.time_ns()

# What counts as the project's code beside the package that the stage itself is in.
PROJECT_PACKAGES = ("flows", "tasks")

# Libraries that compute values. Those that carry, draw or schedule cannot change a result.
COMPUTING_LIBRARIES = {
    "keras": "keras",
    "numpy": "numpy",
    "pandas": "pandas",
    "pandera": "pandera",
    "tensorflow": "tensorflow",
    "xarray": "xarray",
}


class Fingerprint(NamedTuple):
    """What a stage's result depends on besides its inputs.

    `code`: SHA-256 by file, relative to the folder of its package.
    `libraries`: installed version by distribution.
    `edited`: the files that changed after this process started, so that what runs is not
    what `code` says.
    """

    code: dict[str, str]
    libraries: dict[str, str]
    edited: list[str]


def fingerprint_of(module: str) -> Fingerprint:
    """The code and the libraries that a module reaches, itself included.

    A project module is one of PROJECT_PACKAGES or of the module's own top-level package.
    Raises ValueError for a module that has no file.
    """
    root = _root_of(module)
    reached = _reached(module, root)
    packages = {name.partition(".")[0] for file in reached.values() for name in file.imports}
    return Fingerprint(
        code={path.relative_to(root).as_posix(): file.sha256 for path, file in reached.items()},
        libraries={
            distribution: _version(distribution)
            for package, distribution in sorted(COMPUTING_LIBRARIES.items())
            if package in packages
        },
        edited=[
            path.relative_to(root).as_posix()
            for path in reached
            if path.stat().st_mtime_ns > STARTED_NS
        ],
    )


class SourceCode(NamedTuple):
    """One file of source code: its digest and the modules that it may import."""

    sha256: str
    imports: tuple[str, ...]


def _reached(module: str, root: Path) -> dict[Path, SourceCode]:
    packages = {*PROJECT_PACKAGES, module.partition(".")[0]}
    reached: dict[Path, SourceCode] = {}
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] not in packages:
            continue
        seen.add(name)
        path = _file_of(root, name)
        if path is not None:
            reached[path] = _read(path, name, path.stat().st_mtime_ns)
            waiting += [*reached[path].imports, *_parents(name)]
    return dict(sorted(reached.items()))


@lru_cache(maxsize=1024)
def _read(path: Path, module: str, modified_ns: int) -> SourceCode:
    """Digest a file and list its imports. `modified_ns` only keys the cache."""
    del modified_ns
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imports: list[str] = []
    flat: list[object] = []
    waiting: list[object] = [ast.parse(path.read_bytes(), filename=str(path))]
    while waiting:  # the tree from its root on, each node by its type and its fields in order
        node = waiting.pop()
        if isinstance(node, ast.AST):
            flat.append(type(node).__name__)
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports += _imported(node, package)
            elif isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ):
                _drop_docstring(node)
            waiting += [getattr(node, field, None) for field in node._fields]
        elif isinstance(node, list):
            flat.append(len(node))
            waiting += node
        else:
            flat.append(node)
    return SourceCode(
        hashlib.sha256(repr(flat).encode()).hexdigest(), tuple(dict.fromkeys(imports))
    )


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    origin = package.split(".")[: len(package.split(".")) - max(node.level - 1, 0)]
    prefix = [*origin, *filter(None, [node.module])] if node.level else [node.module or ""]
    base = ".".join(prefix)
    yield base
    yield from (f"{base}.{alias.name}" for alias in node.names)  # perhaps submodules


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]


def _parents(module: str) -> Iterator[str]:
    while module := module.rpartition(".")[0]:
        yield module


@lru_cache(maxsize=64)
def _root_of(module: str) -> Path:
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None or spec.origin is None:
        raise ValueError(f"A stage must be defined in a module with a file. Received: {module!r}.")
    origin = Path(spec.origin)
    return origin.parent.parent if origin.name == "__init__.py" else origin.parent


def _file_of(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=64)
def _version(distribution: str) -> str:
    return metadata.version(distribution)
