"""Lets several processes write to Prefect's SQLite database without an error.

A transaction that reads first and writes later fails at once, without waiting, when another
process has written in between: "database is locked". Prefect's transactions are of that kind; its
server then refuses requests and drops events. Here each takes its turn before it reads.
"""

from __future__ import annotations

from typing import Any

from prefect.server.database.configurations import AioSqliteConfiguration

begin_transaction = AioSqliteConfiguration.begin_transaction


def _begin_immediate(self: AioSqliteConfiguration, session: Any, **_: bool) -> Any:
    return begin_transaction(self, session, with_for_update=True)


def take_turns() -> None:
    """From now on, each transaction of this process waits for its turn to write, up to 60 s."""
    AioSqliteConfiguration.begin_transaction = _begin_immediate  # type: ignore[assignment]
