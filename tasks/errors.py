"""What can go wrong in a way that a person can act on.

Every error says the rule that was broken, what was received, where, and what to do next:

    Image and label counts must match. Received: 60000 images, 59999 labels
    (in train-labels-idx1-ubyte.gz). Download both files again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.records import DatasetRef, ValidationReport


class PipelineError(Exception):
    """Base of every error that this project raises on purpose.

    Args:
        rule: the rule that was broken, one sentence with its full stop.
        received: what was found instead.
        where: the file, array or setting it was found in.
        advice: what to do next, one sentence with its full stop.
    """

    def __init__(
        self, rule: str, *, received: object = "", where: str | Path = "", advice: str = ""
    ) -> None:
        parts = [rule]
        if received != "":
            parts.append(f"Received: {received}{f' (in {where})' if where else ''}.")
        elif where:
            parts.append(f"Found in {where}.")
        if advice:
            parts.append(advice)
        super().__init__(" ".join(parts))


class DatasetError(PipelineError):
    """A dataset cannot be read as it is."""


class UnknownDatasetError(DatasetError):
    """Neither a known name, nor an existing folder, nor an existing .npz file."""


class MissingFileError(DatasetError):
    """A dataset folder lacks one of its four files, or the file cannot be opened."""


class ChecksumError(DatasetError):
    """A file is not the one that was published: its digest differs."""


class DownloadError(DatasetError):
    """A named dataset could not be downloaded."""


class SourceChangedError(DatasetError):
    """A dataset file changed while it was being read."""


class NotIdxError(DatasetError):
    """The header is not that of an IDX file of unsigned bytes with the right dimensions."""


class NotNpzError(DatasetError):
    """The file is not a readable .npz archive."""


class CorruptCompressionError(DatasetError):
    """Compressed bytes do not inflate, or their checksum differs."""


class TruncatedFileError(DatasetError):
    """The file holds fewer bytes than its header declares."""


class TrailingBytesError(DatasetError):
    """The file holds more bytes than its header declares."""


class MissingArrayError(DatasetError):
    """An .npz lacks one of x_train, y_train, x_test, y_test."""


class UnsupportedArrayError(DatasetError):
    """An array has a dtype or layout that is never read (objects, text, Fortran order)."""


class ShapeError(DatasetError):
    """Arrays have the wrong number of dimensions, are empty, or do not fit each other."""


class CountMismatchError(ShapeError):
    """Images and labels are not equally many."""


class LabelTypeError(DatasetError):
    """Labels are not whole numbers from 0 to 255."""


class ValidationFailedError(PipelineError):
    """The data breaks its contract; the message lists every failed check.

    `report` has every check of `dataset`, if one was checked.
    """

    report: ValidationReport | None = None
    dataset: DatasetRef | None = None


class ProfileError(PipelineError):
    """A reference profile cannot be read, or cannot be made of a dataset."""


class AccuracyTooLowError(PipelineError):
    """The trained model stays below the accuracy that the run asked for."""


class TooFewImagesError(PipelineError):
    """No class has enough training images to judge each by a model that has not seen it."""


class ImageTooSmallError(PipelineError):
    """The network needs larger images than the dataset has."""


class OwnModelError(PipelineError):
    """A user's file and function do not give a Keras model that fits the dataset."""


class TrainingDivergedError(PipelineError):
    """The loss is no longer a finite number."""


class StoreError(PipelineError):
    """The array store cannot do what it was asked to."""


class PayloadError(StoreError):
    """A stored file is missing or is not what its record says.

    Args:
        ref: the record of the file, a BlobRef.
        rule, details: as of every PipelineError.
    """

    def __init__(self, ref: Any, rule: str, **details: Any) -> None:
        super().__init__(rule, **details)
        self.ref = ref


class EntryError(StoreError):
    """A cached result is torn, or not one of this project's."""


class StoreFullError(StoreError):
    """The disk under the store is full."""


class ServerError(PipelineError):
    """The Prefect server cannot be used."""


class ServerUnavailableError(ServerError):
    """A configured Prefect server does not answer."""


class ServerStartError(ServerError):
    """The run's own Prefect server did not come up."""
