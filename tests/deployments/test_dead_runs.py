"""Runs that die or fall silent, with their worker or their server: noticed, replaced, told of."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from operating import RUN_SECONDS, Operated
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from programs import comes_true, environment_in, folders_in, run_program, write_dataset

from deployments.automations import NOTIFICATIONS
from tasks.server.home import AUTH

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


@contextmanager
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


@pytest.fixture(scope="module")
def messages(started_once: Operated) -> Iterator[list[str]]:
    """What the operator is sent from now on; other modules find the stack without his block."""
    started_once.bring_up()
    with inbox() as (url, messages):
        block = CustomWebhookNotificationBlock(
            name="inbox",
            url=url,
            json_data={"text": "{{subject}}: {{body}}"},
            allow_private_urls=True,
        )
        with started_once.client():
            block.save(NOTIFICATIONS, overwrite=True)
        started_once.deploy()
        yield messages
        with started_once.client():
            CustomWebhookNotificationBlock.delete(NOTIFICATIONS)
        started_once.deploy()


def test_operators_block_is_told_of_failures(stack: Operated, messages: list[str]) -> None:
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


def test_nothing_is_left_running(stack: Operated) -> None:
    """The last of these tests."""
    with stack.client() as client:
        running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        assert client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running)) == []
