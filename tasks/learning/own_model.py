"""A model of the user's own: a function in a file, `--model nets.py:tiny`.

    # nets.py
    def tiny(height, width, classes):
        return keras.Sequential([keras.layers.Dense(classes, activation="softmax")])

Its identity in cache keys is the code of the file and of whatever it imports: see own_code.py.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks import PARSING, expanded
from tasks.errors import ModelError, reason_of, require_utf8
from tasks.learning.own_code import CHANGED, reach_of, use_modules
from tasks.records import OwnModel

NAMED = re.compile(r"(?P<file>.+\.py):(?P<function>\w+)")


def find_own_model(text: str) -> OwnModel:
    """The model that FILE.py:FUNCTION names. The file is read, not run. Raises ModelError."""
    named = NAMED.fullmatch(text)
    if named is None:
        raise ModelError("A model is mlp, cnn or FILE.py:FUNCTION.", received=text)
    path = require_utf8(expanded(named["file"]).absolute(), ModelError)
    function = named["function"]
    if not path.stem.isidentifier() or path.with_suffix("").is_dir():
        rule = "The model's file must have a module's name that no folder beside it has."
        raise ModelError(rule, received=path.name, where=path.parent)
    with _readable(path):
        reach = reach_of(path)
        with PARSING:
            names = set(_defined(ast.parse(path.read_bytes(), str(path))))
    if function not in names and "*" not in names:
        raise ModelError(f"The model's file must define {function}.", where=path)
    return OwnModel(
        name=function,
        file=path.name,
        sha256=reach.sha256,
        path=path,
        unfollowed=reach.unfollowed,
    )


def call_own_model(own: OwnModel, **arguments: int) -> Any:
    """What the function returns, its file imported as it was found. Raises ModelError."""
    with _readable(own.path):
        reach = reach_of(own.path)
    if reach.sha256 != own.sha256:
        raise ModelError(CHANGED, where=own.place, advice="Run again.")
    name = use_modules(reach)
    try:
        return getattr(importlib.import_module(name), own.name)(**arguments)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        rule = f"The function must build a model from {', '.join(arguments)}."
        received = f"{type(error).__name__}: {error}"
        raise ModelError(rule, received=received, where=own.place) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        rule, where = "The model's file must be readable.", error.filename or path
        raise ModelError(rule, received=error.strerror, where=where) from error
    except (SyntaxError, ValueError) as error:
        where = getattr(error, "filename", None) or path
        rule = "The model's file must be Python."
        raise ModelError(rule, received=reason_of(error), where=where) from None


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module may define, its functions' own ones among them."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(asname=str(name)):
                yield name
            case ast.alias(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
