"""How calls of ours are checked in the tests: each argument and result against its annotation.

jaxtyping decorates all functions that it imports (`--jaxtyping-packages`); imported before them,
this decides by what. Shapes need jaxtyping, for all else beartype alone does: the cache calls some
functions thousands of times, and in jaxtyping each call takes ten times as long as in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import jaxtyping
from beartype.roar import BeartypeException
from jaxtyping import _import_hook as jaxtyping_hook
from jaxtyping import jaxtyped

TASKS = Path(__file__).parents[1] / "tasks"

_bytecode_for_checks = jaxtyping_hook._optimized_cache_from_source


def _bytecode(checker: str, path: str) -> str:
    """Where bytecode lies: only what jaxtyping checks is compiled for it.

    While it imports a module of ours, it would take the bytecode of all others for out of date,
    and 3,700 files of TensorFlow and Keras would be compiled a second time.
    """
    checked = path.startswith(str(TASKS))
    return str(_bytecode_for_checks(checker, path) if checked else cache_from_source(path))


def _checked(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The decorator of a function or class."""

    def decorate(decorated: Any) -> Any:
        if not isinstance(decorated, type) and not has_shapes(decorated):
            with suppress(BeartypeException):  # an annotation that only jaxtyping lets pass
                return typechecker(decorated)
        return jaxtyped(decorated, typechecker=typechecker)

    return decorate


def has_shapes(function: Any) -> bool:
    """Whether its module writes shapes, or one of its annotations names a shape of another's."""
    named = re.findall(r"\w+", " ".join(map(str, function.__annotations__.values())))
    shapes = any("jaxtyping" in repr(function.__globals__.get(name)) for name in named)
    return shapes or "jaxtyping" in Path(function.__code__.co_filename).read_text()


jaxtyping_hook._optimized_cache_from_source = _bytecode
jaxtyping.jaxtyped = _checked
