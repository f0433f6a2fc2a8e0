"""The deployed pipeline on a stack of real processes: what an operator relies on."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import programs
import psutil
import pytest
import websockets
from browser import chromium, window
from operating import RUN_SECONDS, Operated
from playwright.sync_api import Page
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from programs import comes_true, environment_in, folders_in, run_program, write_dataset

from tasks.server.home import AUTH, ENCRYPTION_KEY

pytestmark = pytest.mark.stack

LONG = 400  # epochs on tiny images: several seconds
OUTAGE_SECONDS = 75.0  # longer than a run may be silent before it is looked at


@pytest.fixture(scope="module")
def uninterrupted(started_once: Operated) -> str:
    """The SHA-256 of the weights of a run that nothing happens to, from the terminal."""
    folder = started_once.folder / "uninterrupted"
    options = ["--dataset", started_once.settings()["dataset"], "--epochs", str(LONG), "--json"]
    done = run_program([*options, *folders_in(folder)], environment_in(folder / "prefect"))
    return str(json.loads(done.stdout)["weights_sha256"])


@pytest.fixture(scope="module")  # for as long as the block names it
def inbox() -> Iterator[tuple[str, list[str]]]:
    """A server on loopback that takes messages: its URL, and what it was sent."""
    messages: list[str] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            messages.append(json.loads(self.rfile.read(length))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Takes) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", messages
        server.shutdown()
        thread.join()


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


def test_operators_block_is_told_of_failures(stack: Operated, inbox: tuple[str, list[str]]) -> None:
    url, messages = inbox
    with stack.client():
        CustomWebhookNotificationBlock(
            name="inbox",
            url=url,
            json_data={"text": "{{subject}}: {{body}}"},
            allow_private_urls=True,
        ).save("mnist-notifications", overwrite=True)
    stack.deploy()
    blank = write_dataset(stack.folder / "blank.npz", blank=True)
    run = stack.submit(dataset=str(blank))
    assert comes_true(lambda: len(messages) == 2, RUN_SECONDS), messages
    page = f"{stack.stack.api_url.removesuffix('/api')}/runs/flow-run/{run}"
    failed, invalid = sorted(messages)
    assert re.fullmatch(rf"A run has failed: blank-mlp-1-.* 2 of 19 .* {page}", failed, re.DOTALL)
    found = "2 errors, 0 warnings; 19 of 43 checks made"
    assert f"Validation has failed for blank: {found} {page}" == invalid
    assert comes_true(lambda: "mnist: validation has failed" in stack.triggered())


@pytest.fixture
def run(stack: Operated) -> UUID:
    """A run that has been asked for and that trains for several seconds."""
    return stack.submit(epochs=LONG)


def test_killed_flow_process_is_replaced_once_and_ends_with_the_same_model(
    stack: Operated, run: UUID, uninterrupted: str
) -> None:
    stack.in_training(run).kill()
    assert stack.replaced_once(run)
    assert stack.weights() == {uninterrupted}
    assert stack.open_tasks(run) == []


def test_heartbeat_that_arrives_after_the_end_of_its_run_does_nothing(stack: Operated) -> None:
    """To the automation, it looks like the last one before a silence."""
    run = stack.submit()
    assert stack.becomes(run, "Completed"), stack.log("worker")
    heartbeat = {
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [
            {
                "prefect.resource.id": f"prefect.flow.{stack.read(run).flow_id}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": "mnist",
            }
        ],
        "id": str(uuid4()),
    }
    with stack.client() as client:
        client.request("POST", "/events", json=[heartbeat])
    assert comes_true(lambda: len(stack.looked_at(run)) == 1, RUN_SECONDS)
    (look,) = stack.looked_at(run)
    assert stack.becomes(look.id, "Completed"), stack.log("worker")
    assert stack.state(run) == "Completed"
    assert stack.replacements(run) == []
    assert stack.events("prefect.automation.action.failed") == []


def test_killed_worker_leaves_its_run_to_complete_and_nobody_starts_it_twice(
    stack: Operated, run: UUID, uninterrupted: str
) -> None:
    process = stack.in_training(run)
    stack.stop("worker", signal.SIGKILL)
    assert process.is_running()
    stack.start_worker()
    assert stack.becomes(run, "Completed"), stack.log("worker")
    assert stack.replacements(run) == []
    assert stack.read(run).run_count == 1
    assert stack.weights() == {uninterrupted}


def test_run_whose_worker_died_too_is_noticed_by_its_silence_and_replaced_once(
    stack: Operated, run: UUID, uninterrupted: str
) -> None:
    process = stack.in_training(run)
    stack.stop("worker", signal.SIGKILL)
    process.kill()
    stack.start_worker()
    assert stack.state(run) == "Running"
    assert stack.replaced_once(run)
    message = str(stack.read(run).state.message)
    assert message.startswith("It gave no sign of life for 1 minute and 30 seconds")
    assert stack.weights() == {uninterrupted}


def test_terminated_worker_hands_its_run_back_and_the_next_one_takes_it(
    stack: Operated, run: UUID, uninterrupted: str
) -> None:
    process = stack.in_training(run)
    stack.stop("worker", signal.SIGTERM)
    assert not process.is_running()
    assert stack.state(run) == "Crashed"
    stack.start_worker()
    assert stack.replaced_once(run)
    assert stack.weights() == {uninterrupted}


def test_run_completes_over_an_outage_of_the_server(stack: Operated, run: UUID) -> None:
    stack.in_training(run)
    said_before = len(stack.log("worker"))
    stack.stop("server")
    time.sleep(OUTAGE_SECONDS)
    stack.start_server()
    assert stack.becomes(run, "Completed"), stack.log("worker")
    assert stack.replacements(run) == []
    later = stack.submit()  # the turn has been given back, though the server knew nothing of it
    assert stack.becomes(later, "Completed"), stack.log("worker")
    said = stack.log("worker")[said_before:]
    assert len(re.findall(r"The server does not answer \(ConnectError", said)) == 1
    assert said.count("The server answers again.") == 1
    assert "Traceback" not in said
    assert "EventsWorker" not in said


def test_doctor_finds_nothing_wrong_and_gives_no_secret_away(stack: Operated) -> None:
    # After the outage, the worker's signs of life come again little by little.
    assert comes_true(lambda: "Nothing is wrong." in stack.doctor(), RUN_SECONDS), stack.doctor()
    said = stack.doctor()
    assert "PostgreSQL at 127.0.0.1" in said
    assert "daily: cron 0 3 * * * (Europe/Berlin), in the pool mnist" in said
    assert stack.stack.server[AUTH].partition(":")[2] not in said
    assert (urlsplit(stack.database).password or "-") not in said


def test_what_other_workers_need_is_registered_on_request_and_stays(stack: Operated) -> None:
    stack.deploy("docker", "kubernetes")
    asked_for = server_state(stack)
    assert len(asked_for["deployments"]) == 5
    assert len(asked_for["pools"]) == 3
    stack.deploy()
    assert server_state(stack) == asked_for
    assert "remove daily-docker and then this pool in the UI" in stack.doctor()


def test_nothing_is_left_running(stack: Operated) -> None:
    """The last of these tests."""
    with stack.client() as client:
        running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        assert client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running)) == []
