"""What is deployed, what happens by itself, what doctor says: without a server."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, Worker, WorkerStatus, WorkPool
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger
from prefect.exceptions import PrefectHTTPStatusError
from prefect.server.utilities.messaging.memory import Subscription, Topic
from prefect.settings import PREFECT_HOME, temporary_settings
from prefect.states import Completed, Crashed, Running, State
from prefect.utilities.templating import apply_values
from prefect.workers.process import ProcessJobConfiguration

from deployments import doctor
from deployments.__main__ import main
from deployments.automations import (
    automations,
    nobody_is_told,
    register,
    same,
    wanted,
)
from deployments.commands import ROOT, by_hand
from deployments.definitions import POOLS, Deployment, job_template, read_deployments
from deployments.deploy import deploy_file, deployment_names, make_pool
from deployments.doctor import Finding
from deployments.recovery import FLOW_NAME, why_not
from flows.mnist_flow import mnist_flow
from tasks.errors import PipelineError
from tasks.server.home import Stack, open_stack
from tasks.settings import RunSettings

RECOVERY, BLOCK = UUID(int=1), UUID(int=2)
DEPLOYMENTS = {deployment.name: deployment for deployment in read_deployments()}


def by_name(notifications: UUID | None = None) -> dict[str, AutomationCore]:
    return {core.name: core for core in automations(RECOVERY, 60, notifications)}


class TestPrefectFile:
    """The deployments, as they are written down."""

    def test_every_pool_is_one_that_is_made(self) -> None:
        assert {d.work_pool.name for d in DEPLOYMENTS.values()} == set(POOLS)

    @pytest.mark.parametrize("name", ["daily", "smoke", "daily-docker", "daily-kubernetes"])
    def test_parameters_are_settings_and_runs_take_turns(self, name: str) -> None:
        found = DEPLOYMENTS[name]
        RunSettings.model_validate(found.parameters["settings"])
        assert found.concurrency_limit is not None
        assert found.concurrency_limit.limit == 1
        assert found.concurrency_limit.collision_strategy == "ENQUEUE"
        assert found.description
        assert found.tags

    def test_only_one_schedule_is_on_and_it_has_a_time_zone(self) -> None:
        schedules = [s for d in DEPLOYMENTS.values() for s in d.schedules]
        assert [s.active for s in schedules] == [None, False, False]
        assert {s.timezone for s in schedules} == {"Europe/Berlin"}

    @pytest.mark.parametrize("name", ["daily-docker", "daily-kubernetes"])
    def test_image_does_not_get_this_machines_folder(self, name: str) -> None:
        pull = DEPLOYMENTS[name].pull
        assert isinstance(pull, list)
        (step,) = pull
        (arguments,) = step.values()
        assert (
            f"WORKDIR {arguments['directory']}\n" in (ROOT / "deployments/Dockerfile").read_text()
        )

    def test_variables_of_the_kubernetes_jobs_are_all_used(self) -> None:
        template = job_template("kubernetes")
        declared = set(template["variables"]["properties"])
        text = json.dumps(template["job_configuration"])
        assert {name for name in declared if f"{{{{ {name} }}}}" not in text} == set()

    @pytest.mark.parametrize(
        ("kinds", "expected"),
        [
            ({"process"}, ["daily", "smoke", "recover"]),
            ({"process", "docker"}, ["daily", "smoke", "daily-docker", "recover"]),
            (set(POOLS.values()), list(DEPLOYMENTS)),
        ],
    )
    def test_what_other_workers_need_is_registered_on_request(
        self, kinds: set[str], expected: list[str]
    ) -> None:
        assert deployment_names(kinds) == expected


class TestKubernetesJob:
    """What a Kubernetes worker makes of a run for which nothing was chosen."""

    @pytest.fixture
    def job(self) -> dict[str, Any]:
        template = job_template("kubernetes")
        declared = template["variables"]["properties"]
        defaults = {
            name: field["default"] for name, field in declared.items() if "default" in field
        }
        return dict(apply_values(template["job_configuration"], defaults)["job_manifest"])

    @pytest.fixture
    def pod(self, job: dict[str, Any]) -> dict[str, Any]:
        return dict(job["spec"]["template"]["spec"])

    @pytest.fixture
    def container(self, pod: dict[str, Any]) -> dict[str, Any]:
        (container,) = pod["containers"]
        return dict(container)

    def test_is_in_our_namespace(self, job: dict[str, Any]) -> None:
        assert job["metadata"]["namespace"] == "mnist"

    def test_is_tried_once_and_ends_after_six_hours(self, job: dict[str, Any]) -> None:
        assert job["spec"]["backoffLimit"] == 0
        assert job["spec"]["activeDeadlineSeconds"] == 6 * 60 * 60
        assert job["spec"]["parallelism"] == job["spec"]["completions"] == 1

    def test_pod_is_not_root_and_gets_no_token_of_the_cluster(self, pod: dict[str, Any]) -> None:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000
        assert pod["automountServiceAccountToken"] is False

    def test_pod_has_time_to_write_its_checkpoint(self, pod: dict[str, Any]) -> None:
        assert pod["terminationGracePeriodSeconds"] == 60

    def test_container_drops_every_capability(self, container: dict[str, Any]) -> None:
        expected = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == expected

    def test_container_has_requests_and_limits(self, container: dict[str, Any]) -> None:
        requests, limits = {"cpu": "1", "memory": "1Gi"}, {"cpu": "4", "memory": "2Gi"}
        assert container["resources"] == {"requests": requests, "limits": limits}

    def test_volume_is_mounted_where_the_image_keeps_its_files(
        self, pod: dict[str, Any], container: dict[str, Any]
    ) -> None:
        (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
        assert volume["persistentVolumeClaim"] == {"claimName": "mnist-pipeline"}
        assert mount == {"name": volume["name"], "mountPath": "/var/lib/mnist"}
        dockerfile = (ROOT / "deployments/Dockerfile").read_text()
        assert f"VOLUME {mount['mountPath']}\n" in dockerfile


@pytest.mark.parametrize("kind", POOLS.values())
def test_prefects_own_template_is_in_the_installed_package(kind: str) -> None:
    assert "image" in job_template(kind)["variables"]["properties"] or kind == "process"


@pytest.fixture
def written(tmp_path: Path) -> str:
    """A file of two deployments; the first waits for a work pool that is not there."""
    path = tmp_path / "prefect.yaml"
    path.write_text(
        "deployments: [{name: lost, entrypoint: deployments/recovery.py:recover, "
        "work_pool: {name: nowhere}}, {name: other}]"
    )
    return str(path)


@pytest.mark.usefixtures("prefect_server")
class TestRefusal:
    """What is said when Prefect does not take a deployment."""

    def test_names_the_deployment_and_the_reason(self, written: str) -> None:
        with pytest.raises(PipelineError) as caught:
            deploy_file(["lost", "other"], written)
        assert "Received: lost: " in str(caught.value)
        assert "references work pool 'nowhere' which does not exist" in str(caught.value)
        assert f"prefect --no-prompt deploy --prefect-file {written} --name lost`" in str(
            caught.value
        )

    def test_is_what_the_server_says_without_its_address(
        self, client: SyncPrefectClient, written: str
    ) -> None:
        template = {
            "job_configuration": {"command": "{{ command }}"},
            "variables": {"properties": {"command": {"type": "string"}}},
        }
        pool = WorkPoolCreate(name="strict", type="process", base_job_template=template)
        client.create_work_pool(pool)
        text = Path(written).read_text()
        Path(written).write_text(
            text.replace("name: nowhere", "name: strict, job_variables: {command: 7}")
        )
        with pytest.raises(PipelineError, match=r"lost: .* 7 is not valid") as caught:
            deploy_file(["lost"], written)
        assert "http://" not in str(caught.value)


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

    def test_run_is_looked_at_while_the_third_heartbeat_is_missing(self) -> None:
        found = by_name()["mnist: a run gives no sign of life"]
        assert isinstance(found.trigger, EventTrigger)
        assert found.trigger.within == timedelta(seconds=120)
        (action,) = found.actions
        assert isinstance(action, RunDeployment)
        assert action.parameters is not None
        assert action.parameters["look_seconds"] == 75
        assert "for 3 minutes" in action.parameters["why"]

    def test_nothing_is_done_to_a_run_before_its_state_is_looked_at(self) -> None:
        """What is expected in vain may have come without having been seen."""
        kinds = {action.type for core in by_name(BLOCK).values() for action in core.actions}
        assert kinds == {"run-deployment", "cancel-flow-run", "send-notification"}

    def test_descriptions_say_times_as_a_person_does(self) -> None:
        text = " ".join(core.description for core in by_name(BLOCK).values())
        assert "3 minutes" in text
        assert "10 minutes" in text
        assert "6 hours" in text
        assert re.findall(r"\d{3,}|\d+ s\b", text) == []

    def test_only_runs_of_the_pipeline_are_started_again(self) -> None:
        trigger = by_name()["mnist: start a dead run again"].trigger
        assert isinstance(trigger, EventTrigger)
        related = trigger.model_dump(mode="json")["match_related"]
        assert related == {
            "prefect.resource.role": "flow",
            "prefect.resource.name": mnist_flow.name,
        }

    def test_without_a_block_those_that_only_tell_are_left_out_and_named(self) -> None:
        kinds = {action.type for core in by_name().values() for action in core.actions}
        assert kinds == {"run-deployment", "cancel-flow-run"}
        left_out = set(by_name(BLOCK)) - set(by_name())
        assert left_out == set(re.findall("“(.*?)”", nobody_is_told()))
        assert len(left_out) == 4

    def test_with_a_block_failures_are_told(self) -> None:
        told = {
            name
            for name, core in by_name(BLOCK).items()
            if any(action.type == "send-notification" for action in core.actions)
        }
        silent = {"mnist: a run gives no sign of life", "mnist: a run does not start"}
        assert told == set(by_name(BLOCK)) - silent  # these two make a run Crashed, which is told


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:  # noqa: ARG001 - must be up
    """A client of a server without automations."""
    with get_client(sync_client=True) as client:
        yield client
        for automation in client.read_automations():
            client.delete_automation(automation.id)


RUNS_A_COMMAND = {"command": "touch here", "env": {"PYTHONPATH": "."}, "working_dir": "/"}


@pytest.mark.parametrize(("name", "kind"), POOLS.items())
def test_run_that_brings_a_command_is_refused_and_would_not_run_it(
    client: SyncPrefectClient, name: str, kind: str
) -> None:
    template = job_template(kind)
    client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template={}))
    assert list(make_pool(client, name, kind)) == [f"changed the work pool {name}"]
    assert list(make_pool(client, name, kind)) == []
    assert client.read_work_pool(name).base_job_template == template
    flow = client.create_flow_from_name("commanded")
    deployment = client.create_deployment(flow, f"in-{name}", work_pool_name=name)
    with pytest.raises(PrefectHTTPStatusError, match="'command' was unexpected"):
        client.create_flow_run_from_deployment(
            deployment, job_variables={"command": RUNS_A_COMMAND["command"]}
        )
    assert "touch here" not in str(apply_values(template["job_configuration"], RUNS_A_COMMAND))


def test_process_of_a_run_has_the_workers_environment_and_folder() -> None:
    made = ProcessJobConfiguration.from_template_and_values(job_template("process"), RUNS_A_COMMAND)
    configuration = asyncio.run(made)
    assert configuration.command is None
    assert configuration.env == {}
    assert configuration.working_dir is None


def test_changed_automation_keeps_the_actions_that_it_had(client: SyncPrefectClient) -> None:
    """Those that say nothing but their type, too: a block is made, and they are told to it."""
    name = "mnist: a run takes too long"
    said = [list(register(client, [by_name(block)[name]])) for block in (None, BLOCK, BLOCK)]
    (found,) = client.read_automations_by_name(name)
    assert [[f"made “{name}”"], [f"changed “{name}”"], []] == said
    assert ["cancel-flow-run", "send-notification"] == [action.type for action in found.actions]


def test_changed_automation_stays_switched_off(client: SyncPrefectClient) -> None:
    name = "mnist: a run takes too long"
    list(register(client, [by_name()[name].model_copy(update={"enabled": False})]))
    list(register(client, [by_name(BLOCK)[name]]))
    (found,) = client.read_automations_by_name(name)
    assert not found.enabled


def test_renamed_automation_and_a_second_of_its_name_do_not_stay_on_the_server(
    client: SyncPrefectClient,
) -> None:
    """The operator's own, of which we know nothing, do."""
    flow = client.create_flow_from_name(FLOW_NAME)
    client.create_deployment(flow, "recover")
    wanted_now = wanted(client)
    for name in ("mnist: start a dead run (old name)", "mnist: a run takes too long", "mine"):
        client.create_automation(wanted_now[0].model_copy(update={"name": name}))
    client.create_automation(by_name()["mnist: a run takes too long"])
    list(register(client, wanted_now))
    left = sorted(automation.name for automation in client.read_automations())
    assert left == sorted([*by_name(), "mine"])
    assert list(register(client, wanted_now)) == []


