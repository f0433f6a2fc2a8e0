"""Registers `automations.yaml`: what Prefect does by itself when a run dies, hangs or fails.

Each automation is known by its name and is updated in place: Prefect would take another of the
same name without a word. Those whose names begin with `mnist: ` are ours, and are removed when
the file no longer has them. Messages go to the notification block `mnist-notifications`, which
the operator makes; without it, automations that would only tell somebody are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Template
from uuid import UUID

import yaml
from humanize import precisedelta
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from deployments.recovery import FLOW_NAME as RECOVERY_FLOW
from tasks.orchestration.events import ACCURACY_DROPPED, VALIDATION_FAILED

FILE = Path(__file__).with_name("automations.yaml")
OURS = "mnist: "
NOTIFICATIONS = "mnist-notifications"  # the operator's block
RECOVERY = f"{RECOVERY_FLOW}/recover"
TELLS = "send-notification"
MISSING_HEARTBEATS = 3
ARRIVAL_SECONDS = 15  # that an event needs, at the most, until it can be looked up
COMPARED = set(AutomationCore.model_fields) - {"enabled"}  # an operator may have switched one off


def automations(recovery: UUID, heartbeat_seconds: int, block: UUID | None) -> list[AutomationCore]:
    """All that do something: with the deployment that recovers dead runs, and where messages go."""
    text = Template(FILE.read_text()).substitute(
        recovery=recovery,
        suspicious=(MISSING_HEARTBEATS - 1) * heartbeat_seconds,
        look=heartbeat_seconds + ARRIVAL_SECONDS,
        silence=precisedelta(MISSING_HEARTBEATS * heartbeat_seconds),
        notifications=block,
        validation_failed=VALIDATION_FAILED,
        accuracy_dropped=ACCURACY_DROPPED,
    )
    every = yaml.safe_load(text)["automations"]
    for fields in every:
        fields["name"] = f"{OURS}{fields['name']}"
        fields["trigger"]["expect"] = set(fields["trigger"]["expect"])
        fields["actions"] = [a for a in fields["actions"] if block or a["type"] != TELLS]
    return [AutomationCore.model_validate(fields) for fields in every if fields["actions"]]


def nobody_is_told() -> str:
    """What an operator has to know as long as there is no notification block."""
    silent = [
        f"“{OURS}{fields['name']}”"
        for fields in yaml.safe_load(FILE.read_text())["automations"]
        if all(action["type"] == TELLS for action in fields["actions"])
    ]
    return (
        f"left out {', '.join(silent)}: there is nobody to tell. Make a notification block "
        f"{NOTIFICATIONS} in the UI (Blocks), then run `make deploy` again."
    )


def wanted(client: SyncPrefectClient) -> list[AutomationCore]:
    """What a server's automations should be. Its deployments have to be there."""
    recovery = client.read_deployment_by_name(RECOVERY).id
    pace = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() or 0
    return automations(recovery, pace, notification_block(client))


def notification_block(client: SyncPrefectClient) -> UUID | None:
    """The operator's notification block of whatever type, if it has been made."""
    blocks = (block.id for block in client.read_block_documents() if block.name == NOTIFICATIONS)
    return next(blocks, None)


def differences(
    wanted: Iterable[AutomationCore], present: Iterable[Automation]
) -> Iterator[tuple[str, AutomationCore | None, Automation | None]]:
    """Each name under which what is wanted differs from what is there of ours, and the two.

    Without the second it is missing. Without the first it is one too many: another one of the
    same name, or one that was renamed or given up since.
    """
    missing = {core.name: core for core in wanted}
    for found in (automation for automation in present if automation.name.startswith(OURS)):
        core = missing.pop(found.name, None)
        if core is None or not same(core, found):
            yield found.name, core, found
    yield from ((name, core, None) for name, core in missing.items())


def register(client: SyncPrefectClient, wanted: list[AutomationCore]) -> Iterator[str]:
    """Bring Prefect's automations to what they should be; yields what was changed."""
    changes = list(differences(wanted, client.read_automations()))
    for name, core, found in changes:
        if core and found:
            client.update_automation(found.id, core.model_copy(update={"enabled": found.enabled}))
            yield f"changed “{name}”"
        elif core:
            client.create_automation(core)
            yield f"made “{name}”"
    for name, core, found in changes:  # last, so that nothing is without its automation meanwhile
        if found and not core:
            client.delete_automation(found.id)
            yield f"removed “{name}”"


def same(one: AutomationCore, other: AutomationCore) -> bool:
    """Whether two automations do the same, switched on or off."""
    both = [a.model_dump(include=COMPARED, exclude={"trigger": {"id"}}) for a in (one, other)]
    return both[0] == both[1]
