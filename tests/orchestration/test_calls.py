"""Stages however they are called: directly, submitted, mapped, in threads and in processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from own_stages import break_results_of_halve, double, fail, halve, identify
from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.cache.blobs import Store, sha256_of_file
from tasks.learning.own_model import find_own_model
from tasks.orchestration.account import Account
from tasks.orchestration.run import healing, stored_run
from tasks.orchestration.stage import stage
from tasks.records import Metrics, StageRecord
from tasks.settings import RunSettings
from tasks.train import train

pytestmark = pytest.mark.usefixtures("prefect_server")

ROOT = Path(__file__).parents[2]
Told = dict[str, tuple[str, str]]
HEALED = {"halve": ("computed", "corrupt: probabilities"), "double": ("computed", "lost: result")}


def told(stages: dict[str, StageRecord]) -> Told:
    return {name: (record.state, record.why) for name, record in stages.items()}


def run(body: Callable[[Store], Any], settings: RunSettings) -> tuple[Any, Told]:
    """Call stages in a flow; returns what the body returns, and the run's account."""
    seen: list[tuple[Any, Told]] = []

    @flow(persist_result=False)
    @healing
    def own_flow() -> None:
        with stored_run(settings) as store:
            result = body(store)
            seen.append((result, told(Account(store, flow_run.id).stages())))

    own_flow()
    return seen[-1]


def test_four_calls_at_once_have_an_account_each(settings: RunSettings) -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=4), persist_result=False)
    def halves() -> tuple[list[float], Told]:
        with stored_run(settings) as store:
            calls = [halve.submit(number, store) for number in (2.0, 4.0, 6.0, 8.0)]
            results = [store.open_array(call.result().probabilities) for call in calls]
            stages = Account(store, flow_run.id).stages()
            return [float(values[0]) for values in results], told(stages)

    results, account = halves()

    assert results == [1.0, 2.0, 3.0, 4.0]
    assert list(account) == ["halve", "halve 2", "halve 3", "halve 4"]
    assert {state for state, _ in account.values()} == {"computed"}


def test_same_call_three_times_at_once_computes_once(settings: RunSettings) -> None:
    def body(store: Store) -> list[State[Any]]:
        calls = [halve.submit(8.0, store) for _ in range(3)]
        wait(calls)
        return [call.state for call in calls]

    states, account = run(body, settings)

    expected = {("Completed", "first run"): 1, ("Cached", "unchanged"): 2}
    assert expected == Counter((state.name, state.message) for state in states)
    assert {("computed", "first run"): 1, ("cached", "unchanged"): 2} == Counter(account.values())
    assert (settings.cache_root / "computed").read_text() == "8\n"


def test_mapped_calls_are_all_kept(settings: RunSettings) -> None:
    def body(store: Store) -> list[Metrics]:
        return halve.map([2.0, 4.0, 6.0], [store] * 3).result()

    first, _ = run(body, settings)
    again, account = run(body, settings)

    assert first == again
    assert list(account.values()) == 3 * [("cached", "unchanged")]


def test_result_of_a_model_whose_imports_cannot_be_followed_is_not_kept(
    settings: RunSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "nets.py"
    path.write_text("import importlib\nhelper = importlib.import_module(f'help{er}')\n")

    def body(store: Store) -> Metrics:
        return identify(find_own_model(f"{path}:helper"), store)

    for _ in range(2):
        _, account = run(body, settings)
        assert account == {"identify": ("computed", "inputs that no key can be made of")}
    told = "identify is not kept: imports that cannot be followed: nets.py, line 2: import"
    assert told in caplog.text


def test_damage_is_healed(settings: RunSettings) -> None:
    def body(store: Store) -> float:
        doubled = double.submit(halve.submit(8.0, store).result(), store).result()
        return float(store.open_array(doubled.probabilities)[0])

    run(body, settings)
    store = Store(root=settings.cache_root)
    break_results_of_halve(store)

    result, account = run(body, settings)

    assert result == 8.0
    assert account == HEALED
    assert [sha256_of_file(path) == path.stem for path in store.blobs.glob("*.npy")] == [True, True]


@pytest.mark.process
def test_calls_in_other_processes_do_all_of_this(tmp_path: Path) -> None:
    program = Path(__file__).with_name("calls_in_processes.py")
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        env={
            **os.environ,
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
            "PREFECT_API_AUTH_STRING": str(PREFECT_API_AUTH_STRING.value()),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    runs: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        runs |= json.loads(line)

    first, cached = ["computed", "first run"], ["cached", "unchanged"]
    found, states, account = runs["four"]
    assert found == [1.0, 2.0, 3.0, 4.0]
    assert list(account) == ["halve", "halve 2", "halve 3", "halve 4"]
    assert {state for state, _ in account.values()} == {"computed"}
    assert {name for name, _ in states} == {"Completed"}
    found, states, account = runs["four again"]
    assert found == [1.0, 2.0, 3.0, 4.0]
    assert list(account.values()) == 4 * [cached]
    assert states == 4 * [["Cached", "unchanged"]]
    assert sorted(runs["same"][2].values()) == [cached, cached, first]
    assert (tmp_path / "same" / "computed").read_text() == "8\n"
    assert runs["after damage"] == [8.0, {name: list(one) for name, one in HEALED.items()}]


def test_state_says_whether_it_is_cached_and_why(settings: RunSettings) -> None:
    def body(store: Store) -> list[tuple[str | None, str | None]]:
        states = [halve(8.0, store, return_state=True) for _ in range(2)]
        return [(state.name, state.message) for state in states]

    states, _ = run(body, settings)

    assert states == [("Completed", "first run"), ("Cached", "unchanged")]


def test_reason_reaches_the_server(settings: RunSettings) -> None:
    """It is what the UI shows of a task run."""

    def body(store: Store) -> Any:
        halve(8.0, store)
        return flow_run.id

    run_id, _ = run(body, settings)

    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        for _ in range(100):
            found = client.read_task_runs(flow_run_filter=wanted)
            if found and found[0].state and found[0].state.is_final():
                break
    assert [("halve", "first run")] == [(r.name, r.state and r.state.message) for r in found]


def test_error_of_a_stage_is_its_own_and_its_account_says_so(settings: RunSettings) -> None:
    def body(store: Store) -> None:
        assert fail(store, return_state=True).is_failed()
        with pytest.raises(ValueError, match="as it should"):
            fail(store)

    _, account = run(body, settings)

    assert account == dict.fromkeys(["fail", "fail 2"], ("failed", "see the error"))


def test_account_goes_with_its_run(settings: RunSettings) -> None:
    run(lambda store: halve(8.0, store), settings)

    assert list((settings.cache_root / "accounts").iterdir()) == []


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_worker_takes_the_code_that_it_imports(pickler: Any) -> None:
    assert pickler.loads(pickler.dumps(train)) is train


def test_stage_without_a_store_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a `store`"):

        @stage()
        def lost(number: float) -> Metrics:
            raise NotImplementedError  # never called: it cannot be declared
