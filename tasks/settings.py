"""What a run can be told: one definition of each parameter, its bounds and its help text.

The same model is the flow's parameter, the form in the Prefect UI, the command line, the
`MNIST_*` environment variables and the Python interface. It never reads the environment by
itself: a deployer's environment must not become the form's defaults.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from tasks import APPLICATION, expanded
from tasks.errors import ModelError, StoreError, require_utf8
from tasks.learning.own_model import find_own_model
from tasks.records import (
    CheckName,
    ChosenSeverity,
    ModelName,
    OptimizerName,
    Reading,
    Recipe,
    ScheduleName,
    TrainingPlan,
    ValidationRules,
)
from tasks.validation.profiles import OURS, find_profile, shipped_profile

RecipeName = Literal["reference", "fast", "long"]

# Beside the published experiment, chosen on training images that were held out (`make recipes`).
FAST_MLP = Recipe(
    epochs=24,
    batch_size=250,
    learning_rate=0.005,
    optimizer="adam",
    schedule="one-cycle",
    label_smoothing=0.05,
    shift_pixels=1,
)
FAST_CNN = FAST_MLP.model_copy(
    update={"epochs": 6, "hidden_units": 256, "label_smoothing": 0.1, "shift_pixels": 2}
)
# By model. It is trained with the first one unless another is chosen.
RECIPES: dict[ModelName, dict[RecipeName, Recipe]] = {
    "mlp": {
        "reference": Recipe(),
        "fast": FAST_MLP,
        "long": FAST_MLP.model_copy(update={"epochs": 60}),
    },
    "cnn": {"fast": FAST_CNN, "long": FAST_CNN.model_copy(update={"epochs": 20})},
}

SEVERITY: dict[CheckName, ChosenSeverity] = dict.fromkeys(get_args(CheckName), "warning")
A_SEVERITY = {"type": "string", "enum": list(get_args(ChosenSeverity)), "default": "warning"}
Severities = Annotated[
    dict[CheckName, ChosenSeverity],
    WithJsonSchema(  # in the form, each check has a list to choose from
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: A_SEVERITY | {"title": name} for name in SEVERITY},
        }
    ),
    Field(
        description="what follows when a check of the images fails: error (the run ends), warning "
        "or off"
    ),
]
BOUNDS = {
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minLength", "maxLength", "pattern"),
}
IN_WORDS = {"ge": "", "gt": "more than ", "le": "to ", "lt": "to less than "}


def _declared(name: str) -> Any:
    """A setting as TrainingPlan declares it; one of a recipe is None unless it is set."""
    declared = TrainingPlan.model_fields[name]
    default = declared.default
    bounds = {key: value for bound in declared.metadata for key, value in asdict(bound).items()}
    limits = " ".join(f"{IN_WORDS[key]}{value:,}" for key, value in bounds.items())
    text = f"{declared.description}{limits and f', {limits}'}"
    if name in Recipe.model_fields:
        firsts = {model: next(iter(recipes.values())) for model, recipes in RECIPES.items()}
        values = ", ".join(f"{model} {getattr(recipe, name)}" for model, recipe in firsts.items())
        default, text = None, f"{text}; the recipe's ({values}) unless set"
    return Field(default=default, title=declared.title, description=text, **bounds)


def _as_a_form(schema: dict[str, Any]) -> None:
    """Write the settings so that Prefect's form shows each as one field, and what is wrong in it.

    Of `int or None` the form makes a choice between two types. Its server takes None, too, for what
    has a type and no default. The form passes on to its validation no bounds but in an `allOf`.
    And PostgreSQL keeps no order.
    """
    for position, field in enumerate(schema["properties"].values()):
        field["position"] = position
        if "anyOf" in field:
            value, _ = field.pop("anyOf")
            field.update(value)
            del field["default"]
            if "enum" in field:
                field["enum"] = [*field["enum"], None]
        if bounds := {key: field.pop(key) for key in BOUNDS & field.keys()}:
            field["allOf"] = [bounds]
    schema["allOf"] = [
        {
            "if": {"properties": {"model": {"const": model}}, "required": ["model"]},
            "then": {"properties": {"recipe": {"enum": [*recipes, None]}}},
        }
        for model, recipes in RECIPES.items()
    ]


class RunSettings(BaseModel):
    """The parameters of a training run."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        title="Training run",
        json_schema_extra=_as_a_form,
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
    )

    dataset: str = Field(
        default="mnist",
        min_length=1,
        description="mnist, fashion_mnist, kmnist, or the place of your own: pictures in "
        "class folders, IDX files, .npz, CSV or Parquet",
    )
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="what the dataset is called in names and histories; its path says, unless set",
    )
    image_size: str | None = Field(
        default=None,
        pattern=r"^[1-9]\d{0,3}x[1-9]\d{0,3}$",
        description="ROWSxCOLUMNS that pictures are brought to, as 28x28; needed if they differ",
    )
    grayscale: bool = Field(default=False, description="read pictures in colour as grey")
    test_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="of each class, more than 0 to less than 1, becomes the test split of a "
        "dataset that has none; drawn from the seed",
    )
    model: ModelName = Field(
        default="mlp",
        description="mlp: the reference network, one hidden layer; cnn: a small convolutional one",
    )
    recipe: RecipeName | None = Field(
        default=None,
        description=f"how it is trained where the next {len(Recipe.model_fields)} say nothing: "
        "reference (the mlp's default), fast (the cnn's), or long, for the last tenths of a "
        "percent",
    )
    epochs: int | None = _declared("epochs")
    batch_size: int | None = _declared("batch_size")
    hidden_units: int | None = _declared("hidden_units")
    learning_rate: float | None = _declared("learning_rate")
    optimizer: OptimizerName | None = _declared("optimizer")
    schedule: ScheduleName | None = _declared("schedule")
    label_smoothing: float | None = _declared("label_smoothing")
    shift_pixels: int | None = _declared("shift_pixels")
    validation_fraction: float = _declared("validation_fraction")
    patience: int = _declared("patience")
    seed: int = _declared("seed")
    threads: int = _declared("threads")
    severity: Severities = {}
    max_psi: float = Field(
        default=0.25,
        gt=0,
        title="Largest stability index",
        description="population stability index, more than 0, from which class-balance and drift "
        "fail",
    )
    max_effect: float = Field(
        default=0.5,
        gt=0,
        title="Largest effect",
        description="standardised difference (Cohen's d), more than 0, from which drift fails",
    )
    profile: str | None = Field(
        default=None,
        min_length=1,
        description="what drift is measured against: mnist, or a file that mnist-profile wrote; "
        "the dataset's own, if it is among these, unless set",
    )
    min_accuracy: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Minimum accuracy",
        description="fail the run when the test accuracy (a fraction from 0 to 1) is lower",
    )
    label_suspects: bool = Field(
        default=False,
        description="look for training images whose label is doubtful, and show them in the report",
    )
    refresh: bool = Field(
        default=False, description="compute every stage again and replace what is cached"
    )
    cache_dir: Path | None = Field(
        default=None,
        title="Cache folder",
        description="where intermediate arrays and results lie; the user's cache folder unless set",
    )
    model_dir: Path | None = Field(
        default=None,
        title="Model folder",
        description="where models and reports go; the user's data folder unless set",
    )

    @property
    def reading(self) -> Reading:
        """How the dataset is read."""
        rows, _, columns = (self.image_size or "").partition("x")
        return Reading(
            image_size=(int(rows), int(columns)) if self.image_size else None,
            grayscale=self.grayscale,
            test_fraction=self.test_fraction,
            seed=self.seed if self.test_fraction else None,
        )

    @property
    def cache_root(self) -> Path:
        """The cache folder that this run uses, absolute."""
        return _absolute(self.cache_dir or platformdirs.user_cache_path(APPLICATION))

    @property
    def model_root(self) -> Path:
        """The folder for models and reports that this run uses, absolute."""
        default = platformdirs.user_data_path(APPLICATION) / "models"
        return _absolute(self.model_dir or default)

    @property
    def places(self) -> dict[str, str]:
        """The settings that name a file or a folder, each with what was set."""
        from tasks.sources.catalogue import NAMES

        names = {"dataset": NAMES, "profile": OURS, "cache_dir": (), "model_dir": ()}
        chosen = {setting: getattr(self, setting) for setting in names}
        return {s: str(place) for s, place in chosen.items() if place and place not in names[s]}

    @field_validator("cache_dir", "model_dir")
    @classmethod
    def _is_text(cls, folder: Path | None) -> Path | None:
        try:
            _absolute(folder or Path("/"))
        except StoreError as error:
            raise ValueError(str(error)) from error
        return folder

    @field_validator("recipe")
    @classmethod
    def _is_a_recipe_of_the_model(cls, recipe: RecipeName | None, info: Any) -> RecipeName | None:
        model = info.data.get("model")  # of a ValidationInfo, which the tests cannot check
        if model in RECIPES and recipe is not None and recipe not in RECIPES[model]:
            raise ValueError(f"{model} has the recipes {', '.join(RECIPES[model])}, not {recipe}")
        return recipe

    @property
    def plan(self) -> TrainingPlan:
        """What to train: the recipe's values, overruled by those that were set."""
        recipes = RECIPES.get(self.model, RECIPES["mlp"])  # of the user's own: as the mlp
        recipe = recipes[self.recipe] if self.recipe else next(iter(recipes.values()))
        network = self.model if self.model in RECIPES else find_own_model(self.model)
        fields = set(TrainingPlan.model_fields) - {"model"}
        chosen = self.model_dump(include=fields, exclude_none=True)
        return TrainingPlan(model=network, **recipe.model_dump() | chosen)

    @property
    def screening(self) -> TrainingPlan:
        """How the networks that look for doubtful labels are trained, whatever the model."""
        values = FAST_MLP.model_dump()
        return TrainingPlan(model="mlp", seed=self.seed, threads=self.threads, **values)

    def rules(self, dataset: str) -> ValidationRules:
        """What a run holds its dataset to. Raises ProfileError as `find_profile` does."""
        return ValidationRules(
            severity=SEVERITY | self.severity,
            max_psi=self.max_psi,
            max_effect=self.max_effect,
            profile=find_profile(self.profile, dataset),
            shipped=shipped_profile(),
        )


class LocalRunSettings(RunSettings):
    """The parameters of a run that is started here, by its user.

    It may train a model of the user's own. A deployment's form does not: that names a file to run.
    """

    model: str = Field(  # type: ignore[assignment]  # wider on purpose
        default="mlp",
        description=f"{RunSettings.model_fields['model'].description}; FILE.py:FUNCTION: your own "
        "Keras model, from FUNCTION(height, width, classes)",
    )

    @field_validator("model")
    @classmethod
    def _is_a_model(cls, model: str) -> str:
        if model not in RECIPES:
            try:
                find_own_model(model)
            except ModelError as error:
                raise ValueError(str(error)) from error
        return model


def _absolute(path: str | Path) -> Path:
    return require_utf8(expanded(path).absolute(), StoreError)
