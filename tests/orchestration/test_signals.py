"""A run that is told to end, and an error on its way that somebody catches."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from builders import Heard
from prefect.exceptions import TerminationSignal
from pydantic import BaseModel, model_serializer
from pydantic_core import PydanticSerializationError

from flows.mnist_flow import mnist_flow
from tasks.orchestration import signals
from tasks.orchestration.account import listening
from tasks.records import EpochMetrics, StageRecord
from tasks.settings import RunSettings


@pytest.fixture(autouse=True)
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What this process handled and was told before holds again afterwards."""
    monkeypatch.setattr(signals, "_handled", set())
    monkeypatch.setattr(signals, "_told", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Loses(Heard):
    """Interrupts the run once, while a stage or an epoch ends, and catches what that raises."""

    def __init__(self, after: str) -> None:
        super().__init__()
        self.after = after
        self.history: list[EpochMetrics] = []

    def _interrupt(self, now: str) -> None:
        if now == self.after:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def stage_finished(self, name: str, record: StageRecord) -> None:
        super().stage_finished(name, record)
        self._interrupt(name)

    def epoch_finished(self, epoch: int, epochs: int, metrics: EpochMetrics) -> None:
        self.history.append(metrics)
        self._interrupt(f"epoch {epoch}/{epochs}")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("after", "epochs", "last"), [("load", 0, "load"), ("epoch 1/2", 1, "train")]
)
def test_run_ends_although_the_error_that_ends_it_was_caught(
    settings: RunSettings, after: str, epochs: int, last: str
) -> None:
    signals.handle([signal.SIGINT])
    loses = Loses(after)
    with pytest.raises(KeyboardInterrupt), listening(loses):
        mnist_flow(settings)
    assert len(loses.history) == epochs
    assert list(loses.stages)[-1] == last
    assert "evaluate" not in loses.stages


def test_signal_is_known_whatever_a_library_makes_of_it() -> None:
    class Interrupted(BaseModel):
        @model_serializer
        def interrupt(self) -> dict[str, str]:
            signal.raise_signal(signal.SIGTERM)
            return {}

    signals.handle([signal.SIGTERM])
    assert signals.told() is None
    with pytest.raises(PydanticSerializationError):
        Interrupted().model_dump()
    assert signals.told() == signal.SIGTERM
    with pytest.raises(TerminationSignal) as met:
        signals.end_if_told()
    assert met.value.signal == signal.SIGTERM


def test_handler_that_prefect_puts_in_place_is_replaced_in_the_flow() -> None:
    signals.handle([signal.SIGTERM])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signals.handle_in_flow()
    assert signal.getsignal(signal.SIGTERM) is signals.end_run
    assert signal.getsignal(signal.SIGINT) is not signals.end_run
