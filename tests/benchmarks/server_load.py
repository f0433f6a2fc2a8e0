"""Whether Prefect's server loses anything while runs, a worker and a browser use it at once.

`make load` prints a line for `prefect server start` and one for the server of `make server`, over
SQLite: what each said about locked databases and dropped events, and which states of runs have no
event in its database.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from operating import Operated
from programs import PROGRAM, ROOT, folders_in, write_dataset

from deployments.commands import SERVER, server_environment
from tasks.server.home import AUTH, DATABASE

SERVERS = {"prefect server start": ("prefect", "server", "start"), "make server": SERVER}
# What the UI's first pages ask for, again and again.
ASKED = [
    "flow_runs/filter",
    "flow_runs/count",
    "task_runs/count",
    "artifacts/filter",
    "logs/filter",
]
COMPLAINTS = {
    "locked": r"database is locked",
    "dropped": r"[Dd]ropp(?:ing|ed) ",
    "dead letters": r"dead letter",
    "errors": r"\bERROR\b",
}


def main() -> None:
    """Load each server for some minutes, and print what it lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=3, help="at a time")
    options = parser.parse_args()
    for name, command in SERVERS.items():
        with tempfile.TemporaryDirectory() as folder:
            stack = Operated(Path(folder), database="")
            try:
                said = loaded(stack, command, options.minutes, options.runs)
            finally:
                for process in list(stack.processes):
                    stack.stop(process)
            print(f"{name:<22}", said, flush=True)


def loaded(stack: Operated, server: tuple[str, ...], minutes: float, runs: int) -> str:
    """What a server has to say after some minutes."""
    del stack.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    (stack.folder / "elsewhere").mkdir()
    stack.start("server", server, server_environment(stack.stack, stack.environment))
    while not stack.answers():
        time.sleep(0.5)
    stack.deploy()
    stack.start_worker()
    end = time.monotonic() + 60 * minutes

    def until_then(act: Callable[[], object]) -> Counter[bool]:
        """How often it was done (True), and how often it was not, as the server failed (False)."""
        done: Counter[bool] = Counter()
        while time.monotonic() < end:
            done[is_done(act)] += 1
        return done

    write_dataset(stack.folder / "stripes.npz")
    with ThreadPoolExecutor(runs + 3) as pool:
        running = [pool.submit(until_then, partial(run_on, stack)) for _ in range(runs)]
        asking = [pool.submit(until_then, partial(ask, stack)) for _ in range(2)]
        scheduled = pool.submit(until_then, lambda: (stack.submit(), time.sleep(20)))
    groups = {"runs from a terminal": running, "by the worker": [scheduled], "visits": asking}
    counts = {
        what: sum((each.result() for each in group), Counter()) for what, group in groups.items()
    }
    time.sleep(20)
    log = stack.log("server")
    stack.stop("server")
    said = {what: len(re.findall(text, log)) for what, text in COMPLAINTS.items()}
    told = (f"{sum(n.values())} {what} ({n[False]} failed)" for what, n in counts.items())
    return f"{', '.join(told)}: {said}, states without event {missing_events(stack)}"


def is_done(act: Callable[[], object]) -> bool:
    """Whether the server let it be done."""
    try:
        act()
    except (httpx.HTTPError, subprocess.CalledProcessError):
        return False
    return True


def run_on(stack: Operated) -> None:
    """One run of two epochs on tiny images, from a terminal."""
    dataset = str(stack.folder / "stripes.npz")
    command = [sys.executable, PROGRAM, "--dataset", dataset, "--epochs", "2", "--refresh"]
    command += folders_in(stack.folder)
    environment = {**stack.environment, **stack.stack.client}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)


def ask(stack: Operated) -> None:
    """What a page of the UI does."""
    login = tuple(stack.stack.server[AUTH].split(":"))
    visitor = str(uuid4())
    headers = {"Prefect-Csrf-Client": visitor}
    with httpx.Client(base_url=stack.stack.api_url, auth=login, timeout=60.0) as client:
        token = client.get("/csrf-token", params={"client": visitor}).json()["token"]
        headers["Prefect-Csrf-Token"] = token
        for path in ASKED:
            client.post(f"/{path}", json={}, headers=headers).raise_for_status()
    time.sleep(1)


def missing_events(stack: Operated) -> dict[str, int]:
    """How many states of flow runs have no event, by the state's name."""
    path = stack.stack.server[DATABASE].partition("///")[2]
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        query = """
            SELECT name, COUNT(*) FROM flow_run_state AS state
            WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.id = state.id)
            GROUP BY name
        """
        return dict(Counter(dict(database.execute(query))))


if __name__ == "__main__":
    main()
