"""Keys: everything that decides one stage's result, and what changed since an earlier one.

    Ingredients(stage="train", code={"tasks/train.py": "5d0c…", "tasks/records.py": "e31b…", …},
                libraries={"keras": "3.15.1", …},
                inputs={"ready": {"x_train": {"sha256": "9f86…", …}, …},
                        "plan": {"epochs": 12, …}})

Their digest is the stage's cache key; their difference is why it runs again:

    epochs 12 → 6; input: x_train changed; code: tasks/learning/network.py; keras 3.15.1 → 3.15.2

The code of a stage is its module and every project module that it reaches through imports,
those inside function bodies included: see source.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import StringConstraints

from tasks.cache.processor import processor
from tasks.cache.source import Source, follow, listing, noted_source
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


class Ingredients(Record):
    """What a stage's result is made of.

    `code`: SHA-256 by file, relative to the folder of its package. `libraries`: installed version
    by distribution, and Python's own; where TensorFlow is one of them, the processor, which decides
    the last bits of its sums. `inputs`: JSON, by parameter.
    """

    stage: Annotated[str, StringConstraints(pattern=r"^[^\W\d]\w*$")]  # a function's name
    code: dict[str, str]
    libraries: dict[str, str]
    inputs: dict[str, Any]

    @property
    def key(self) -> str:
        """The cache key: SHA-256 over all of it, as 64 hexadecimal digits."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


class Fingerprint(NamedTuple):
    """What a stage's result depends on besides its inputs, as in `Ingredients`."""

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
    packages = {_top_level(name) for source in reached.values() for name in source.imports}
    libraries = {"python": "{}.{}".format(*sys.version_info)}
    for package, distribution in COMPUTING_LIBRARIES.items():
        if package in packages:
            libraries[distribution] = version_of(distribution)
    if "tensorflow" in libraries:
        libraries["processor"] = processor()
    return Fingerprint({file: source.sha256 for file, source in reached.items()}, libraries)


def what_changed(old: Ingredients, new: Ingredients) -> str:
    """The differences for a person to read; empty when there are none."""
    before, after = _leaves(old.inputs), _leaves(new.inputs)
    inputs, code, libraries = _differences(old, new)
    named = Counter(path[-1] for path in inputs)
    contents, reasons = list[str](), list[str]()
    for path in inputs:
        values = before.get(path), after.get(path)
        names = {value.name for value in values if isinstance(value, _Content)}
        if names and (None in values or len(names) == 1 == len({*map(type, values)})):
            contents += names
        else:
            name = path[-1] if named[path[-1]] == 1 else ".".join(path)
            was, now = map(_shown, values)  # of a long list its start
            change = f"{was} → {now}" if was != now else "changed"
            reasons.append(f"{name.replace('_', ' ')} {change}")
    if contents:
        reasons.append(f"input: {_listed(list(dict.fromkeys(contents)))} changed")
    if code:
        reasons.append(f"code: {_listed(code)}")
    reasons += [
        f"{name} {old.libraries.get(name, 'none')} → {new.libraries.get(name, 'none')}"
        for name in libraries
    ]
    return "; ".join(reasons)


def how_different(old: Ingredients, new: Ingredients) -> int:
    """In how many inputs, files and libraries two lists differ."""
    return sum(map(len, _differences(old, new)))


class _Content(NamedTuple):
    """What a file or array is called, and its digest, which tells a person nothing."""

    name: str
    sha256: str


def _differences(old: Ingredients, new: Ingredients) -> Iterator[list[Any]]:
    """The inputs, by the names that lead to them, the files and the libraries that differ."""
    yield _differing(_leaves(old.inputs), _leaves(new.inputs))
    yield _differing(old.code, new.code)
    yield _differing(old.libraries, new.libraries)


def _differing(old: dict[Any, Any], new: dict[Any, Any]) -> list[Any]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _leaves(value: Any, *path: str) -> dict[tuple[str, ...], Any]:
    """Every plain value by the names that lead to it."""
    if path and isinstance(value, dict) and isinstance(value.get("sha256"), str):
        name = str(value.get("name", path[-1]))
        name = f"{value['file']}:{name}" if "file" in value else name
        return {
            (*path[:-1], name if path[-1].isdigit() else path[-1]): _Content(name, value["sha256"])
        }
    if isinstance(value, list) and any(isinstance(member, dict | list) for member in value):
        value = {str(number): member for number, member in enumerate(value)}
    if not isinstance(value, dict):
        return {path: value}
    leaves: dict[tuple[str, ...], Any] = {}
    for name, member in value.items():
        leaves |= _leaves(member, *path, name)
    return leaves


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return _listed(list(map(_shown, value)))
    if isinstance(value, _Content):
        return value.name
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def _reached(module: str, root: Path) -> dict[str, Source]:
    """The sources that a module reaches, by file, in the order of their names."""
    own = {*PROJECT_PACKAGES, _top_level(module)}
    roots = {str(folder): folder.name in SHARED_FOLDERS for folder in (root, PROJECT_ROOT)}
    listed = cache(listing)  # each folder once, as it is now
    files: dict[str, str] = {}

    def read(name: str) -> Source | None:
        for folder, shared in roots.items():
            if shared and _top_level(name) not in own:
                continue
            if path := _file_of(folder, name, listed):
                files[name] = path.removeprefix(f"{folder}/")
                status = os.stat(path)  # noqa: PTH116 - as in _file_of
                # A copy may keep an old time of modification, but not of its own place.
                stamp = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
                return _read(path, name, stamp)
        return None

    reached = follow(module, read)
    return dict(sorted((files[name], source) for name, source in reached.items()))


def _file_of(root: str, module: str, listed: Callable[[str], frozenset[str]]) -> str | None:
    """Where Python would find a module; None if it is not below this root.

    Every import of every stage passes here before each call: text is joined, not a Path.
    """
    *packages, name = module.split(".")
    folder = root
    for package in packages:
        if package not in listed(folder):
            return None
        folder = f"{folder}/{package}"
    if name in listed(folder) and "__init__.py" in listed(f"{folder}/{name}"):
        return f"{folder}/{name}/__init__.py"
    return f"{folder}/{name}.py" if f"{name}.py" in listed(folder) else None


@lru_cache(maxsize=1024)
def _read(path: str, module: str, stamp: tuple[int, ...]) -> Source:
    """The source of a module. `stamp` only keys the memory."""
    del stamp
    return noted_source(path, module)


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
def version_of(distribution: str) -> str:
    """The installed version of a distribution."""
    text = metadata.distribution(distribution).read_text("METADATA") or ""
    found = re.search("^Version: (.+)$", text, re.MULTILINE)  # `metadata.version` parses all of it
    return found[1] if found else metadata.version(distribution)
