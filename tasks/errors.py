"""What can go wrong in a way that a person can act on.

Every error says the rule that was broken, what was received, where, and what to do next:

    Image and label counts must match. Received: 60000 images, 59999 labels
    (in train-labels-idx1-ubyte.gz). Download both files again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.records import DatasetRef, ValidationReport

UNSEEN = re.compile("[\0-\b\v-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
QUOTED = re.compile(r"""(?<!\w)b?(['"])(.*\1(?!\w)|.*)""", re.DOTALL)


class PipelineError(Exception):
    """Base of every error that this project raises on purpose.

    `rule` and `advice` are sentences with their full stops. `received` is what was found instead
    (of a list, its items), `where` the file, array or setting that it was found in.
    """

    def __init__(
        self, rule: str, *, received: object = "", where: str | Path = "", advice: str = ""
    ) -> None:
        parts = [rule]
        if isinstance(received, list):
            received = ", ".join(map(str, received))
        if received != "":
            parts.append(f"Received: {received}{f' (in {where})' if where else ''}.")
        elif where:
            parts.append(f"Found in {where}.")
        if advice:
            parts.append(advice)
        super().__init__(visible(" ".join(parts)))


@contextmanager
def file_errors(rule: str, advice: str) -> Iterator[None]:
    """Let the operating system's errors inside the block be PipelineErrors that name the file."""
    try:
        yield
    except OSError as error:
        reason, where = error.strerror or error, error.filename or ""
        raise PipelineError(rule, received=reason, where=where, advice=advice) from error


def require_utf8(path: Path, error: type[PipelineError]) -> Path:
    """The path, if it can stand in JSON, as Prefect keeps what is set and logged; else an error.

    No file system has names with NUL in them, and what Python makes of one differs by version.
    """
    name = str(path)
    if "\0" in name or name.encode(errors="ignore").decode() != name:
        rule = "Names of files and folders must be text in UTF-8, without NUL."
        raise error(rule, received=ascii(name), advice="Rename it, or choose another.")
    return path


def visible(text: str) -> str:
    """Text in which nothing moves the cursor of a terminal, or turns the direction of reading."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def reason_of(error: Exception) -> str:
    """What a library says of a file that it cannot read, without what it quotes.

    That may be the content of any file: whoever raises another error goes on `from None`.
    """
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        return f"text that is not {error.encoding}"
    words = QUOTED.sub("…", str(error)).partition("\n")[0]
    return getattr(error, "strerror", None) or words or type(error).__name__


class DatasetError(PipelineError):
    """A dataset cannot be found, fetched or read."""


class ValidationFailedError(PipelineError):
    """The data breaks its contract; the message lists every failed check."""

    report: ValidationReport | None = None  # every check of `dataset`, if one was checked
    dataset: DatasetRef | None = None


class ProfileError(PipelineError):
    """A reference profile cannot be read, or cannot be made of a dataset."""


class ModelError(PipelineError):
    """A model cannot be built for this dataset, or cannot be trained."""


class AccuracyTooLowError(PipelineError):
    """The trained model stays below the accuracy that the run asked for."""


class StoreError(PipelineError):
    """The folders for the cache and the models cannot be written to."""


class PayloadError(StoreError):
    """A stored file is missing or is not what its record says. `ref` is that, a BlobRef."""

    def __init__(self, ref: Any, rule: str, **details: Any) -> None:
        super().__init__(rule, **details)
        self.ref = ref

    def __reduce__(self) -> tuple[Any, ...]:
        """How it goes to another process: the whole message stands for the rule."""
        return type(self), (self.ref, str(self)), vars(self)


class EntryError(StoreError):
    """A cached result is torn, or not one of this project's."""


class ServerError(PipelineError):
    """The Prefect server cannot be reached or started."""
