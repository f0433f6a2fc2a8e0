"""What Prefect does by itself when a run dies, hangs, or finds something wrong.

Each automation is known by its name and is updated in place: Prefect would take another of the
same name without a word. Messages go to the notification block `mnist-notifications`, which the
operator makes; without it the automations still act, and nobody is told.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import (
    CancelFlowRun,
    ChangeFlowRunState,
    DoNothing,
    RunDeployment,
    SendNotification,
)
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from deployments.recovery import FLOW_NAME as RECOVERY_FLOW
from flows.mnist_flow import mnist_flow
from tasks.orchestration.events import ACCURACY_DROPPED, VALIDATION_FAILED

NOTIFICATIONS = "mnist-notifications"  # the operator's block
RECOVERY = f"{RECOVERY_FLOW}/recover"
SCHEDULED_TAG = "scheduled"

MISSING_HEARTBEATS = 3
STARTS_WITHIN = timedelta(minutes=10)
ENDS_WITHIN = timedelta(hours=6)

PENDING, RUNNING = "prefect.flow-run.Pending", "prefect.flow-run.Running"
CRASHED = "prefect.flow-run.Crashed"
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDINGS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
# A run that waits for its turn, or is to be tried again, is neither starting nor running.
WAITING = {
    f"prefect.flow-run.{state}"
    for state in ("Scheduled", "AwaitingConcurrencySlot", "AwaitingRetry", "Late", "Cancelling")
}

Act = RunDeployment | ChangeFlowRunState | CancelFlowRun | DoNothing | SendNotification

RUN_LINK = "{{ flow_run|ui_url }}"


def automations(
    recovery: UUID, heartbeat_seconds: int, notifications: UUID | None
) -> list[AutomationCore]:
    """All automations of the pipeline.

    Args:
        recovery: the deployment that starts a dead run anew.
        heartbeat_seconds: how often a run gives a sign of life.
        notifications: the block that takes messages, if there is one.
    """

    def told(subject: str, body: str) -> list[Act]:
        return (
            [SendNotification(block_document_id=notifications, subject=subject, body=body)]
            if notifications
            else []
        )

    silence = timedelta(seconds=MISSING_HEARTBEATS * heartbeat_seconds)
    return [
        AutomationCore(
            name="mnist: start a dead run anew",
            description="At most once; the fresh run goes on from the last checkpoint.",
            trigger=_when({CRASHED}),
            actions=[
                RunDeployment(
                    deployment_id=recovery,
                    parameters={
                        "flow_run_id": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"}
                    },
                ),
                *told(
                    "A run has died",
                    f"{{{{ flow_run.name }}}}: {{{{ flow_run.state.message }}}} {RUN_LINK}",
                ),
            ],
        ),
        AutomationCore(
            name="mnist: a run gives no sign of life",
            description=f"No heartbeat in {silence}: its process is gone, and its worker too.",
            trigger=_unless(ENDINGS | WAITING | {HEARTBEAT}, after={HEARTBEAT}, within=silence),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED,
                    message=f"It gave no sign of life for {silence.total_seconds():.0f} s: "
                    "its process and its worker are gone.",
                )
            ],
        ),
        AutomationCore(
            name="mnist: a run does not start",
            description=f"Its worker took it, and {STARTS_WITHIN} later it is not running.",
            trigger=_unless(ENDINGS | WAITING | {RUNNING}, after={PENDING}, within=STARTS_WITHIN),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED,
                    message=f"A worker took it, and {STARTS_WITHIN.seconds // 60} minutes later "
                    "it was not running.",
                )
            ],
        ),
        AutomationCore(
            name="mnist: a run takes too long",
            description=f"It is cancelled after {ENDS_WITHIN}.",
            trigger=_unless(ENDINGS | WAITING, after={RUNNING}, within=ENDS_WITHIN),
            actions=[CancelFlowRun(), *told("A run took too long and was cancelled", RUN_LINK)],
        ),
        AutomationCore(
            name="mnist: a run has failed",
            description="Says which; a failed run is not started anew.",
            trigger=_when({"prefect.flow-run.Failed"}),
            actions=told(
                "A run has failed",
                f"{{{{ flow_run.name }}}}: {{{{ flow_run.state.message }}}} {RUN_LINK}",
            )
            or [DoNothing()],
        ),
        AutomationCore(
            name="mnist: validation has failed",
            description="The data breaks its contract; nothing was trained on it.",
            trigger=EventTrigger(expect={VALIDATION_FAILED}, posture=Posture.Reactive, threshold=1),
            actions=told(
                "Validation has failed for {{ event.payload.dataset }}",
                f"{{{{ event.payload.message }}}} {RUN_LINK}",
            )
            or [DoNothing()],
        ),
        AutomationCore(
            name="mnist: the accuracy has dropped",
            description="A scheduled run stays clearly below the best of the latest ones.",
            trigger=EventTrigger(
                expect={ACCURACY_DROPPED},
                match_related=ResourceSpecification(
                    {"prefect.resource.id": f"prefect.tag.{SCHEDULED_TAG}"}
                ),
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=told(
                "The accuracy on {{ event.payload.dataset }} has dropped",
                f"{{{{ event.payload.accuracy }}}} after {{{{ event.payload.best }}}} {RUN_LINK}",
            )
            or [DoNothing()],
        ),
    ]


def wanted(client: SyncPrefectClient, heartbeat_seconds: int) -> list[AutomationCore]:
    """What a server's automations should be. Its deployments have to be there."""
    recovery = client.read_deployment_by_name(RECOVERY).id
    return automations(recovery, heartbeat_seconds, notification_block(client))


