"""A name that a person gave to a run is kept, and one that Prefect made up is not."""

from __future__ import annotations

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.utilities.names import generate_slug

from tasks.orchestration.naming import is_made_up, unless_named


@flow(flow_run_name=unless_named(lambda: "what it does"))
def tiny() -> None:
    """Does nothing."""


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("after the new labels", "after the new labels"),
        ("merry-otter", "what it does"),
        ("pi2-tsutsui", "what it does"),
    ],
)
def test_run_of_a_deployment_keeps_the_name_of_a_person(given: str, kept: str) -> None:
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(tiny), "tiny")
        run = client.create_flow_run_from_deployment(deployment, name=given)
        run_flow(tiny, flow_run=run)

        assert kept == client.read_flow_run(run.id).name


@pytest.mark.usefixtures("prefect_server")
def test_run_of_no_deployment_is_called_what_it_does() -> None:
    with get_client(sync_client=True) as client:
        state = tiny(return_state=True)

        assert state.state_details.flow_run_id is not None
        assert "what it does" == client.read_flow_run(state.state_details.flow_run_id).name


def test_names_of_prefects_server_are_made_up() -> None:
    assert all(is_made_up(generate_slug(2)) for _ in range(2000))


@pytest.mark.parametrize(
    "name", ["pi2-tsutsui", "upsilon3-lysenko-n", "omega-canis-majoris-shift", "eta41-vega"]
)
def test_names_of_the_form_are_made_up(name: str) -> None:
    assert is_made_up(name)


@pytest.mark.parametrize(
    "name", ["nightly-retrain", "after the new labels", "Merry-Otter", "otter-2", "pi", "alpha 2"]
)
def test_names_of_people_are_not(name: str) -> None:
    assert not is_made_up(name)
