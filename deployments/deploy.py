"""`python -m deployments.deploy [docker] [kubernetes]`: work pools, deployments and automations.

It goes to the server that Prefect is configured for, as `make deploy` does. Run twice, it
changes nothing. What only Docker's or Kubernetes's workers need is made once it is asked for, and
is kept up to date from then on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache, partial
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from deployments import automations
from deployments.commands import PREFECT_FILE, ROOT, by_hand, command
from deployments.definitions import read_deployments
from deployments.pools import ON_REQUEST, POOLS, make_pool, present_kinds
from tasks.errors import PipelineError
from tasks.server.configured import wait_for_configured_server
from tasks.terminal.streams import on_any_streams

SERVER_WAIT_SECONDS = 60.0  # one that makes a new database takes ten, or more


@on_any_streams
def main() -> int:
    """Register everything, once the server answers; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deployments.deploy", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=" or ".join(ON_REQUEST))
    kinds = parser.parse_args().kinds
    if unknown := set(kinds) - set(ON_REQUEST):
        parser.error(f"can be asked for: {', '.join(ON_REQUEST)}, not {', '.join(unknown)}")
    say_once = cache(partial(print, file=sys.stderr))
    try:
        wait_for_configured_server(say_once, SERVER_WAIT_SECONDS)
        with get_client(sync_client=True) as client:
            for line in deploy(client, kinds):
                print(line)
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return 1
    return 0


def deploy(client: SyncPrefectClient, asked_for: Collection[str] = ()) -> Iterator[str]:
    """Register everything; yields what was done, a line each. Raises PipelineError."""
    kinds = {"process", *asked_for, *present_kinds(client)}
    names = deployment_names(kinds)
    for name, kind in POOLS.items():
        if kind in kinds:
            yield from make_pool(client, name, kind)
    deploy_file(names)
    yield f"registered {', '.join(names)}"
    heartbeat = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()
    yield from automations.register(client, automations.wanted(client, heartbeat))
    if not automations.notification_block(client):
        yield automations.nobody_is_told()


def deployment_names(kinds: Collection[str]) -> list[str]:
    """The deployments in the file that wait for these kinds of worker, in order."""
    return [each.name for each in read_deployments() if each.work_pool.kind in kinds]


def deploy_file(names: Collection[str], path: str = PREFECT_FILE) -> None:
    """Register deployments of a file. Raises PipelineError with what Prefect says."""
    named = [part for name in names for part in ("--name", name)]
    arguments = ("--no-prompt", "deploy", "--prefect-file", path, *named)
    silent: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    silent["env"] = {**os.environ, "COLUMNS": "10000"}  # so that no line is wrapped
    done = subprocess.run(command(("prefect", *arguments)), cwd=ROOT, check=False, **silent)
    if done.returncode:
        raise PipelineError(
            "Prefect must accept each deployment.",
            received=reason(done.stdout, done.stderr),
            where=path,
            advice=f"Correct it, or run {by_hand(' '.join(arguments))} to see all that it says.",
        )


def reason(stdout: str, stderr: str) -> str:
    """Of which deployment and why `prefect deploy` has failed, in one line.

    Of an exception, Prefect writes the traceback and then only "An exception occurred."; other
    reasons are the last paragraph of what it writes. What the server says comes as a JSON object
    behind its address.
    """
    _, traceback, trace = stderr.rpartition("Traceback (most recent call last):\n")
    announced = re.findall(r"Deploying (.*?) *│", stdout)
    rest = re.sub(r"^[╭│╰].*\n", "\n", stdout, flags=re.MULTILINE)
    paragraph = (rest.strip() or stderr.strip()).rpartition("\n\n")[2]
    text = re.sub(r"\A( .*\n)*", "", trace) if traceback else paragraph
    if answer := re.search(r"Response: \{'detail': (['\"])(.*)\1\}", text):
        text = answer[2]
    text = re.sub(r"For (further|more) information \S+ \S+", "", text)
    said = " ".join(text.split()).rstrip(".")
    return f"{announced[-1]}: {said}" if announced else said


if __name__ == "__main__":
    sys.exit(main())