def register(client: SyncPrefectClient, heartbeat_seconds: int) -> list[str]:
    """Bring Prefect's automations to what they should be; returns what was changed."""
    changes = [register_one(client, core) for core in wanted(client, heartbeat_seconds)]
    return [change for change in changes if change]


def notification_block(client: SyncPrefectClient) -> UUID | None:
    """The operator's notification block of whatever type, if it has been made."""
    for block in client.read_block_documents():
        if block.name == NOTIFICATIONS:
            return block.id
    return None


def same(one: AutomationCore, other: AutomationCore) -> bool:
    """Whether two automations do the same. An operator may have switched one of them off."""
    return bool(_content(one) == _content(other))


def register_one(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    """Bring one automation to what it should be; says what was changed, if anything was."""
    same_name = client.read_automations_by_name(wanted.name)
    kept: Automation | None = same_name[0] if same_name else None
    for duplicate in same_name[1:]:
        client.delete_automation(duplicate.id)
    if kept is None:
        client.create_automation(wanted)
        return f"made “{wanted.name}”"
    if same(kept, wanted):
        return ""
    # Prefect's client sends only what was set: without its type, a CancelFlowRun() that is changed
    # would come to the server as a DoNothing().
    spelled_out = wanted.model_dump(mode="json", exclude={"owner_resource"})
    spelled_out["enabled"] = kept.enabled
    client.update_automation(kept.id, AutomationCore.model_validate(spelled_out))
    return f"changed “{wanted.name}”"


def _when(events: set[str]) -> EventTrigger:
    return EventTrigger(
        expect=events,
        match_related=_of_the_flow(),
        posture=Posture.Reactive,
        threshold=1,
    )


def _unless(events: set[str], *, after: set[str], within: timedelta) -> EventTrigger:
    """When none of the events comes in time after one of the others, for each run."""
    return EventTrigger(
        after=after,
        expect=events,
        for_each={"prefect.resource.id"},
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=_of_the_flow(),
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )


def _of_the_flow() -> ResourceSpecification:
    return ResourceSpecification(
        {"prefect.resource.role": "flow", "prefect.resource.name": mnist_flow.name}
    )


def _content(automation: AutomationCore) -> Any:
    compared = set(AutomationCore.model_fields) - {"enabled"}
    return _without_ids(automation.model_dump(mode="json", include=compared))


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_ids(part) for name, part in value.items() if name != "id"}
    if isinstance(value, list):
        parts = [_without_ids(part) for part in value]
        # Sets of events come back in any order.
        return sorted(parts) if all(isinstance(part, str) for part in parts) else parts
    return value
