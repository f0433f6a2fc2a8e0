"""What decides a stage's result besides its inputs: its code and its libraries.

The code of a stage is its module and every project module that it reaches through imports,
those inside function bodies included. It is read, never run, and hashed as a syntax tree
without docstrings: comments, layout and documentation do not count.

    {"tasks.preprocess": "5d0c…", "tasks.schema": "e31b…", "tasks.records": "a90f…", …}
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


def code_of(module: str) -> dict[str, str]:
    """The digest of each project module that a module reaches, itself included.

    A project module is one of PROJECT_PACKAGES or of the module's own top-level package.
    """
    return {name: digest for name, (_, digest, _) in _reached(module).items()}


def changed_since_start(module: str) -> list[str]:
    """The project modules that a module reaches and whose files are newer than this process."""
    reached = _reached(module).items()
    return [name for name, (modified_ns, *_) in reached if modified_ns > STARTED_NS]


def libraries_of(module: str) -> dict[str, str]:
    """The installed version of each computing library that a module reaches."""
    imported = {
        target.partition(".")[0] for *_, targets in _reached(module).values() for target in targets
    }
    return {
        distribution: _version(distribution)
        for package, distribution in sorted(COMPUTING_LIBRARIES.items())
        if package in imported
    }


def _reached(module: str) -> dict[str, tuple[int, str, tuple[str, ...]]]:
    """Each project module that a module reaches: modification time, digest, what it imports."""
    root = _root_of(module)
    packages = {*PROJECT_PACKAGES, module.partition(".")[0]}
    reached: dict[str, tuple[int, str, tuple[str, ...]]] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in reached or name.partition(".")[0] not in packages:
            continue
        path = _file_of(root, name)
        if path is None:
            continue
        modified_ns = path.stat().st_mtime_ns
        reached[name] = (modified_ns, *_read(path, name, modified_ns))
        waiting += [*reached[name][2], *_parents(name)]
    return dict(sorted(reached.items()))


@lru_cache(maxsize=1024)
def _read(path: Path, module: str, modified_ns: int) -> tuple[str, tuple[str, ...]]:
    """A file's digest and the modules it may import. `modified_ns` only keys the cache."""
    del modified_ns
    tree = ast.parse(path.read_bytes(), filename=str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imported = tuple(dict.fromkeys(_imports(tree, package)))
    _strip_docstrings(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = package.split(".")[: len(package.split(".")) - max(node.level - 1, 0)]
            prefix = [*origin, *filter(None, [node.module])] if node.level else [node.module or ""]
            base = ".".join(prefix)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)  # perhaps submodules


def _strip_docstrings(tree: ast.AST) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
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
