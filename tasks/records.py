"""The small values that stages hand to each other.

A record names content, never a place or a time, so that a cache key computed from it
means the same on every machine:

    ArrayRef(sha256="9f86d0…", size_bytes=188160128, suffix=".npy",
             dtype="float32", shape=(60000, 784))
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Suffix = Literal[".npy", ".keras", ".png"]
# What a result can hold, and no damaged or made-up one can exceed.
Count = Annotated[int, Field(ge=0, le=2**48)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Figure = Annotated[float, Field(ge=-1e12, le=1e12)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", max_length=255)]

SPLITS = ("train", "test")
ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")


class Record(BaseModel):
    """An immutable value with a strict set of fields."""

    # An infinite loss has to come back from JSON as it was, not as null.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def content(self) -> dict[str, Any]:
        """What counts of it in a cache key, as JSON."""
        records = {name: value.content() for name, value in self if isinstance(value, Record)}
        return self.model_dump(mode="json") | records

    def stored_files(self) -> dict[str, BlobRef]:
        """The stored files that it names, by field."""
        return {name: value for name, value in self if isinstance(value, BlobRef)}

    def require_consistent(self) -> None:
        """Raise ValueError unless the fields fit each other. Asked of what comes from the cache."""


class Findings(Record):
    """Many figures that count as one content: of a change, only that there is one is told."""

    uncounted: ClassVar[set[str]] = set()

    def content(self) -> dict[str, Any]:
        """A digest over all of it but the `uncounted` fields."""
        counted = self.model_dump_json(exclude=self.uncounted)
        return {"sha256": hashlib.sha256(counted.encode()).hexdigest()}


class BlobRef(Record):
    """A file in the store, named by the SHA-256 of its bytes."""

    sha256: Sha256
    size_bytes: Count
    suffix: Suffix


class ArrayRef(BlobRef):
    """An array in the store: a C-ordered `.npy` file of this dtype and shape."""

    suffix: Literal[".npy"] = ".npy"
    dtype: str
    shape: tuple[Count, ...]


class SourceFile(NamedTuple):
    """One file that a dataset is read from."""

    name: str  # with its folders, from the place of the dataset on
    sha256: str
    size_bytes: int
    path: Path


class SourceFiles(Sequence[SourceFile]):
    """The files of a dataset, in order.

    No tuple and no record: there may be 70,000, and Prefect looks into each at every call.
    """

    TOLD_APART = 20  # in a cache key, and so in a reason; more count as one content

    def __init__(self, files: Iterable[SourceFile], remembered_in: Path | None = None) -> None:
        self._files = tuple(files)
        self.remembered_in = remembered_in  # where their digests are

    def __getitem__(self, place: Any) -> Any:
        """One file, or a tuple of some."""
        return self._files[place]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._files)

    def __eq__(self, other: object) -> bool:
        """Whether these are the same files, at the same places."""
        return isinstance(other, SourceFiles) and self._files == other._files

    def __hash__(self) -> int:
        """Of the files and their places."""
        return hash(self._files)

    def content(self) -> Any:
        """What counts of them in a cache key: names, sizes and digests."""
        return self._content

    @cached_property
    def _content(self) -> Any:
        kept = [file[:3] for file in self._files]
        if len(kept) <= self.TOLD_APART:
            return [dict(zip(SourceFile._fields, file, strict=False)) for file in kept]
        digest = hashlib.sha256(json.dumps(kept).encode()).hexdigest()
        return {"name": f"{len(kept)} files", "sha256": digest}


class DatasetSource(Record):
    """A dataset that was found, not yet read."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str  # for people and artifact keys: lower-case letters, digits and dashes
    kind: str  # one of FORMATS in tasks/sources/catalogue.py
    files: SourceFiles

    def content(self) -> dict[str, Any]:
        """Its name, its kind, and its files' content."""
        return {"name": self.name, "kind": self.kind, "files": self.files.content()}


class Reading(Record):
    """How a dataset is read, as far as that is a choice.

    `image_size` (rows, columns) is what pictures are brought to; None if they have one size.
    `test_fraction` of each class, drawn from `seed`, becomes the test split of a dataset that has
    none.
    """

    image_size: tuple[int, int] | None = None
    grayscale: bool = False
    test_fraction: float | None = None
    seed: int | None = None  # None unless something is drawn


AS_IT_IS = Reading()


