"""What a run can be told: one definition of each parameter, its bounds and its help text.

The same model is the flow's parameter, the form in the Prefect UI, the command line, the
`MNIST_*` environment variables and the Python interface. It never reads the environment by
itself: a deployer's environment must not become the form's defaults.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.errors import ModelError
from tasks.learning.own_model import find_own_model
from tasks.records import (
    CheckName,
    ChosenSeverity,
    ModelName,
    Network,
    OptimizerName,
    OwnModel,
    ScheduleName,
    TrainingPlan,
    ValidationRules,
)
from tasks.validation.profiles import find_profile

APPLICATION = "mnist-pipeline"

RecipeName = Literal["reference", "fast", "long"]


class Recipe(BaseModel):
    """How one model is trained unless the settings say otherwise. Data, not code."""

    model_config = ConfigDict(frozen=True)

    epochs: int
    batch_size: int
    hidden_units: int
    learning_rate: float
    optimizer: OptimizerName
    schedule: ScheduleName
    label_smoothing: float
    shift_pixels: int


# The published experiment: Dense 64 ReLU, Dense 10 softmax, RMSprop at Keras's defaults.
REFERENCE = Recipe(
    epochs=12,
    batch_size=100,
    hidden_units=64,
    learning_rate=0.001,
    optimizer="rmsprop",
    schedule="constant",
    label_smoothing=0.0,
    shift_pixels=0,
)
# The others were chosen on training images that were held out (`make recipes`).
FAST_MLP = Recipe(
    epochs=24,
    batch_size=250,
    hidden_units=64,
    learning_rate=0.005,
    optimizer="adam",
    schedule="one-cycle",
    label_smoothing=0.05,
    shift_pixels=1,
)
FAST_CNN = Recipe(
    epochs=6,
    batch_size=250,
    hidden_units=256,
    learning_rate=0.005,
    optimizer="adam",
    schedule="one-cycle",
    label_smoothing=0.1,
    shift_pixels=2,
)
# By model, the one that it is trained with unless another is chosen first.
RECIPES: dict[ModelName, dict[RecipeName, Recipe]] = {
    "mlp": {
        "reference": REFERENCE,
        "fast": FAST_MLP,
        "long": FAST_MLP.model_copy(update={"epochs": 60}),
    },
    "cnn": {"fast": FAST_CNN, "long": FAST_CNN.model_copy(update={"epochs": 20})},
}

SEVERITY: dict[CheckName, ChosenSeverity] = dict.fromkeys(get_args(CheckName), "warning")
Severities = Annotated[
    dict[CheckName, ChosenSeverity],
    Field(
        title="Severity",
        description="of a check of the images, as in duplicates=error: error, warning or off; "
        f"of {', '.join(SEVERITY)}, each a warning unless set",
    ),
]


class RunSettings(BaseModel):
    """The parameters of a training run."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Training run")

    dataset: str = Field(
        default="mnist",
        min_length=1,
        title="Dataset",
        description="mnist, fashion_mnist, kmnist, a folder of four IDX files, or an .npz file",
    )
    model: ModelName = Field(
        default="mlp",
        title="Model",
        description="mlp: the reference network, one hidden layer; cnn: a small convolutional one",
    )
    recipe: RecipeName | None = Field(
        default=None,
        title="Recipe",
        description="how it is trained where the next eight say nothing: reference (the mlp's "
        "default), fast (the cnn's), or long, for the last tenths of a percent",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        title="Epochs",
        description="passes over the training images; the recipe's (mlp 12, cnn 6) unless set",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        title="Batch size",
        description="images per optimizer step; the recipe's (mlp 100, cnn 250) unless set",
    )
    hidden_units: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        title="Hidden units",
        description="width of the hidden layer; the recipe's (mlp 64, cnn 256) unless set",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=100,
        title="Learning rate",
        description="the optimizer's step size, or its peak; the recipe's (mlp 0.001, cnn 0.005) "
        "unless set",
    )
    optimizer: OptimizerName | None = Field(
        default=None,
        title="Optimizer",
        description="the recipe's (mlp rmsprop, cnn adam) unless set",
    )
    schedule: ScheduleName | None = Field(
        default=None,
        title="Schedule",
        description="of the learning rate: constant, or one-cycle (up for three tenths of the "
        "steps, then down to zero); the recipe's unless set",
    )
    label_smoothing: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        title="Label smoothing",
        description="fraction of each label that is spread over all classes; the recipe's unless "
        "set",
    )
    shift_pixels: int | None = Field(
        default=None,
        ge=0,
        le=64,
        title="Shift",
        description="each training image is moved by up to as many pixels, anew in each epoch; "
        "the recipe's unless set",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**32 - 1,
        title="Seed",
        description="decides the initial weights and the order of the images",
    )
    severity: Severities = {}
    max_psi: float = Field(
        default=0.25,
        gt=0,
        title="Largest stability index",
        description="population stability index from which class-balance and drift fail",
    )
    max_effect: float = Field(
        default=0.5,
        gt=0,
        title="Largest effect",
        description="standardised difference (Cohen's d) from which drift fails",
    )
    profile: str | None = Field(
        default=None,
        min_length=1,
        title="Profile",
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
        title="Label suspects",
        description="look for training images whose label is doubtful, and show them in the report",
    )
    refresh: bool = Field(
        default=False,
        title="Refresh",
        description="compute every stage anew and replace what is cached",
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
    def cache_root(self) -> Path:
        """The cache folder that this run uses, absolute."""
        chosen = self.cache_dir or platformdirs.user_cache_path(APPLICATION)
        return _absolute(chosen)

    @property
    def model_root(self) -> Path:
        """The folder for models and reports that this run uses, absolute."""
        chosen = self.model_dir or platformdirs.user_data_path(APPLICATION) / "models"
        return _absolute(chosen)

    @field_validator("recipe")
    @classmethod
    def _is_a_recipe_of_the_model(
        cls,
        recipe: RecipeName | None,
        info: Any,  # a ValidationInfo, which cannot be checked at run time
    ) -> RecipeName | None:
        model = info.data.get("model")
        if model in RECIPES and recipe is not None and recipe not in RECIPES[model]:
            raise ValueError(f"{model} has the recipes {', '.join(RECIPES[model])}, not {recipe}")
        return recipe

    @property
    def network(self) -> Network:
        """Which model to train."""
        return self.model

    @property
    def plan(self) -> TrainingPlan:
        """What to train: the recipe's values, overruled by those that were set."""
        network = self.network
        recipes = RECIPES["mlp" if isinstance(network, OwnModel) else network]
        default: RecipeName = next(iter(recipes))
        recipe = recipes[self.recipe or default]
        chosen = {name: getattr(self, name) for name in Recipe.model_fields}
        merged = recipe.model_copy(update={k: v for k, v in chosen.items() if v is not None})
        return TrainingPlan(model=network, seed=self.seed, **merged.model_dump())

    def rules(self, dataset: str) -> ValidationRules:
        """What a run holds its dataset to. Raises ProfileError as `find_profile` does."""
        return ValidationRules(
            severity=SEVERITY | self.severity,
            max_psi=self.max_psi,
            max_effect=self.max_effect,
            profile=find_profile(self.profile, dataset),
        )

    @property
    def screening(self) -> TrainingPlan:
        """How the networks that look for doubtful labels are trained, whatever the model."""
        recipe = RECIPES["mlp"]["fast"]
        return TrainingPlan(model="mlp", seed=self.seed, **recipe.model_dump())


class LocalRunSettings(RunSettings):
    """The parameters of a run that is started here, by its user.

    It may train a model of the user's own. A deployment's form takes no such settings: they
    name a file to run.
    """

    model: str = Field(  # type: ignore[assignment]  # wider on purpose
        default="mlp",
        title="Model",
        description="mlp: the reference network, one hidden layer; cnn: a small convolutional "
        "one; FILE.py:FUNCTION: your own Keras model, from FUNCTION(height, width, classes)",
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

    @property
    def network(self) -> Network:
        """Which model to train."""
        if self.model in RECIPES:
            return self.model
        return find_own_model(self.model)


def _absolute(path: Path) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - pathlib's raises for unknown users
