"""What every error says, and that it reaches another process as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

from tasks.errors import PayloadError, PipelineError, ValidationFailedError
from tasks.records import BlobRef, ValidationReport

REF = BlobRef(sha256="0" * 64, size_bytes=1, suffix=".npy")


def kinds(base: type[PipelineError] = PipelineError) -> Iterator[type[PipelineError]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize(
    ("received", "shown"),
    [
        (["no answer", "gave up"], "no answer, gave up"),
        ([8], "8"),
        ((60000, 28, 28), "(60000, 28, 28)"),
        ("['quoted']", "['quoted']"),
        (0, "0"),
    ],
    ids=["list", "one item", "shape", "text", "zero"],
)
def test_received_is_shown_for_people(received: object, shown: str) -> None:
    error = PipelineError("Rule.", received=received, where="here", advice="Do.")

    assert str(error) == f"Rule. Received: {shown} (in here). Do."


@pytest.mark.parametrize("nothing", ["", []])
def test_nothing_received_is_not_shown(nothing: object) -> None:
    assert str(PipelineError("Rule.", received=nothing, where="x.npz")) == "Rule. Found in x.npz."


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("kind", list(kinds()))
def test_error_is_the_same_in_another_process(
    kind: type[PipelineError], dumps: Callable[[object], bytes]
) -> None:
    before: tuple[Any, ...] = (REF,) if issubclass(kind, PayloadError) else ()
    error = kind(*before, "Rule.", received=(2, 3), where="here", advice="Do.")
    error.add_note("noted")

    there = pickle.loads(dumps(error))  # noqa: S301 - made here

    assert type(there) is kind
    assert str(there) == str(error) == "Rule. Received: (2, 3) (in here). Do."
    assert vars(there) == vars(error)


def test_damaged_file_is_named_in_another_process() -> None:
    there = pickle.loads(pickle.dumps(PayloadError(REF, "Rule.")))  # noqa: S301 - made here

    assert there.ref == REF


def test_report_of_a_failed_validation_reaches_another_process() -> None:
    error = ValidationFailedError("Rule.")
    error.report = ValidationReport(checks=())

    assert pickle.loads(pickle.dumps(error)).report == error.report  # noqa: S301 - made here
