"""What a run can be told: one definition of each parameter, its bounds and its help text.

The same model is the flow's parameter, the form in the Prefect UI, the command line, the
`MNIST_*` environment variables and the Python interface. It never reads the environment by
itself: a deployer's environment must not become the form's defaults.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field

from tasks.records import TrainingPlan

APPLICATION = "mnist-pipeline"

ModelName = Literal["mlp", "cnn"]
OptimizerName = Literal["rmsprop", "adam", "sgd"]
RecipeName = Literal["reference"]


class Recipe(BaseModel):
    """How one model is trained unless the settings say otherwise. Data, not code."""

    model_config = ConfigDict(frozen=True)

    epochs: int
    batch_size: int
    hidden_units: int
    learning_rate: float
    optimizer: OptimizerName


RECIPES: dict[RecipeName, dict[ModelName, Recipe]] = {
    "reference": {
        # The published experiment: Dense 64 ReLU, Dense 10 softmax, RMSprop at Keras's defaults.
        "mlp": Recipe(
            epochs=12, batch_size=100, hidden_units=64, learning_rate=0.001, optimizer="rmsprop"
        ),
        "cnn": Recipe(
            epochs=3, batch_size=100, hidden_units=256, learning_rate=0.001, optimizer="adam"
        ),
    },
}


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
    recipe: RecipeName = Field(
        default="reference",
        title="Recipe",
        description="how the model is trained where the next five say nothing",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        title="Epochs",
        description="passes over the training images; the recipe's (mlp 12, cnn 3) unless set",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        title="Batch size",
        description="images per optimizer step; the recipe's (100) unless set",
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
        description="the optimizer's step size; the recipe's (0.001) unless set",
    )
    optimizer: OptimizerName | None = Field(
        default=None,
        title="Optimizer",
        description="the recipe's (mlp rmsprop, cnn adam) unless set",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**32 - 1,
        title="Seed",
        description="decides the initial weights and the order of the images",
    )
    min_accuracy: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Minimum accuracy",
        description="fail the run when the test accuracy (a fraction from 0 to 1) is lower",
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

    @property
    def plan(self) -> TrainingPlan:
        """What to train: the recipe's values, overruled by those that were set."""
        recipe = RECIPES[self.recipe][self.model]
        chosen = {name: getattr(self, name) for name in Recipe.model_fields}
        merged = recipe.model_copy(update={k: v for k, v in chosen.items() if v is not None})
        return TrainingPlan(model=self.model, seed=self.seed, **merged.model_dump())


def _absolute(path: Path) -> Path:
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - pathlib's raises for unknown users
