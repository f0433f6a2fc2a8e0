"""A model of the user's own: a function in a file, `--model nets.py:tiny`.

    # nets.py
    def tiny(height, width, classes):
        return keras.Sequential([keras.layers.Dense(classes, activation="softmax")])

Its identity in cache keys is the code of the file and of whatever it imports beside it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import symtable
import sys
from pathlib import Path
from types import ModuleType

from tasks.errors import OwnModelError
from tasks.fingerprint import PROJECT_PACKAGES, code_of_file, top_level
from tasks.records import OwnModel

NAMED = re.compile(r"(?P<file>.+\.py):(?P<function>\w+)")

_loaded: dict[OwnModel, ModuleType] = {}


def find_own_model(text: str) -> OwnModel:
    """The model that FILE.py:FUNCTION names. The file is read, not run. Raises OwnModelError."""
    named = NAMED.fullmatch(text)
    if named is None:
        raise OwnModelError("A model is mlp, cnn or FILE.py:FUNCTION.", received=text)
    path, function = Path(named["file"]).expanduser().absolute(), named["function"]
    if not path.stem.isidentifier():
        raise OwnModelError("The file must have the name of a module.", received=path.name)
    try:
        names = symtable.symtable(path.read_text("utf-8"), str(path), "exec").get_identifiers()
        code = code_of_file(path)
    except OSError as error:
        raise OwnModelError(
            "The model's file must be readable.", received=error.strerror, where=path
        ) from error
    except (SyntaxError, ValueError) as error:
        raise OwnModelError(
            "The model's file must be Python.", received=error, where=path
        ) from error
    if function not in names:
        raise OwnModelError(
            f"The model's file must define {function}.",
            received=", ".join(sorted(names)) or "no names",
            where=path,
        )
    digest = hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()
    return OwnModel(name=function, sha256=digest, path=path)


def load_own_model(own: OwnModel) -> ModuleType:
    """Import the model's file, as it is now. Raises OwnModelError."""
    if own not in _loaded:
        try:
            _loaded[own] = _imported(own)
        except Exception as error:
            raise OwnModelError(
                "The model's file must be importable.",
                received=f"{type(error).__name__}: {error}",
                where=own.path,
            ) from error
        if find_own_model(f"{own.path}:{own.name}") != own:
            del _loaded[own]
            raise OwnModelError(
                "The model's file must not change while it is read.",
                where=own.path,
                advice="Run again.",
            )
    return _loaded[own]


def _imported(own: OwnModel) -> ModuleType:
    folder = own.path.parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # for what it imports beside it
    beside = {folder / name for name in code_of_file(own.path)}
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if origin and Path(origin) in beside and top_level(name) not in PROJECT_PACKAGES:
            del sys.modules[name]  # as an earlier run imported it
    name = f"own_model_{own.path.stem}"  # stands in the model's configuration
    spec = importlib.util.spec_from_file_location(name, own.path)
    assert spec is not None, "a file named *.py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # Compiled here: Python's bytecode cache misses an edit in the second of the one before.
    exec(compile(own.path.read_bytes(), own.path, "exec"), module.__dict__)  # noqa: S102 - the user's
    return module
