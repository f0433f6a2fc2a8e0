"""The deployed pipeline on a stack of real processes: what an operator relies on."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import programs
import psutil
import pytest
import websockets
from browser import chromium, window
from operating import Operated
from playwright.sync_api import Page
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from programs import comes_true, write_dataset

from tasks.server.home import AUTH, ENCRYPTION_KEY

pytestmark = pytest.mark.stack


def server_state(stack: Operated) -> dict[str, Any]:
    """What deploying makes on the server, without when it was last deployed."""

    def plain(objects: list[Any]) -> list[dict[str, Any]]:
        dumped = [o.model_dump(mode="json") for o in objects]
        for fields in dumped:
            for changing in ("updated", "last_polled", "status"):
                fields.pop(changing, None)
            for schedule in fields.get("schedules", []):
                schedule.pop("updated")
        return sorted(dumped, key=lambda fields: str(fields["id"]))

    with stack.client() as client:
        return {
            "deployments": plain(client.read_deployments()),
            "pools": plain(client.read_work_pools()),
            "automations": plain(client.read_automations()),
        }


def test_deploying_again_changes_nothing(stack: Operated) -> None:
    before = server_state(stack)
    assert {found["name"] for found in before["deployments"]} == {"daily", "smoke", "recover"}
    assert [found["name"] for found in before["pools"]] == ["mnist"]
    assert len(before["automations"]) == 4  # the others would only tell somebody
    stack.deploy()
    assert server_state(stack) == before


def test_deploying_to_a_reader_that_has_gone_says_nothing_more(stack: Operated) -> None:
    line = f"set -o pipefail; {sys.executable} -m deployments deploy | true"
    done = programs.run(["/bin/bash", "-c", line], stack.environment, status=141)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/version"),
        ("POST", "/flow_runs/filter"),
        ("POST", "/deployments/filter"),
        ("GET", "/csrf-token?client=me"),
        ("GET", "/admin/settings"),
    ],
)
@pytest.mark.parametrize("login", [None, ("operator", "guessed")], ids=["none", "wrong"])
def test_request_without_the_password_is_refused(
    stack: Operated, method: str, path: str, login: tuple[str, str] | None
) -> None:
    response = httpx.request(method, f"{stack.stack.api_url}{path}", auth=login)
    assert response.status_code in {401, 403}


@pytest.mark.parametrize("path", ["/api/health", "/api/ready", "/ui-settings", "/"])
def test_health_and_the_page_of_the_ui_need_no_password(stack: Operated, path: str) -> None:
    page = stack.stack.api_url.removesuffix("/api") + path
    assert httpx.get(page, follow_redirects=True).is_success


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_pages_about_the_api_are_closed(stack: Operated, path: str) -> None:
    assert httpx.get(stack.stack.pages + path).status_code == 404


@pytest.mark.parametrize("channel", ["/events/in", "/events/out", "/logs/out"])
def test_websocket_without_the_password_is_closed(stack: Operated, channel: str) -> None:
    url = stack.stack.api_url.replace("http", "ws", 1) + channel

    async def close_code() -> int:
        async with websockets.connect(url, subprotocols=[websockets.Subprotocol("prefect")]) as ws:
            await ws.send(json.dumps({"type": "auth", "token": "guessed"}))
            await ws.wait_closed()
            return int(ws.close_code or 0)

    assert asyncio.run(close_code()) == 1008  # a policy was violated


def test_websocket_that_says_nothing_is_closed(stack: Operated) -> None:
    url = stack.stack.api_url.replace("http", "ws", 1) + "/events/in"

    async def close_code() -> int:
        async with websockets.connect(url, subprotocols=[websockets.Subprotocol("prefect")]) as ws:
            await ws.wait_closed()
            return int(ws.close_code or 0)

    assert asyncio.run(close_code()) == 1008


def test_request_with_the_password_and_without_a_csrf_token_is_refused(stack: Operated) -> None:
    user, _, password = stack.stack.server[AUTH].partition(":")
    response = httpx.post(f"{stack.stack.api_url}/flow_runs/filter", auth=(user, password), json={})
    assert response.status_code == 403
    assert "CSRF" in response.text


def test_another_site_may_not_use_the_api_from_a_browser(stack: Operated) -> None:
    asked = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
    response = httpx.options(f"{stack.stack.api_url}/flow_runs/filter", headers=asked)
    assert "access-control-allow-origin" not in response.headers


def test_no_secret_is_on_a_command_line_or_in_a_log(stack: Operated) -> None:
    login = stack.stack.server[AUTH].partition(":")[2]
    hidden = [login, stack.stack.server[ENCRYPTION_KEY], urlsplit(stack.database).password or "-"]
    said = "".join(stack.log(name) for name in stack.processes)
    started = "".join(
        " ".join(psutil.Process(process.pid).cmdline()) for process in stack.processes.values()
    )
    assert [] == [secret for secret in hidden if secret in said + started]


def test_run_on_demand_completes(stack: Operated) -> None:
    run = stack.submit()
    assert stack.becomes(run, "Completed"), stack.log("worker")


def test_run_on_its_schedule_completes(stack: Operated) -> None:
    with stack.client() as client:
        deployment = client.read_deployment_by_name("mnist/smoke")
        often = IntervalSchedule(interval=timedelta(seconds=15))
        (schedule,) = client.create_deployment_schedules(
            deployment.id,
            [
                DeploymentScheduleCreate(
                    schedule=often, active=True, parameters={"settings": stack.settings()}
                )
            ],
        )
        try:
            assert comes_true(lambda: any(map(completed_by_itself, stack.runs_of("smoke"))), 150)
        finally:
            client.delete_deployment_schedule(deployment.id, schedule.id)


@pytest.fixture
def page(stack: Operated) -> Iterator[Page]:
    """A browser that has logged in, and has asked nobody but the server."""
    home = stack.stack.api_url.removesuffix("/api")
    # Tall, since what is out of sight is not loaded.
    with chromium() as browser, window(browser, 1600, 2400, home=home) as (page, asked):
        page.goto("/")
        page.locator("input[type=password]").fill(stack.stack.server[AUTH])
        page.keyboard.press("Enter")
        page.wait_for_url("**/dashboard**")
        yield page
    hosts = {urlsplit(url).netloc for url in asked}
    assert hosts - {""} == {urlsplit(home).netloc}  # data: and blob: are of no host


def test_ui_shows_the_deployment_with_its_schedule(stack: Operated, page: Page) -> None:
    with stack.client() as client:
        deployment = client.read_deployment_by_name("mnist/daily")
    page.goto(f"/deployments/deployment/{deployment.id}")
    for text in ("daily", "nightly", "Next Run"):
        page.get_by_text(text, exact=True).first.wait_for()


def test_ui_shows_the_form_of_the_parameters(stack: Operated, page: Page) -> None:
    with stack.client() as client:
        deployment = client.read_deployment_by_name("mnist/smoke")
    page.goto(f"/deployments/deployment/{deployment.id}/run")
    for text in ("Dataset", "Learning rate", "Minimum accuracy"):
        page.get_by_text(text).first.wait_for()


def test_ui_shows_the_run_with_its_artifacts(stack: Operated, page: Page) -> None:
    run = stack.submit()
    assert stack.becomes(run, "Completed"), stack.log("worker")
    page.goto(f"/runs/flow-run/{run}")
    page.get_by_text("Artifacts", exact=True).click()
    for text in ("stripes-accuracy", "stripes-evaluation", "stripes-validation"):
        page.get_by_text(text).first.wait_for()


def completed_by_itself(run: FlowRun) -> bool:
    """Whether a run was started by its schedule and has completed."""
    return run.auto_scheduled and run.state_name == "Completed"


def test_run_on_bad_data_says_why_and_is_not_tried_again(stack: Operated) -> None:
    blank = write_dataset(stack.folder / "blank.npz", blank=True)
    run = stack.submit(dataset=str(blank))
    assert stack.becomes(run, "Failed"), stack.state(run)
    with stack.client() as client:
        of_the_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        artifacts = {a.key: a for a in client.read_artifacts(flow_run_filter=of_the_run)}
    assert "2 of 19 checks failed for blank" in str(artifacts["mnist-failure"].data)
    assert "Traceback" not in str(artifacts["mnist-failure"].data)
    assert stack.read(run).run_count == 1
    assert stack.replacements(run) == []


def test_what_other_workers_need_is_registered_on_request_and_stays(stack: Operated) -> None:
    stack.deploy("docker", "kubernetes")
    asked_for = server_state(stack)
    assert len(asked_for["deployments"]) == 5
    assert len(asked_for["pools"]) == 3
    stack.deploy()
    assert server_state(stack) == asked_for
    assert "remove daily-docker and then this pool in the UI" in stack.doctor()
