"""The form of a deployment's parameters, as Prefect's server and UI read its JSON schema."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.mnist_flow import mnist_flow
from tasks.settings import RunSettings

SCHEMA = parameter_schema(mnist_flow.fn).model_dump()
FIELDS = SCHEMA["definitions"]["RunSettings"]["properties"]
# What the form passes on of a field when it asks the server whether a value is right.
PASSED_ON = {
    "position",
    "allOf",
    "anyOf",
    "default",
    "description",
    "enum",
    "format",
    "properties",
    "title",
}


def problems(schema: dict[str, Any], **settings: Any) -> dict[str, str]:
    """What the server says of settings, by place."""
    found = validate({"settings": settings}, schema)
    return {error.json_path.removeprefix("$.settings."): error.message for error in found}


@pytest.mark.parametrize(
    ("settings", "place", "said"),
    [
        ({"epochs": 0}, "epochs", "0 is less than the minimum of 1"),
        ({"learning_rate": 0}, "learning_rate", "0 is less than or equal to the minimum of 0"),
        ({"label_smoothing": 1}, "label_smoothing", "1 is greater than or equal to the maximum"),
        ({"min_accuracy": 97}, "min_accuracy", "97 is greater than the maximum of 1"),
        ({"dataset": ""}, "dataset", "'' should be non-empty"),
        ({"recipe": "slow"}, "recipe", "'slow' is not one of"),
        ({"model": "cnn", "recipe": "reference"}, "recipe", "is not one of ['fast', 'long'"),
        ({"severity": {"drift": "loud"}}, "severity.drift", "'loud' is not one of"),
        ({"max_psi": "much"}, "max_psi", "'much' is not of type 'number'"),
    ],
)
def test_wrong_value_is_told_at_its_field(settings: dict[str, Any], place: str, said: str) -> None:
    passed_on = {
        name: {key: value for key, value in field.items() if key in PASSED_ON | {"type"}}
        for name, field in FIELDS.items()
    }
    form = {"properties": passed_on, "allOf": SCHEMA["definitions"]["RunSettings"]["allOf"]}
    schema = SCHEMA | {"definitions": {"RunSettings": form}}

    for asked in (SCHEMA, schema):  # of the server, and through the form
        found = problems(asked, **settings)
        assert [place] == list(found)
        assert said in found[place]


@pytest.mark.parametrize(
    "settings",
    [{}, RunSettings().model_dump(mode="json"), {"severity": {"drift": "off"}, "epochs": 3}],
    ids=["none", "defaults", "some"],
)
def test_right_values_are_taken(settings: dict[str, Any]) -> None:
    assert {} == problems(SCHEMA, **settings)
    assert mnist_flow.validate_parameters({"settings": settings})


@pytest.mark.parametrize("name", FIELDS)
def test_field_has_one_type_and_says_what_it_is(name: str) -> None:
    field = FIELDS[name]

    assert "anyOf" not in field
    assert isinstance(field["type"], str)
    assert field["description"]


@pytest.mark.parametrize("name", ["model", "recipe", "optimizer", "schedule"])
def test_choice_is_a_list(name: str) -> None:
    assert len(FIELDS[name]["enum"]) > 1


def test_each_check_has_a_list_of_severities() -> None:
    checks = FIELDS["severity"]["properties"]

    assert {"constant-images", "duplicates", "drift"} <= checks.keys()
    assert all(["error", "warning", "off"] == check["enum"] for check in checks.values())


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("epochs", "1 to 10,000"),
        ("learning_rate", "more than 0 to 100"),
        ("label_smoothing", "0 to less than 1"),
        ("max_psi", "more than 0"),
        ("min_accuracy", "from 0 to 1"),
    ],
)
def test_bounds_are_said_in_words(name: str, bounds: str) -> None:
    assert bounds in FIELDS[name]["description"]


def test_fields_keep_their_order() -> None:
    assert list(RunSettings.model_fields) == sorted(
        FIELDS, key=lambda name: FIELDS[name]["position"]
    )
