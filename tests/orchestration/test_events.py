"""What a run tells Prefect besides its states."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from builders import Arrays, place_idx, run_flow, stripes
from prefect import Flow
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed, State

from tasks.errors import DatasetError, ValidationFailedError
from tasks.orchestration import events
from tasks.reporting.history import CompletedRun, append_run
from tasks.settings import RunSettings

Told = list[dict[str, Any]]


def blank_stripes() -> Arrays:
    """The images of the flow's tests, without their ink."""
    return {k: v * 0 if k.startswith("x") else v for k, v in stripes().items()}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """The events that were sent; nothing is sent."""
    sent: Told = []
    monkeypatch.setattr(events, "emit_event", lambda **event: sent.append(event))
    return sent


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs count as runs of a deployment."""
    monkeypatch.setattr(events, "_deployed", lambda: True)


def note_runs(settings: RunSettings, **accuracies: float) -> None:
    """Let a run of each of these models have completed before."""
    settings.model_root.mkdir()
    for model, accuracy in accuracies.items():
        earlier = CompletedRun(
            dataset="stripes",
            model=model,
            accuracy=accuracy,
            loss=0.1,
            weights_sha256=64 * "a",
            finished=datetime(2026, 11, 24, tzinfo=UTC),
            run_name="earlier",
            run_id="",
        )
        append_run(settings.model_root, earlier)


@pytest.mark.usefixtures("prefect_server", "deployed")
class TestInARun:
    """With the flow around it."""

    def test_good_run_tells_of_nothing(self, settings: RunSettings, told: Told) -> None:
        run_flow(settings)
        assert told == []

    def test_bad_data_is_told(self, settings: RunSettings, tmp_path: Path, told: Told) -> None:
        place_idx(tmp_path / "stripes", blank_stripes(), zipped=True)
        with pytest.raises(ValidationFailedError):
            run_flow(settings)
        (event,) = told
        assert event["event"] == "mnist.validation.failed"
        assert event["payload"]["dataset"] == "stripes"
        assert "2 errors" in event["payload"]["message"]

    def test_dataset_that_cannot_be_loaded_is_told_once_and_is_no_failed_validation(
        self, settings: RunSettings, tmp_path: Path, told: Told
    ) -> None:
        with pytest.raises(DatasetError) as error:
            run_flow(settings.model_copy(update={"dataset": str(tmp_path / "mistyped")}))
        (event,) = told
        assert event["event"] == "mnist.load.failed"
        assert event["payload"] == {"dataset": "mistyped", "message": str(error.value)}

    def test_drop_below_the_best_of_the_model_is_told(
        self, after_a_run: RunSettings, told: Told
    ) -> None:
        note_runs(after_a_run, mlp=1.0, cnn=0.5)
        barely_trained = {"epochs": 1, "learning_rate": 1e-6}
        summary = run_flow(after_a_run.model_copy(update=barely_trained)).summary
        (event,) = told
        assert event["event"] == "mnist.accuracy.dropped"
        figures = {"accuracy": round(summary.accuracy, 4), "best": 1.0}
        assert event["payload"] == {"dataset": "stripes", "model": "mlp", **figures}

    def test_better_run_of_another_model_is_no_drop(
        self, after_a_run: RunSettings, told: Told
    ) -> None:
        note_runs(after_a_run, cnn=1.0)
        barely_trained = {"epochs": 1, "learning_rate": 1e-6}
        assert run_flow(after_a_run.model_copy(update=barely_trained)).summary.accuracy < 0.9
        assert told == []


@pytest.mark.parametrize(
    ("accuracy", "earlier", "dropped"),
    [
        (0.97, (), False),
        (0.97, (0.975,), False),
        (0.97, (0.979, 0.90), False),
        (0.97, (0.981, 0.90), True),
        (0.97, (0.95, 0.96), False),
    ],
)
def test_drop_is_more_than_a_percentage_point_below_the_best(
    accuracy: float, earlier: tuple[float, ...], dropped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []
    monkeypatch.setattr(events, "_tell", lambda *event: sent.append(event))
    events.tell_dropped_accuracy("mnist", "mlp", accuracy, earlier)
    assert len(sent) == int(dropped)


@pytest.mark.usefixtures("prefect_server")
def test_run_from_a_terminal_tells_nobody(
    settings: RunSettings, tmp_path: Path, told: Told
) -> None:
    place_idx(tmp_path / "stripes", blank_stripes(), zipped=True)
    with pytest.raises(ValidationFailedError):
        run_flow(settings)
    assert told == []


def test_outside_a_run_nobody_is_told(told: Told) -> None:
    events.tell_failed_validation("mnist", "20 checks: 1 errors, 0 warnings")
    assert told == []


def pipeline() -> None:
    """A flow that is never run."""


class TestExplanation:
    """What a deployed run that ended badly leaves."""

    @pytest.mark.parametrize(
        ("state", "text"),
        [
            (
                Failed(message="Flow run encountered an exception: DatasetError: no network."),
                "DatasetError: no network.",
            ),
            (Crashed(message="Process exited with status code: -9."), "status code: -9."),
        ],
    )
    def test_it_leaves_its_message_and_what_follows(
        self, state: State, text: str, prefect_server: None
    ) -> None:
        del prefect_server
        flow = Flow(pipeline)
        with events.get_client(sync_client=True) as client:
            flow_run = client.create_flow_run(flow)
            deployed = flow_run.model_copy(update={"deployment_id": uuid4()})
            events.explain(flow, deployed, state)
            key = ArtifactFilter(key=ArtifactFilterKey(any_=["pipeline-failure"]))
            found = [
                str(artifact.data)
                for artifact in client.read_artifacts(artifact_filter=key)
                if artifact.flow_run_id == flow_run.id
            ]
        (left,) = found
        assert text in left
        assert "Flow run encountered an exception" not in left
        assert "goes on from there" in left

    def test_run_from_a_terminal_leaves_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[bool] = []
        monkeypatch.setattr(events, "get_client", lambda **_: asked.append(True))
        events.explain(Flow(pipeline), FlowRun(flow_id=uuid4()), Failed())
        assert asked == []
