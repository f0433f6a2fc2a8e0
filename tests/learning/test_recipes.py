"""A value that shapes the training is declared once, for plans, recipes and settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.records import Recipe, TrainingPlan
from tasks.settings import RECIPES, RunSettings


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("epochs", 0, "greater than or equal to 1"),
        ("batch_size", 1_000_001, "less than or equal to 1000000"),
        ("learning_rate", 0, "greater than 0"),
        ("label_smoothing", 1, "less than 1"),
        ("shift_pixels", 65, "less than or equal to 64"),
        ("optimizer", "adamw", "'rmsprop', 'adam' or 'sgd'"),
        ("seed", 2**32, "less than or equal to 4294967295"),
        ("threads", 0, "greater than or equal to 1"),
        ("threads", 1025, "less than or equal to 1024"),
    ],
)
def test_plan_and_settings_have_the_same_bounds(name: str, value: object, rule: str) -> None:
    plan = RunSettings().plan.model_dump() | {name: value}
    for model, values in ((TrainingPlan, plan), (RunSettings, {name: value})):
        with pytest.raises(ValidationError) as failure:
            model.model_validate(values)
        (error,) = failure.value.errors()
        assert (name,) == error["loc"]
        assert rule in error["msg"]


def test_help_names_what_the_default_recipes_say() -> None:
    fields = RunSettings.model_fields
    assert (
        "passes over the training images, 1 to 10,000; the recipe's (mlp 12, cnn 6) unless set"
        == (fields["epochs"].description)
    )
    assert str(fields["schedule"].description).endswith(
        "; the recipe's (mlp constant, cnn one-cycle) unless set"
    )


def test_every_value_of_a_recipe_is_a_setting() -> None:
    assert set(Recipe.model_fields) < set(RunSettings.model_fields)


def test_copied_recipes_keep_to_the_bounds() -> None:
    """A copy with changes is not checked by pydantic itself."""
    for recipes in RECIPES.values():
        for recipe in recipes.values():
            assert recipe == Recipe.model_validate(recipe.model_dump())


def test_titles_in_the_form_are_words() -> None:
    properties = RunSettings.model_json_schema()["properties"]
    titles = {name: properties[name]["title"] for name in ("batch_size", "shift_pixels", "refresh")}
    assert {"batch_size": "Batch size", "shift_pixels": "Shift", "refresh": "Refresh"} == titles
