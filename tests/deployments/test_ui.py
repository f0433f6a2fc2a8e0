"""One server, seen at once: `make ui`, logging in, and runs that find the server by themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import chromium, window
from operating import RUN_SECONDS, Operated
from playwright.sync_api import Browser, Page, expect
from programs import HANG_SECONDS, ROOT, comes_true, folders_in, run_program, write_dataset

from tasks.server.home import AUTH

pytestmark = pytest.mark.stack

RED = re.compile("went wrong|error|not found|V2", re.IGNORECASE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with window(browser) as (page, _):
        yield page


@contextmanager
def make_ui(stack: Operated) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The link that `make ui` prints, and its process."""
    with subprocess.Popen(
        [sys.executable, "-m", "deployments", "ui"],
        cwd=ROOT,
        env=stack.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert program.stdout is not None
            said = "".join(program.stdout.readline() for _ in range(2))
            yield re.findall(r"log in +(http\S+)", said)[0], program
        finally:
            program.terminate()


def log_in(page: Page, stack: Operated, path: str) -> None:
    """Open a page by the password."""
    page.goto(f"{stack.stack.pages}{path}")
    page.get_by_label("Password").fill(stack.stack.server[AUTH])
    page.get_by_role("button", name="Log in").click()


def choose(page: Page, field: int, value: str) -> None:
    """Choose from a list of the parameters' form, with the mouse."""
    page.locator(".p-select").nth(field).click()
    page.get_by_text(value, exact=True).last.click()


def run_of(stack: Operated, folder: Path) -> str:
    """The number of a run from a terminal on which nothing about a server was set."""
    dataset = write_dataset(folder / "stripes.npz")
    environment = dict(stack.environment)
    options = ["--dataset", str(dataset), "--epochs", "1", "--json", *folders_in(folder)]
    return str(json.loads(run_program(options, environment).stdout)["flow_run_id"])


def require_run(page: Page, run_id: str, stack: Operated) -> None:
    """The page shows the run, and nothing in red."""
    expect(page).to_have_url(f"{stack.stack.pages}/runs/flow-run/{run_id}")
    expect(page.get_by_text("Beginning flow run").first).to_be_visible()
    expect(page.get_by_text(RED)).to_have_count(0)


def test_run_that_was_told_of_no_server_is_on_the_one_that_is_up(
    stack: Operated, tmp_path: Path
) -> None:
    run_id = run_of(stack, tmp_path)
    with stack.client() as client:
        found = client.read_flow_run(run_id)  # type: ignore[arg-type]
    assert found.state is not None
    assert found.state.is_completed()


def test_run_beside_a_server_that_is_down_is_there_when_it_is_up_again(
    stack: Operated, tmp_path: Path
) -> None:
    stack.stop("server")
    run_id = run_of(stack, tmp_path)
    stack.start_server()
    with stack.client() as client:
        assert client.read_flow_run(run_id).name.startswith("stripes")  # type: ignore[arg-type]


def test_link_logs_one_browser_in_and_its_runs_open(
    stack: Operated, page: Page, tmp_path: Path
) -> None:
    run_id = run_of(stack, tmp_path)
    with make_ui(stack) as (link, program):
        page.goto(link)
        expect(page.get_by_text("Dashboard", exact=True).first).to_be_visible()
        expect(page.get_by_text(RED)).to_have_count(0)
        assert "password" not in page.url
        page.goto(f"{stack.stack.pages}/runs/flow-run/{run_id}")
        require_run(page, run_id, stack)
        assert program.wait(HANG_SECONDS) == 0  # the link works once


def test_page_asks_for_the_password_and_goes_on_to_what_was_asked_for(
    stack: Operated, page: Page, tmp_path: Path
) -> None:
    run_id = run_of(stack, tmp_path)
    page.goto(f"{stack.stack.pages}/runs/flow-run/{run_id}")
    page.get_by_label("Password").fill("operator:mistyped")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("That is not the password.")).to_be_visible()
    page.get_by_label("Password").fill(stack.stack.server[AUTH])
    page.get_by_role("button", name="Log in").click()
    require_run(page, run_id, stack)


def test_form_says_at_each_field_what_is_wrong_and_keeps_a_runs_name(
    stack: Operated, page: Page
) -> None:
    dataset = str(stack.settings()["dataset"])
    with stack.client() as client:
        deployment = client.read_deployment_by_name("mnist/smoke").id
    log_in(page, stack, f"/deployments/deployment/{deployment}/run")
    page.locator(".flow-run-name-input input").fill("after the new labels")
    page.locator("textarea").first.fill(dataset)
    is_epochs = re.compile(r"^\s*Epochs \(Optional\)")
    epochs = page.locator(".schema-form-property").filter(has_text=is_epochs).locator("input")
    submit = page.get_by_role("button", name="Submit")

    choose(page, 0, "cnn")
    choose(page, 1, "reference")
    epochs.fill("0")
    submit.click()
    expect(page.get_by_text("0 is less than the minimum of 1")).to_be_visible()
    expect(page.get_by_text("'reference' is not one of ['fast', 'long'")).to_be_visible()
    expect(page.get_by_text('Property is type "None"')).to_have_count(0)

    choose(page, 0, "mlp")
    epochs.fill("1")
    expect(page.get_by_text("0 is less than the minimum of 1")).to_have_count(0)
    submit.click()
    expect(page).not_to_have_url(re.compile("/run$"))
    assert comes_true(lambda: "after the new labels" in names(stack, "Completed"), RUN_SECONDS)


def test_server_of_make_ui_ends_with_it(stack: Operated) -> None:
    stack.stop("server")
    with make_ui(stack):
        assert stack.answers()
    assert comes_true(lambda: not stack.answers())


def names(stack: Operated, state: str) -> set[str]:
    """Of the runs in a state."""
    with stack.client() as client:
        return {run.name for run in client.read_flow_runs() if run.state_name == state}