class DatasetRef(Record):
    """Four arrays and what they depict.

    As loaded:       x (image, row, column) uint8 0 … 255, or (image, row, column, channel) of
                     three channels; y (image,) uint8 0 … classes - 1.
    As preprocessed: x (image, pixel) float32 in [0, 1], y (image, class) float32 one-hot.
    """

    name: Slug
    x_train: ArrayRef
    y_train: ArrayRef
    x_test: ArrayRef
    y_test: ArrayRef
    height: Count
    width: Count
    class_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=256)]  # by label
    channels: Literal[1, 3] = 1  # grey, or red, green and blue
    validation_images: Count = 0  # the last of the training images: held out
    test_fraction: float | None = None  # of each class, if the test split was cut off here

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.class_names)

    def of_training_images(self, images: int) -> DatasetRef:
        """Described as if it had so many: a schedule counts its steps by them."""
        shape = (images, *self.x_train.shape[1:])
        return self.model_copy(update={"x_train": self.x_train.model_copy(update={"shape": shape})})

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(row, column) of a grey image, (row, column, channel) of one in colour."""
        size = (self.height, self.width)
        return size if self.channels == 1 else (*size, self.channels)

    @property
    def pixels(self) -> int:
        """How many values an image has."""
        return self.height * self.width * self.channels

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of the four arrays."""
        joined = "".join(getattr(self, name).sha256 for name in ARRAY_NAMES)
        return hashlib.sha256(joined.encode()).hexdigest()

    def require_consistent(self) -> None:
        """Raise ValueError unless there is a label to each image, and each has `pixels` values."""
        for images, labels in ((self.x_train, self.y_train), (self.x_test, self.y_test)):
            pixels = math.prod(images.shape[1:])
            if images.shape[:1] != labels.shape[:1] or pixels != self.pixels:
                raise ValueError(f"images {images.shape} and labels {labels.shape}")


Tier = Literal["files", "structure", "rows", "splits", "plausibility", "drift"]
Severity = Literal["error", "warning"]
ChosenSeverity = Literal["error", "warning", "off"]
# The checks whose severity is a setting. All of tier drift go by one name.
CheckName = Literal[
    "constant-images",
    "duplicates",
    "contradictions",
    "classes",
    "leakage",
    "class-balance",
    "inverted",
    "cut-off",
    "transposed",
    "drift",
]


class CheckResult(Record):
    """The outcome of one validation check."""

    tier: Tier
    name: str
    subject: str
    rule: str
    severity: Severity
    outcome: Literal["passed", "failed", "skipped"]
    received: str = ""  # what was found instead, or why the check was skipped
    rows: tuple[Count, ...] = ()  # the numbers of the first failing images
    failing: Count = 0  # how many images fail


class ValidationReport(Findings):
    """Every check, in order, those that were skipped included."""

    checks: tuple[CheckResult, ...]

    def failed(self, severity: Severity) -> tuple[CheckResult, ...]:
        """The checks of a severity that did not hold."""
        return tuple(c for c in self.checks if c.outcome == "failed" and c.severity == severity)


class Moments(Record):
    """Mean and standard deviation of some figure over images; NaN over none."""

    mean: float
    spread: float


def _require_whole(fractions: tuple[float, ...]) -> tuple[float, ...]:
    if not math.isclose(sum(fractions), 1, abs_tol=1e-3):
        raise ValueError(f"fractions whose sum is {sum(fractions):.3g}")
    return fractions


Fractions = Annotated[
    tuple[Fraction, ...], Field(min_length=1, max_length=256), AfterValidator(_require_whole)
]


class Profile(Findings):
    """What the images of a dataset usually are like; pixel values are 0 … 255."""

    name: str
    images: Annotated[int, Field(ge=1)]
    brightness: Moments  # of each image's mean
    contrast: Moments  # of each image's standard deviation
    pixels: Annotated[Fractions, Field(min_length=10, max_length=10)]  # of all, in equal bins
    classes: Fractions  # of the images, by class
    ink: tuple[Moments, ...]  # brightness, by class
    upright: tuple[Moments, ...] = ()  # spread over rows more than over columns, by class, if grey

    @model_validator(mode="after")
    def _has_ink_of_each_class(self) -> Profile:
        if len(self.ink) != len(self.classes):
            raise ValueError(f"ink of {len(self.ink)} classes, where there are {len(self.classes)}")
        return self


class ValidationRules(Record):
    """What validation holds a dataset to, besides the structure of its arrays."""

    severity: dict[CheckName, ChosenSeverity]  # of every CheckName
    max_psi: float  # bounds population stability indices
    max_effect: float  # bounds the size of standardised differences
    profile: Profile | None
    shipped: Profile  # of MNIST: which way digits stand


ModelName = Literal["mlp", "cnn"]
OptimizerName = Literal["rmsprop", "adam", "sgd"]
ScheduleName = Literal["constant", "one-cycle"]


class OwnModel(Record):
    """A function of the user's that builds a Keras model, its file's name, its code's digest."""

    name: str
    file: str
    sha256: Sha256
    path: Path = Field(exclude=True)
    unfollowed: tuple[str, ...] = Field((), exclude=True)  # what else may count, nobody can tell

    def content(self) -> dict[str, Any]:
        """Its names and the digest. Raises TypeError if that does not say all that counts."""
        if self.unfollowed:
            raise TypeError(f"imports that cannot be followed: {', '.join(self.unfollowed)}")
        return super().content()

    @property
    def place(self) -> str:
        """FILE.py:FUNCTION."""
        return f"{self.path}:{self.name}"


Network = ModelName | OwnModel


