"""What is deployed, what happens by itself, what doctor says: without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger
from prefect.states import Completed, Crashed, Running, State

from deployments import deploy, doctor
from deployments.automations import automations, register_one, same
from deployments.commands import ROOT
from deployments.credentials import open_stack
from deployments.deploy import POOLS, deployment_names, prefect_file
from deployments.doctor import Finding
from deployments.recovery import why_not
from tasks.settings import RunSettings

RECOVERY, BLOCK = UUID(int=1), UUID(int=2)


def by_name(notifications: UUID | None = None) -> dict[str, AutomationCore]:
    return {core.name: core for core in automations(RECOVERY, 60, notifications)}


class TestPrefectFile:
    """The deployments, as they are written down."""

    def test_every_pool_is_one_that_is_made(self) -> None:
        pools = {d["work_pool"]["name"] for d in prefect_file()["deployments"]}
        assert pools == set(POOLS)

    def test_every_entrypoint_is_there(self) -> None:
        for deployment in prefect_file()["deployments"]:
            path, _, function = deployment["entrypoint"].partition(":")
            assert f"def {function}(" in (ROOT / path).read_text()

    @pytest.mark.parametrize("name", ["daily", "smoke", "daily-docker", "daily-kubernetes"])
    def test_parameters_are_settings_and_runs_take_turns(self, name: str) -> None:
        (found,) = [d for d in prefect_file()["deployments"] if d["name"] == name]
        RunSettings.model_validate(found["parameters"]["settings"])
        assert found["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert found["description"]
        assert found["tags"]

    def test_only_one_schedule_is_on_and_it_has_a_time_zone(self) -> None:
        schedules = [s for d in prefect_file()["deployments"] for s in d["schedules"]]
        assert [s.get("active", True) for s in schedules] == [True, False, False]
        assert {s["timezone"] for s in schedules} == {"Europe/Berlin"}

    @pytest.mark.parametrize("name", ["daily-docker", "daily-kubernetes"])
    def test_image_does_not_get_this_machines_folder(self, name: str) -> None:
        (found,) = [d for d in prefect_file()["deployments"] if d["name"] == name]
        (step,) = found["pull"]
        (arguments,) = step.values()
        assert (
            f"WORKDIR {arguments['directory']}\n" in (ROOT / "deployments/Dockerfile").read_text()
        )

    def test_variables_of_the_kubernetes_jobs_are_those_of_the_template(self) -> None:
        template = json.loads(deploy.KUBERNETES_TEMPLATE.read_text())
        (found,) = [d for d in prefect_file()["deployments"] if d["name"] == "daily-kubernetes"]
        declared = set(template["variables"]["properties"])
        assert set(found["work_pool"]["job_variables"]) <= declared
        text = json.dumps(template["job_configuration"])
        unused = {name for name in declared if f"{{{{ {name} }}}}" not in text}
        assert unused == set()


class TestAutomations:
    """What Prefect does by itself."""

    def test_made_twice_they_are_the_same(self) -> None:
        again = by_name()
        assert all(same(core, again[name]) for name, core in by_name().items())

    def test_switched_off_one_is_the_same(self) -> None:
        for core in by_name().values():
            assert same(core, core.model_copy(update={"enabled": False}))

    def test_another_pace_of_heartbeats_is_a_change(self) -> None:
        slower = {core.name: core for core in automations(RECOVERY, 120, None)}
        changed = [name for name, core in by_name().items() if not same(core, slower[name])]
        assert changed == ["mnist: a run gives no sign of life"]

    def test_run_is_dead_after_three_heartbeats_are_missing(self) -> None:
        trigger = by_name()["mnist: a run gives no sign of life"].trigger
        assert isinstance(trigger, EventTrigger)
        assert trigger.within == timedelta(seconds=180)

    def test_only_runs_of_the_pipeline_are_started_anew(self) -> None:
        trigger = by_name()["mnist: start a dead run anew"].trigger
        assert isinstance(trigger, EventTrigger)
        related = trigger.model_dump(mode="json")["match_related"]
        assert related == {"prefect.resource.role": "flow", "prefect.resource.name": "mnist"}

    def test_without_a_block_nobody_is_told(self) -> None:
        kinds = {action.type for core in by_name().values() for action in core.actions}
        assert "send-notification" not in kinds

    def test_with_a_block_failures_are_told(self) -> None:
        told = {
            name
            for name, core in by_name(BLOCK).items()
            if any(action.type == "send-notification" for action in core.actions)
        }
        silent = {"mnist: a run gives no sign of life", "mnist: a run does not start"}
        assert told == set(by_name()) - silent  # these two make a run Crashed, which is told


@pytest.mark.usefixtures("prefect_server")
def test_changed_automation_keeps_the_actions_that_it_had() -> None:
    """Those that say nothing but their type, too: a block is made, and they are told to it."""
    name = "mnist: a run takes too long"
    with get_client(sync_client=True) as client:
        said = [register_one(client, by_name(block)[name]) for block in (None, BLOCK, BLOCK)]
        (found,) = client.read_automations_by_name(name)

    assert [f"made “{name}”", f"changed “{name}”", ""] == said
    assert ["cancel-flow-run", "send-notification"] == [action.type for action in found.actions]


def run_in(state: State, **fields: Any) -> FlowRun:
    return FlowRun(flow_id=uuid4(), state=state, **{"deployment_id": uuid4(), **fields})


class TestRecovery:
    """Which dead run is started anew."""

    def test_crashed_run_of_a_deployment_is(self) -> None:
        assert why_not(run_in(Crashed())) == ""

    @pytest.mark.parametrize("state", [Running(), Completed()])
    def test_run_that_is_not_dead_is_not(self, state: State) -> None:
        assert "not Crashed" in why_not(run_in(state))

    def test_run_from_a_terminal_is_not(self) -> None:
        assert "terminal" in why_not(run_in(Crashed(), deployment_id=None))

    def test_run_that_was_itself_started_anew_is_not(self) -> None:
        assert "itself started" in why_not(run_in(Crashed(), tags=[f"recovers:{uuid4()}"]))


def verdicts(findings: Iterator[Finding] | list[Finding]) -> list[str]:
    return [finding.verdict for finding in findings]


class TestDoctor:
    """What is said of what was found."""

    def test_credentials_are_named_by_place_and_mode(self, tmp_path: Path) -> None:
        stack = open_stack(tmp_path / "stack", {})
        found = [str(finding) for finding in doctor.files(stack)]
        assert found == [
            f"ok    credentials  {tmp_path}/stack/server.env (mode 0600)",
            f"ok    credentials  {tmp_path}/stack/profiles.toml (mode 0600)",
        ]

    def test_folder_that_others_can_enter_is_wrong(self, tmp_path: Path) -> None:
        stack = open_stack(tmp_path / "stack", {})
        stack.folder.chmod(0o755)
        assert verdicts(doctor.files(stack)) == ["ok", "ok", "WRONG"]

    def test_variable_without_effect_is_noted_without_its_value(self, tmp_path: Path) -> None:
        name = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
        stack = open_stack(tmp_path, {})
        (finding,) = doctor.environment(stack, {name: "postgresql+asyncpg://u:word@host/db"})
        assert finding.verdict == "note"
        assert name in finding.text
        assert "word" not in finding.text

    @pytest.mark.parametrize(
        ("url", "verdict", "text"),
        [
            ("postgresql+asyncpg://u:word@host:5432/db", "ok", "PostgreSQL at host:5432/db"),
            ("sqlite+aiosqlite:////srv/prefect.db", "note", "SQLite, /srv/prefect.db"),
            ("mysql://u:word@host/db", "WRONG", "Prefect knows no mysql"),
        ],
    )
    def test_database_is_named_without_its_password(
        self, tmp_path: Path, url: str, verdict: str, text: str
    ) -> None:
        stack = open_stack(tmp_path, {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url})
        finding = doctor.database(stack)
        assert finding.verdict == verdict
        assert text in finding.text
        assert "word" not in finding.text

    def test_full_disk_is_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = RunSettings(cache_dir=tmp_path / "new", model_dir=tmp_path)
        assert verdicts(doctor.store(settings)) == ["ok", "ok"]
        monkeypatch.setattr(doctor, "FEW_BYTES", 10**18)
        assert verdicts(doctor.store(settings)) == ["WRONG", "WRONG"]

    def test_server_that_is_away_is_wrong_and_says_what_to_do(self, tmp_path: Path) -> None:
        stack = open_stack(tmp_path, {"PREFECT_SERVER_API_PORT": "1"})  # nothing listens there
        (finding,) = doctor.reachable(stack)
        assert finding.verdict == "WRONG"
        assert "make server" in finding.text

    def test_server_without_a_password_is_wrong(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def welcomes(url: str) -> httpx.Response:
            return httpx.Response(200, request=httpx.Request("GET", url))

        monkeypatch.setattr(httpx, "get", welcomes)
        (finding,) = doctor.reachable(open_stack(tmp_path, {}))
        assert finding.verdict == "WRONG"
        assert "without a password" in finding.text

    def test_automation_that_is_missing_or_altered_is_wrong(self) -> None:
        wanted = list(by_name().values())
        present = [Automation(id=uuid4(), **dict(core)) for core in wanted]
        assert verdicts(doctor.automated(wanted, present)) == ["ok"]
        assert verdicts(doctor.automated(wanted, present[1:])) == ["WRONG", "ok"]
        altered = [present[0].model_copy(update={"actions": []}), *present[1:]]
        assert verdicts(doctor.automated(wanted, altered)) == ["WRONG", "ok"]
        off = [present[0].model_copy(update={"enabled": False}), *present[1:]]
        assert verdicts(doctor.automated(wanted, off)) == ["note", "ok"]

    @pytest.mark.parametrize(
        ("tags", "verdict"),
        [([], "WRONG"), (["recovered-by:1"], "ok"), (["recovers:1"], "note")],
    )
    def test_dead_run_that_nothing_was_done_about_is_wrong(
        self, tags: list[str], verdict: str
    ) -> None:
        assert verdicts(doctor.dead([run_in(Crashed(), tags=tags)])) == [verdict]

    def test_dead_run_from_a_terminal_is_its_users_business(self) -> None:
        assert verdicts(doctor.dead([run_in(Crashed(), deployment_id=None)])) == ["ok"]

    @pytest.mark.parametrize(
        ("name", "kind", "online", "verdict"),
        [
            ("mnist", "process", [], "WRONG"),
            ("mnist", "process", ["one"], "ok"),
            ("mnist-docker", "docker", [], "note"),
        ],
    )
    def test_pool_without_a_worker_is_wrong_if_the_schedule_needs_it(
        self, name: str, kind: str, online: list[str], verdict: str
    ) -> None:
        pool = WorkPool(name=name, type=kind)
        assert doctor._pool(pool, online).verdict == verdict

    def test_paused_pool_is_wrong(self) -> None:
        pool = WorkPool(name="mnist", type="process", is_paused=True)
        assert doctor._pool(pool, ["one"]).verdict == "WRONG"


def test_deployments_are_five() -> None:
    expected = ["daily", "smoke", "daily-docker", "daily-kubernetes", "recover"]
    assert deployment_names() == expected
