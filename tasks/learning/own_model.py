"""A model of the user's own: a function in a file, `--model nets.py:tiny`.

    # nets.py
    def tiny(height, width, classes):
        return keras.Sequential([keras.layers.Dense(classes, activation="softmax")])

Its identity in cache keys is the code of the file and of whatever it imports beside it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks import PARSING, expanded
from tasks.cache.keys import code_of_file
from tasks.errors import ModelError
from tasks.records import OwnModel

NAMED = re.compile(r"(?P<file>.+\.py):(?P<function>\w+)")

_imported: set[str] = set()  # modules of users' own, to be imported again the next time


def find_own_model(text: str) -> OwnModel:
    """The model that FILE.py:FUNCTION names. The file is read, not run. Raises ModelError."""
    named = NAMED.fullmatch(text)
    if named is None:
        raise ModelError("A model is mlp, cnn or FILE.py:FUNCTION.", received=text)
    path, function = expanded(named["file"]).absolute(), named["function"]
    if not path.stem.isidentifier() or path.with_suffix("").is_dir():
        rule = "The model's file must have a module's name that no folder beside it has."
        raise ModelError(rule, received=path.name, where=path.parent)
    try:
        with PARSING:
            names = set(_defined(ast.parse(path.read_bytes(), str(path))))
        code = code_of_file(path)
    except OSError as error:
        rule = "The model's file must be readable."
        raise ModelError(rule, received=error.strerror, where=path) from error
    except (SyntaxError, ValueError) as error:
        raise ModelError("The model's file must be Python.", received=error, where=path) from error
    if function not in names and "*" not in names:
        raise ModelError(f"The model's file must define {function}.", where=path)
    digest = hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()
    return OwnModel(name=function, file=path.name, sha256=digest, path=path)


def call_own_model(own: OwnModel, **arguments: int) -> Any:
    """What the function returns, its file imported as it is now. Raises ModelError."""
    try:
        with _importing_from(own.path.parent):
            result = getattr(_module(own.path), own.name)(**arguments)
    except (Exception, SystemExit) as error:
        rule = f"The function must build a model from {', '.join(arguments)}."
        received = f"{type(error).__name__}: {error}"
        raise ModelError(rule, received=received, where=own.place) from error
    if find_own_model(own.place) != own:  # what was imported is what the key says
        rule = "The model's file must not change while the run uses it."
        raise ModelError(rule, where=own.place, advice="Run again.")
    return result


def _module(path: Path) -> ModuleType:
    name = f"own_model_{path.stem}"  # stands in the model's configuration
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a file named *.py has a loader"
    assert spec.loader is not None, "as above"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Import from a folder first, from its sources as they are, and nothing from memory."""
    for name in _imported:
        sys.modules.pop(name, None)
    _imported.clear()
    before = set(sys.modules)
    prefix, no_bytecode = sys.pycache_prefix, sys.dont_write_bytecode
    # Python's bytecode misses an edit in the second of the one before: it finds none here.
    sys.pycache_prefix, sys.dont_write_bytecode = os.devnull, True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.pycache_prefix, sys.dont_write_bytecode = prefix, no_bytecode
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(folder):
                _imported.add(name)


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module may define, its functions' own ones among them."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(asname=str(name)):
                yield name
            case ast.alias(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
