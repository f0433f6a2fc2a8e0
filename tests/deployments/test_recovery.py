"""A run that seems to be dead is looked at; a dead one's tasks are closed: on a server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Timer
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.states import Completed, Crashed, Pending, Running, Scheduled
from programs import comes_true

from deployments import recovery
from deployments.recovery import close_tasks, last_sign, recover, silent

SECONDS = 0.5


@flow(name="looked-at")
def work() -> None:
    """Exist."""


@task
def part() -> None:
    """Exist."""


@pytest.fixture
def client(
    prefect_server: None,  # noqa: ARG001 - must be up
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SyncPrefectClient]:
    monkeypatch.setattr(recovery, "LOOK_AGAIN_SECONDS", 0.05)
    with get_client(sync_client=True) as client:
        yield client


def run_in(client: SyncPrefectClient, state: State[None]) -> UUID:
    run = client.create_flow_run(work)
    client.set_flow_run_state(run.id, state, force=True)
    return run.id


def beat(client: SyncPrefectClient, run: UUID) -> None:
    """Send a sign of life, as the process of a run does."""
    event = {
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "id": str(uuid4()),
    }
    client.request("POST", "/events", json=[event])


@pytest.mark.parametrize("state", [Running(), Pending()])
def test_run_without_a_sign_of_life_is_silent(
    client: SyncPrefectClient, state: State[None]
) -> None:
    assert silent(client, run_in(client, state), SECONDS)


@pytest.mark.parametrize("state", [Completed(), Crashed(), Scheduled()])
def test_run_that_has_ended_or_waits_is_not_silent(
    client: SyncPrefectClient, state: State[None]
) -> None:
    """However long ago its last heartbeat was, and whatever came after its end."""
    run = run_in(client, state)
    beat(client, run)
    assert not silent(client, run, SECONDS)


def test_run_with_a_new_heartbeat_is_not_silent(client: SyncPrefectClient) -> None:
    run = run_in(client, Running())
    beat(client, run)
    assert comes_true(lambda: len(last_sign(client, run) or ()) == 2, 30)
    with get_client(sync_client=True) as process:
        later = Timer(SECONDS, beat, (process, run))
        later.start()
        assert not silent(client, run, 60)
        later.join()


def test_run_that_goes_on_meanwhile_is_not_silent(client: SyncPrefectClient) -> None:
    run = run_in(client, Pending())
    with get_client(sync_client=True) as process:
        later = Timer(SECONDS, process.set_flow_run_state, (run, Running()))
        later.start()
        assert not silent(client, run, 60)
        later.join()


def test_silent_run_becomes_crashed_for_the_reason_given(client: SyncPrefectClient) -> None:
    run = run_in(client, Running())
    assert recover(run, SECONDS, "It gave no sign of life.") is None
    state = client.read_flow_run(run).state
    assert state is not None
    assert (state.name, state.message) == ("Crashed", "It gave no sign of life.")


def test_completed_run_stays_completed(client: SyncPrefectClient) -> None:
    run = run_in(client, Completed())
    assert recover(run, SECONDS, "It gave no sign of life.") is None
    assert client.read_flow_run(run).state_name == "Completed"


def test_open_tasks_of_a_crashed_run_are_closed_and_others_stay(client: SyncPrefectClient) -> None:
    run = run_in(client, Running())
    states: list[State[None]] = [Running(), Pending(), Completed()]
    tasks = [
        client.create_task_run(part, run, dynamic_key=str(number), state=state)
        for number, state in enumerate(states)
    ]
    close_tasks(client, client.read_flow_run(run))
    assert [client.read_task_run(each.id).state_name for each in tasks] == [
        "Running",
        "Pending",
        "Completed",
    ]
    client.set_flow_run_state(run, Crashed())
    recover(run)
    assert [client.read_task_run(each.id).state_name for each in tasks] == [
        "Crashed",
        "Crashed",
        "Completed",
    ]