def run_in(state: State, **fields: Any) -> FlowRun:
    return FlowRun(flow_id=uuid4(), state=state, **{"deployment_id": uuid4(), **fields})


class TestRecovery:
    """Which dead run is started again."""

    def test_crashed_run_of_a_deployment_is(self) -> None:
        assert why_not(run_in(Crashed())) == ""

    @pytest.mark.parametrize("state", [Running(), Completed()])
    def test_run_that_is_not_dead_is_not(self, state: State) -> None:
        assert "not Crashed" in why_not(run_in(state))

    def test_run_from_a_terminal_is_not(self) -> None:
        assert "terminal" in why_not(run_in(Crashed(), deployment_id=None))

    def test_run_that_was_itself_started_again_is_not(self) -> None:
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
            (
                "postgresql+asyncpg://u:word@host:5432/db",
                "ok",
                "PostgreSQL at host:5432, database db",
            ),
            ("sqlite+aiosqlite:////srv/prefect.db", "note", "SQLite, /srv/prefect.db"),
            ("mysql://u:word@host/db", "WRONG", "Prefect knows no mysql"),
            ("postgresql+asyncpg://u:word@host:port/db", "WRONG", "to postgresql+asyncpg://"),
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
        finding = doctor.reachable(stack)
        assert finding.verdict == "WRONG"
        assert "make server" in finding.text

    def test_server_without_a_password_is_wrong(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def welcomes(url: str) -> httpx.Response:
            return httpx.Response(200, request=httpx.Request("GET", url))

        monkeypatch.setattr(httpx, "get", welcomes)
        finding = doctor.reachable(open_stack(tmp_path, {}))
        assert finding.verdict == "WRONG"
        assert "without a password" in finding.text

    def test_asks_the_stacks_own_server_whatever_the_operator_has_set(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And still says of the operator's variables which have no effect."""
        seen: list[dict[str, str]] = []

        def examine(_: Stack, variables: dict[str, str]) -> int:
            seen.extend([dict(os.environ), variables])
            return 0

        monkeypatch.setattr(doctor, "examine", examine)
        elsewhere = {"PREFECT_API_URL": "http://elsewhere/api", "PIPELINE_STACK_DIR": str(tmp_path)}
        with patch.dict(os.environ, elsewhere):
            assert main(["doctor"]) == 0
        asked, variables = seen
        assert "PREFECT_API_URL" not in asked
        assert asked["PREFECT_HOME"] == str(tmp_path)
        assert variables["PREFECT_API_URL"] == "http://elsewhere/api"

    def test_automation_that_is_missing_or_altered_is_wrong(self) -> None:
        wanted = list(by_name().values())
        present = [Automation(id=uuid4(), **dict(core)) for core in wanted]
        assert verdicts(doctor.automated(wanted, present)) == ["ok"]
        assert verdicts(doctor.automated(wanted, present[1:])) == ["WRONG", "ok"]
        altered = [present[0].model_copy(update={"actions": []}), *present[1:]]
        assert verdicts(doctor.automated(wanted, altered)) == ["WRONG", "ok"]
        off = [present[0].model_copy(update={"enabled": False}), *present[1:]]
        assert verdicts(doctor.automated(wanted, off)) == ["note", "ok"]

    def test_automation_of_ours_that_is_no_longer_wanted_is_wrong(self) -> None:
        wanted = list(by_name().values())
        present = [Automation(id=uuid4(), **dict(core)) for core in wanted]
        renamed = present[0].model_copy(update={"name": "mnist: as it was called"})
        theirs = present[0].model_copy(update={"name": "mine"})
        first, second = doctor.automated(wanted, [*present, renamed, theirs])
        expected = (
            "WRONG automations  “mnist: as it was called” is one too many. Run `make deploy`."
        )
        assert str(first) == expected
        assert second.verdict == "ok"

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
        ("name", "kind", "verdict"),
        [("mnist", "process", "WRONG"), ("mnist-docker", "docker", "note")],
    )
    def test_pool_without_a_worker_is_wrong_if_the_schedule_needs_it(
        self, name: str, kind: str, verdict: str
    ) -> None:
        pool = WorkPool(name=name, type=kind)
        assert verdicts(doctor.attended(pool, [])) == [verdict]
        gone = worker_seen(timedelta(hours=3), WorkerStatus.OFFLINE)
        (finding,) = doctor.attended(pool, [gone])
        assert finding.verdict == verdict
        assert "the latest was host-1, last sign of life 3 hours ago" in finding.text

    def test_every_worker_says_how_old_its_last_sign_of_life_is(self) -> None:
        here = worker_seen(timedelta(seconds=12.5), WorkerStatus.ONLINE)
        gone = worker_seen(timedelta(days=2), WorkerStatus.OFFLINE)
        (finding,) = doctor.attended(WorkPool(name="mnist", type="process"), [here, gone])
        assert finding.verdict == "ok"
        assert "host-1, last sign of life 12 seconds ago" in finding.text

    def test_paused_pool_is_wrong(self) -> None:
        pool = WorkPool(name="mnist", type="process", is_paused=True)
        here = worker_seen(timedelta(seconds=1), WorkerStatus.ONLINE)
        assert verdicts(doctor.attended(pool, [here])) == ["WRONG", "ok"]

    def test_pool_with_another_job_template_is_wrong(self) -> None:
        pool = WorkPool(name="mnist", type="process", base_job_template={})
        assert verdicts(doctor.templated(pool)) == ["WRONG"]
        pool.base_job_template = job_template("process")
        assert verdicts(doctor.templated(pool)) == []

    def test_pool_that_nobody_looks_after_says_how_to_get_rid_of_it(self) -> None:
        (finding,) = doctor.attended(WorkPool(name="mnist-docker", type="docker"), [])
        assert "remove daily-docker and then this pool in the UI" in finding.text

    def test_dead_letters_are_counted_and_wrong(self, tmp_path: Path) -> None:
        folder = tmp_path / "dlq"
        assert doctor.dead_letters(folder).verdict == "ok"
        folder.mkdir()
        letters = {
            "a": {"automation": {"name": "mnist: a run has failed"}},
            "b": {"event": "prefect.flow-run.Crashed"},
        }
        for name, about in letters.items():
            (folder / name).write_text(json.dumps({"data": json.dumps(about)}))
        (folder / "c").write_text("{}")
        finding = doctor.dead_letters(folder)
        assert finding.verdict == "WRONG"
        of = "an unknown kind, prefect.flow-run.Crashed, “mnist: a run has failed”"
        assert f"3 were given up, of {of}, the latest now" in finding.text
        assert f"rm -r {folder}" in finding.text

    def test_dead_letters_are_looked_for_where_prefect_puts_them(self, tmp_path: Path) -> None:
        with temporary_settings({PREFECT_HOME: tmp_path}):
            written_to = Subscription(Topic("events")).dead_letter_queue_path
        assert written_to == tmp_path / doctor.DEAD_LETTERS

    def test_deployment_that_is_no_longer_defined_is_noted(self, client: SyncPrefectClient) -> None:
        flow = client.create_flow_from_name(mnist_flow.name)
        client.create_deployment(flow, "hourly")
        found = list(doctor.given_up(client, {"daily", "recover"}))
        assert [finding.verdict for finding in found] == ["note"]
        assert "mnist/hourly is not in deployments/prefect.yaml" in found[0].text

    def test_wrong_file_is_wrong_and_says_where(
        self, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse() -> list[Deployment]:
            raise PipelineError("It must be right.")

        monkeypatch.setattr(doctor, "read_deployments", refuse)
        assert [str(finding) for finding in doctor.registered(client)] == [
            "WRONG deployments  It must be right."
        ]


def test_advised_command_of_prefects_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "a home"))
    (dead,) = doctor.dead([run_in(Crashed())])
    (command,) = re.findall(r"`(.*)`", dead.text)
    assert command.startswith(f"PREFECT_HOME='{tmp_path}/a home' .venv/bin/prefect deployment run ")
    monkeypatch.delenv("PREFECT_HOME")
    assert by_hand("version") == "`.venv/bin/prefect version`"


@pytest.mark.parametrize("path", [*(ROOT / "deployments").rglob("README.md")], ids=str)
def test_documented_commands_need_no_export(path: Path) -> None:
    assert "export " not in path.read_text()


def worker_seen(age: timedelta, status: WorkerStatus) -> Worker:
    seen = datetime.now(UTC) - age
    return Worker(name="host-1", work_pool_id=uuid4(), last_heartbeat_time=seen, status=status)
