"""Ingredients: when two lists of them are the same, and what tells them apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tasks.cache.blobs import Store
from tasks.cache.keys import Ingredients, content_of, what_changed
from tasks.records import (
    ArrayRef,
    BlobRef,
    DatasetSource,
    ModelRef,
    OwnModel,
    Record,
    SourceFile,
    SourceFiles,
)
from tasks.settings import RunSettings

PLAN = RunSettings().plan


def array(digit: str) -> ArrayRef:
    return ArrayRef(sha256=64 * digit, size_bytes=134, dtype="uint8", shape=(3, 2))


def model(weights: str, file: str = "f") -> ModelRef:
    saved = BlobRef(sha256=64 * file, size_bytes=9, suffix=".keras")
    return ModelRef(keras_file=saved, weights_sha256=64 * weights, parameters=1, history=())


def files(*contents: str) -> DatasetSource:
    """A dataset of files a, b, c, … with these digits as their digests."""
    return DatasetSource(
        name="tiny",
        kind="idx",
        files=SourceFiles(
            SourceFile(name=name, sha256=64 * digit, size_bytes=1, path=Path(name))
            for name, digit in zip("abcdef", contents, strict=False)
        ),
    )


class Pair(Record):
    """Two arrays."""

    left: ArrayRef
    right: ArrayRef


class Named(Record):
    """Names of classes."""

    class_names: tuple[str, ...]


def pair(left: str, right: str) -> Pair:
    return Pair(left=array(left), right=array(right))


def ingredients(
    stage: str = "train",
    code: dict[str, str] | None = None,
    libraries: dict[str, str] | None = None,
    **inputs: Any,
) -> Ingredients:
    return Ingredients(
        stage=stage,
        code={"tasks/train.py": "1", "tasks/learning/network.py": "2"} if code is None else code,
        libraries={"keras": "3.15.1", "numpy": "2.3.5"} if libraries is None else libraries,
        inputs={name: content_of(value) for name, value in inputs.items()},
    )


def test_key_is_the_digest_of_the_content_as_json_with_sorted_names() -> None:
    made = Ingredients(stage="a", code={"c.py": "2", "b.py": "1"}, libraries={}, inputs={"x": 0.5})

    content = (
        b'{"code": {"b.py": "1", "c.py": "2"}, "inputs": {"x": 0.5}, "libraries": {}, "stage": "a"}'
    )
    assert hashlib.sha256(content).hexdigest() == made.key


def test_same_content_has_the_same_key() -> None:
    assert ingredients(plan=PLAN).key == ingredients(plan=PLAN.model_copy()).key


def test_order_in_which_things_are_listed_does_not_count() -> None:
    first = ingredients(code={"a.py": "1", "b.py": "2"}, x=1, y=2)
    second = ingredients(code={"b.py": "2", "a.py": "1"}, y=2, x=1)

    assert first.key == second.key


def test_places_and_times_do_not_count() -> None:
    here, there = Store(root=Path("/here")), Store(root=Path("/there"))

    assert ingredients(store=here).key == ingredients(store=there).key


def test_key_survives_being_written_and_read() -> None:
    made = ingredients(plan=PLAN, name="é", count=10**20, share=0.1, none=None)

    assert made.key == Ingredients.model_validate_json(made.model_dump_json()).key


@pytest.mark.parametrize(
    "other",
    [
        ingredients(stage="evaluate", x=1),
        ingredients(x=2),
        ingredients(x=1.0),
        ingredients(x=True),
        ingredients(x="1"),
        ingredients(x=None),
        ingredients(y=1),
        ingredients(x=1, y=1),
        ingredients(),
        ingredients(code={"tasks/train.py": "1", "tasks/learning/network.py": "3"}, x=1),
        ingredients(code={"tasks/train.py": "1"}, x=1),
        ingredients(
            code={"tasks/train.py": "1", "tasks/learning/network.py": "2", "a.py": "3"}, x=1
        ),
        ingredients(libraries={"keras": "3.15.2", "numpy": "2.3.5"}, x=1),
        ingredients(libraries={"keras": "3.15.1"}, x=1),
    ],
)
def test_any_change_gives_another_key(other: Ingredients) -> None:
    assert ingredients(x=1).key != other.key


def test_record_counts_with_its_content() -> None:
    assert content_of(array("a")) == {
        "sha256": 64 * "a",
        "size_bytes": 134,
        "suffix": ".npy",
        "dtype": "uint8",
        "shape": [3, 2],
    }


def test_file_of_a_model_does_not_count() -> None:
    assert content_of(model("a", file="b")) == content_of(model("a", file="c"))


@pytest.mark.parametrize("value", [None, True, 3, 0.25, "text"])
def test_plain_value_counts_as_it_is(value: object) -> None:
    assert value == content_of(value)


@pytest.mark.parametrize("value", [b"bytes", [1], {"a": 1}, Path("a"), object()])
def test_other_inputs_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"records or plain values\. Received: <class '"):
        content_of(value)


def own(name: str, sha256: str = "1" * 64) -> OwnModel:
    """A function in `nets.py`."""
    return OwnModel(name=name, file="nets.py", sha256=sha256, path=Path("/here/nets.py"))


CHANGES: dict[str, tuple[Ingredients, Ingredients, str]] = {
    "nothing": (ingredients(plan=PLAN), ingredients(plan=PLAN), ""),
    "a setting": (
        ingredients(plan=PLAN),
        ingredients(plan=PLAN.model_copy(update={"epochs": 6})),
        "epochs 12 → 6",
    ),
    "long lists": (
        ingredients(raw=Named(class_names=tuple("abcdefgh"))),
        ingredients(raw=Named(class_names=("ant", "bee"))),
        "class names a, b, c and 5 more → ant, bee",
    ),
    "long lists that start alike": (
        ingredients(raw=Named(class_names=tuple("abcdefgh"))),
        ingredients(raw=Named(class_names=tuple("abcdefgx"))),
        "class names changed",
    ),
    "a setting of two words": (
        ingredients(plan=PLAN),
        ingredients(plan=PLAN.model_copy(update={"batch_size": 32})),
        "batch size 100 → 32",
    ),
    "the seed": (
        ingredients(plan=PLAN),
        ingredients(plan=PLAN.model_copy(update={"seed": 1})),
        "seed 0 → 1",
    ),
    "a fraction": (
        ingredients(plan=PLAN),
        ingredients(plan=PLAN.model_copy(update={"learning_rate": 0.0005})),
        "learning rate 0.001 → 0.0005",
    ),
    "a small fraction": (
        ingredients(plan=PLAN),
        ingredients(plan=PLAN.model_copy(update={"learning_rate": 1e-06})),
        "learning rate 0.001 → 1e-06",
    ),
    "two settings": (
        ingredients(plan=PLAN),
        ingredients(plan=PLAN.model_copy(update={"seed": 1, "model": "cnn"})),
        "model mlp → cnn; seed 0 → 1",
    ),
    "a model of one's own": (
        ingredients(plan=PLAN),
        ingredients(plan=PLAN.model_copy(update={"model": own("tiny")})),
        "model mlp → nets.py:tiny",
    ),
    "another model of one's own": (
        ingredients(plan=PLAN.model_copy(update={"model": own("tiny")})),
        ingredients(plan=PLAN.model_copy(update={"model": own("big")})),
        "model nets.py:tiny → nets.py:big",
    ),
    "the code of a model of one's own": (
        ingredients(plan=PLAN.model_copy(update={"model": own("tiny")})),
        ingredients(plan=PLAN.model_copy(update={"model": own("tiny", sha256="2" * 64)})),
        "input: nets.py:tiny changed",
    ),
    "a plain value": (ingredients(limit=None), ingredients(limit=3), "limit none → 3"),
    "a file": (
        ingredients(source=files("1", "2")),
        ingredients(source=files("1", "3")),
        "input: b changed",
    ),
    "three files": (
        ingredients(source=files("1", "2", "3")),
        ingredients(source=files("4", "5", "6")),
        "input: a, b, c changed",
    ),
    "more than three files": (
        ingredients(source=files("1", "2", "3", "4", "5")),
        ingredients(source=files("6", "7", "8", "9", "0")),
        "input: a, b, c and 2 more changed",
    ),
    "a file that appears": (
        ingredients(source=files("1")),
        ingredients(source=files("1", "2")),
        "input: b changed",
    ),
    "an array": (
        ingredients(x_train=array("a"), y_train=array("b")),
        ingredients(x_train=array("c"), y_train=array("b")),
        "input: x_train changed",
    ),
    "the weights": (
        ingredients(model=model("a")),
        ingredients(model=model("b")),
        "input: model changed",
    ),
    "the file of the same weights": (
        ingredients(model=model("a", file="b")),
        ingredients(model=model("a", file="c")),
        "",
    ),
    "code": (
        ingredients(),
        ingredients(code={"tasks/train.py": "1", "tasks/learning/network.py": "3"}),
        "code: tasks/learning/network.py",
    ),
    "code that appears": (
        ingredients(),
        ingredients(
            code={"tasks/train.py": "1", "tasks/learning/network.py": "2", "tasks/new.py": "3"}
        ),
        "code: tasks/new.py",
    ),
    "code that is gone": (
        ingredients(),
        ingredients(code={"tasks/train.py": "1"}),
        "code: tasks/learning/network.py",
    ),
    "code of more than three files": (
        ingredients(code={f"{name}.py": "1" for name in "abcd"}),
        ingredients(code={f"{name}.py": "2" for name in "abcd"}),
        "code: a.py, b.py, c.py and 1 more",
    ),
    "a library": (
        ingredients(),
        ingredients(libraries={"keras": "3.15.2", "numpy": "2.3.5"}),
        "keras 3.15.1 → 3.15.2",
    ),
    "a library that appears": (
        ingredients(),
        ingredients(libraries={"keras": "3.15.1", "numpy": "2.3.5", "pandas": "3.0.0"}),
        "pandas none → 3.0.0",
    ),
    "a library that is gone": (
        ingredients(),
        ingredients(libraries={"numpy": "2.3.5"}),
        "keras 3.15.1 → none",
    ),
    "one of two arrays of the same name": (
        ingredients(raw=pair("a", "b"), ready=pair("c", "d")),
        ingredients(raw=pair("e", "b"), ready=pair("c", "d")),
        "input: left changed",
    ),
    "two arrays of the same name": (
        ingredients(raw=pair("a", "b"), ready=pair("c", "d")),
        ingredients(raw=pair("e", "b"), ready=pair("f", "d")),
        "input: left changed",
    ),
    "two settings of the same name": (
        ingredients(plan=PLAN, screening=PLAN),
        ingredients(
            plan=PLAN.model_copy(update={"epochs": 6}),
            screening=PLAN.model_copy(update={"epochs": 3}),
        ),
        "plan.epochs 12 → 6; screening.epochs 12 → 3",
    ),
    "one of two settings of the same name": (
        ingredients(plan=PLAN, screening=PLAN),
        ingredients(plan=PLAN, screening=PLAN.model_copy(update={"epochs": 3})),
        "epochs 12 → 3",
    ),
    "one thing of each kind": (
        ingredients(plan=PLAN, x_train=array("a")),
        ingredients(
            code={"tasks/train.py": "3", "tasks/learning/network.py": "2"},
            libraries={"keras": "3.15.2", "numpy": "2.3.5"},
            plan=PLAN.model_copy(update={"epochs": 6}),
            x_train=array("b"),
        ),
        "epochs 12 → 6; input: x_train changed; code: tasks/train.py; keras 3.15.1 → 3.15.2",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_told(change: str) -> None:
    old, new, told = CHANGES[change]

    assert told == what_changed(old, new)
