"""What decides a stage's result besides its inputs: its code and its libraries.

The code of a stage is its module and every project module that it reaches through imports,
those inside function bodies included. It is read, never run, and hashed as a syntax tree
without docstrings: comments, layout and documentation do not count.

    Fingerprint(code={"tasks/preprocess.py": "5d0c…", "tasks/validation/schema.py": "e31b…", …},
                libraries={"numpy": "2.3.5", "pandera": "0.35.1", …})
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from tasks import STARTED_NS

# Where this project lies, and where, if it is installed beside everybody else's packages, only
# its own and the stage's are its code.
PROJECT_ROOT = Path(__file__).parents[2]
PROJECT_PACKAGES = ("flows", "tasks")
EDITED = "code edited during the run"  # why a result is not kept
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


# Tuples made once: what `isinstance` would be given anew at each of 50,000 nodes.
NESTED = (ast.AST, list)
IMPORTING = (ast.Import, ast.ImportFrom)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Fingerprint(NamedTuple):
    """What a stage's result depends on besides its inputs.

    `code`: SHA-256 by file, relative to the folder of its package.
    `libraries`: installed version by distribution, and Python's own.
    `edited`: the files that changed after this process started, so that what runs is not
    what `code` says.
    """

    code: dict[str, str]
    libraries: dict[str, str]
    edited: list[str]


def fingerprint_of(module: str) -> Fingerprint:
    """The code and the libraries that a module reaches, itself included.

    Project code is what lies in the folder of the module's top-level package or of this
    project's. Raises ValueError for a module that has no file.
    """
    reached = _reached(module, _root_of(module))
    packages = {top_level(name) for file in reached.values() for name in file.imports}
    computing = {
        distribution: _version(distribution)
        for package, distribution in sorted(COMPUTING_LIBRARIES.items())
        if package in packages
    }
    return Fingerprint(
        code={file.name: file.sha256 for file in reached.values()},
        libraries={"python": "{}.{}".format(*sys.version_info), **computing},
        edited=[file.name for path, file in reached.items() if max(_stamp(path)[:2]) > STARTED_NS],
    )


def code_of_file(path: Path) -> dict[str, str]:
    """SHA-256 by file of a file of code and of what it imports from its folder and this project."""
    _is_here.cache_clear()  # files of a user's come and go while the process lives
    reached = _reached(path.stem, path.parent)
    return {file.name: file.sha256 for file in reached.values()}


def top_level(module: str) -> str:
    """The package that a module is in."""
    return module.partition(".")[0]


class SourceCode(NamedTuple):
    """One file of source code: its name, its digest and the modules that it may import."""

    name: str
    sha256: str
    imports: tuple[str, ...]


def _reached(module: str, root: Path) -> dict[Path, SourceCode]:
    roots = dict.fromkeys((root, PROJECT_ROOT))
    packages = {*PROJECT_PACKAGES, top_level(module)}
    reached: dict[Path, SourceCode] = {}
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for folder in roots:
            shared = folder.name in SHARED_FOLDERS and top_level(name) not in packages
            here = not shared and _is_here(folder, top_level(name))
            path = _file_of(folder, name) if here else None
            if path is not None:
                reached[path] = _read(path, folder, name, _stamp(path))
                waiting += [*reached[path].imports, *_parents(name)]
                break
    return dict(sorted(reached.items()))


def _stamp(path: Path) -> tuple[int, int, int]:
    """What differs when a file has changed: times of its content and its place, and its size."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size  # a copy may keep an old mtime


@lru_cache(maxsize=1024)
def _read(path: Path, root: Path, module: str, stamp: tuple[int, int, int]) -> SourceCode:
    """Digest a file and list its imports. `stamp` only keys the cache."""
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
            elif isinstance(node, DOCUMENTED):
                _drop_docstring(node)
            flat.append(type(node).__name__)
            fields = node.__dict__
            for field in node._fields:
                value = fields.get(field)
                # Without empty ones: each version of Python adds some, and keys would differ.
                # Whether a name is read or written, its place in the tree says.
                if value is None or value == [] or field == "ctx":
                    continue
                if isinstance(value, NESTED):
                    flat.append(field)
                    waiting.append(value)
                else:
                    flat.append((field, value))
        elif isinstance(node, list):
            flat.append(len(node))
            waiting += node
        else:
            flat.append(node)
    return SourceCode(
        name=path.relative_to(root).as_posix(),
        sha256=hashlib.sha256(repr(flat).encode()).hexdigest(),
        imports=tuple(dict.fromkeys(imports)),
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
    spec = importlib.util.find_spec(top_level(module))
    if spec is None or spec.origin is None:
        raise ValueError(f"A stage must be defined in a module with a file. Received: {module!r}.")
    origin = Path(spec.origin)
    return origin.parent.parent if origin.name == "__init__.py" else origin.parent


@lru_cache(maxsize=1024)
def _is_here(root: Path, package: str) -> bool:
    return (root / package).is_dir() or (root / f"{package}.py").is_file()


def _file_of(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):  # as Python does
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=64)
def _version(distribution: str) -> str:
    return metadata.version(distribution)
