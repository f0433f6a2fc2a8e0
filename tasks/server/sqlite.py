"""Lets several processes write to Prefect's SQLite database without an error.

A transaction that reads first and writes later fails at once, without waiting, when another
process has written in between: "database is locked". Prefect's transactions are of that kind; its
server then refuses requests and drops events. Here each takes its turn before it reads.
"""

from __future__ import annotations

from prefect.server.database.configurations import AioSqliteConfiguration

begin_deferred = AioSqliteConfiguration.begin_transaction


def take_turns() -> None:
    """From now on, each transaction of this process waits for its turn to write, up to 60 s."""

    def begin_immediate(self, session, with_for_update=False):
        return begin_deferred(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediate
