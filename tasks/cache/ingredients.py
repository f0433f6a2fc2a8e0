"""Everything that decides one stage's result, and what changed between two such lists.

    Ingredients(stage="train", code={"tasks/train.py": "5d0c…", …},
                libraries={"keras": "3.15.1", …},
                inputs={"ready": {"x_train": {"sha256": "9f86…", …}, …},
                        "plan": {"epochs": 12, …}})

Their digest is the stage's cache key; their difference is why it runs again:

    epochs 12 → 6; input: x_train changed; code: tasks/learning/network.py; keras 3.15.1 → 3.15.2
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from tasks.records import Record

SHOWN = 3  # names in one reason, before "and 4 more"


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


def content_of(value: Any) -> Any:
    """An input as JSON. Raises TypeError for what is neither a record nor a plain value."""
    if isinstance(value, Record):
        return value.content()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"A stage's inputs are records or plain values. Received: {type(value)}.")


def what_changed(old: Ingredients, new: Ingredients) -> str:
    """The differences for a person to read; empty when there are none."""
    before, after = dict(_named_inputs(old)), dict(_named_inputs(new))
    contents = []
    reasons = []
    for name in _differing(before, after):
        values = before.get(name), after.get(name)
        if any(isinstance(value, _Digest) for value in values):
            contents.append(name)
        else:
            reasons.append(f"{name.replace('_', ' ')} {_shown(values[0])} → {_shown(values[1])}")
    if contents:
        reasons.append(f"input: {_listed(contents)} changed")
    if code := _differing(old.code, new.code):
        reasons.append(f"code: {_listed(code)}")
    reasons += [
        f"{name} {old.libraries.get(name, 'none')} → {new.libraries.get(name, 'none')}"
        for name in _differing(old.libraries, new.libraries)
    ]
    return "; ".join(reasons)


class _Digest(str):
    """The digest of a content, which tells a person nothing."""

    __slots__ = ()


def _named_inputs(ingredients: Ingredients) -> Iterator[tuple[str, Any]]:
    for parameter, value in ingredients.inputs.items():
        yield from _leaves(parameter, value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every plain value under the name nearest to it; of a file or array, its digest."""
    if isinstance(value, dict) and "sha256" in value:
        yield value.get("name", name), _Digest(value["sha256"])
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _leaves(key, member)
    elif isinstance(value, list):
        for member in value:
            yield from _leaves(name, member)
    else:
        yield name, value


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
