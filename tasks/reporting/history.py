"""How accurate the runs were: a line of JSON each, beside the models.

    <model dir>/history.jsonl
    {"dataset":"mnist","model":"mlp","accuracy":0.9751,"loss":0.0834,"weights_sha256":"3f1c…",
     "finished":"2026-11-24T01:02:03Z","run_name":"mnist-mlp-12-epochs-seed-0","run_id":"b8a0…"}

Lines are only ever appended, each in one write, so that runs at the same time lose none, and one
after the other, so that none takes another's for torn. What is not such a line is skipped: one
torn by a full disk, or one of a later version.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tasks.cache.blobs import errors_named
from tasks.cache.places import locked_folder
from tasks.records import Record, Sha256

NAME = "history.jsonl"
LATEST = 30


class CompletedRun(Record):
    """What is kept of one run; its history is that of its dataset and its model."""

    dataset: str
    model: str
    accuracy: Annotated[float, Field(ge=0, le=1)]
    loss: float
    weights_sha256: Sha256
    finished: datetime
    run_name: str
    run_id: str


def earlier_accuracies(folder: Path, dataset: str, model: str) -> tuple[float, ...]:
    """The accuracies of the latest 30 runs of a model on a dataset, the oldest first."""
    latest: deque[float] = deque(maxlen=LATEST)
    with suppress(OSError):
        path = folder / NAME
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            with suppress(ValueError):
                run = CompletedRun.model_validate_json(line)
                if (run.dataset, run.model) == (dataset, model):
                    latest.append(run.accuracy)
    return tuple(latest)


def append_run(folder: Path, run: CompletedRun) -> None:
    """Add a run to the history in an existing folder. Raises StoreError."""
    path, line = folder / NAME, f"{run.model_dump_json()}\n".encode()
    with errors_named(path, option="--model-dir"), locked_folder(folder, alone=True):
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError(errno.EINVAL, "no regular file")
        _append(path, line)


def _append(path: Path, line: bytes) -> None:
    with path.open("ab+", buffering=0) as file:
        size_bytes = file.tell()
        if size_bytes == 0:
            path.chmod(0o644)  # as the models, whatever the umask
        elif os.pread(file.fileno(), 1, size_bytes - 1) != b"\n":
            line = b"\n" + line  # after a torn one
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