class Recipe(Record):
    """How one model is trained. Here alone stand the bounds of these values and their help.

    The defaults are the published experiment: Dense 64 ReLU, Dense 10 softmax, RMSprop.
    """

    epochs: int = Field(12, ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(100, ge=1, le=1_000_000, description="images per optimizer step")
    hidden_units: int = Field(64, ge=1, le=65_536, description="width of the hidden layer")
    learning_rate: float = Field(
        0.001, gt=0, le=100, description="the optimizer's step size, or its peak"
    )
    optimizer: OptimizerName = Field("rmsprop", description="how the weights follow the gradients")
    schedule: ScheduleName = Field(
        "constant",
        description="of the learning rate: constant, or one-cycle (up for three tenths of the "
        "steps, then down to zero)",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="fraction of each label that is spread over all classes"
    )
    shift_pixels: int = Field(
        0,
        ge=0,
        le=64,
        title="Shift",
        description="each training image is moved by up to as many pixels, newly drawn in each "
        "epoch",
    )


class TrainingPlan(Recipe):
    """Everything that decides what training computes, apart from the data and the code."""

    model: Network
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="decides the initial weights and the order of the images"
    )
    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="of each class, held out of the training images and evaluated after each epoch",
    )
    patience: int = Field(
        0,
        ge=0,
        le=10_000,
        description="epochs without a lower validation loss after which training stops and goes "
        "back to the best epoch; 0: it never stops",
    )
    threads: int = Field(
        2,
        ge=1,
        le=1024,
        description="threads that compute in TensorFlow; part of what decides the last bits",
    )

    @property
    def model_name(self) -> str:
        """The model's name for people and files."""
        return self.model.name if isinstance(self.model, OwnModel) else self.model


class EpochMetrics(Record):
    """Means over the training images of one epoch, as they were met; then of those held out."""

    loss: float
    accuracy_fraction: float
    validation_loss: float | None = None
    validation_accuracy_fraction: float | None = None


def _require_finite(history: tuple[EpochMetrics, ...]) -> tuple[EpochMetrics, ...]:
    if not all(math.isfinite(one.loss) and math.isfinite(one.accuracy_fraction) for one in history):
        raise ValueError("an epoch whose loss or accuracy is no number")
    return history


History = Annotated[tuple[EpochMetrics, ...], AfterValidator(_require_finite)]


class ModelRef(Findings):
    """A trained model. `weights_sha256` is its identity, over its configuration and weights."""

    uncounted = {"keras_file"}  # two saved files differ by their date

    keras_file: BlobRef
    weights_sha256: Sha256
    parameters: Count
    history: History


class ClassMetrics(Record):
    """How well one class is recognised on the test images, as fractions."""

    label: Count
    images: Count
    precision: Fraction
    recall: Fraction
    f1: Fraction


class ConfidenceBin(Record):
    """The images whose predicted class got a probability in one tenth of [0, 1]: means, count."""

    confidence: Figure
    accuracy_fraction: Fraction
    images: Count


class Mistake(Record):
    """A test image that was taken for another class, with the probability of that class."""

    row: Count
    label: Count
    predicted: Count
    confidence: Figure


class Metrics(Findings):
    """The evaluation on every test image."""

    accuracy_fraction: Fraction
    accuracy_interval: tuple[Fraction, Fraction]  # Wilson's, 95 %
    loss: Figure
    images: Count
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[Count, ...], ...]  # [i][j]: images of class i taken for class j
    calibration_error: Figure  # expected calibration error over the non-empty bins
    reliability: tuple[ConfidenceBin, ...]
    mistakes: tuple[Mistake, ...]  # the most confident ones first, at most 25
    probabilities: ArrayRef  # (image, class) float32

    def require_consistent(self) -> None:
        """Raise ValueError unless the confusion matrix is square, and mistakes are images."""
        if {len(row) for row in self.confusion} - {len(self.confusion)}:
            raise ValueError("a confusion matrix that is not square")
        _require_rows(self.images, self.mistakes)


class Suspect(Record):
    """A training image whose label is doubtful: what it is labelled, and what it looks like."""

    row: Count
    label: Count
    suggested: Count
    quality: Figure


class Suspects(Findings):
    """Doubtful labels of the training images, the worst first; `images` were looked at."""

    found: tuple[Suspect, ...]
    images: Count

    def require_consistent(self) -> None:
        """Raise ValueError unless each is one of the images."""
        _require_rows(self.images, self.found)


def _require_rows(images: int, named: tuple[Suspect, ...] | tuple[Mistake, ...]) -> None:
    if any(one.row >= images for one in named):
        raise ValueError(f"a row beyond {images} images")


class Pictures(Record):
    """Pictures of a run's report, each a stored PNG, by what they show."""

    drawn: dict[Slug, BlobRef]

    def stored_files(self) -> dict[str, BlobRef]:
        """The pictures."""
        return self.drawn


class StageRecord(Record):
    """What one stage did in this run."""

    state: Literal["computed", "cached", "failed"]
    seconds: float
    why: str


class RunSummary(Record):
    """What a completed run hands back."""

    dataset: str
    model: str
    accuracy: float
    loss: float
    model_path: Path
    weights_sha256: Sha256
    report_path: Path
    flow_run_id: str
    flow_run_name: str
    stages: dict[str, StageRecord]
