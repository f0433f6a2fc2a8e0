"""What a flow's run has: a store for its stages, an account, and a second try after damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from prefect import get_run_logger
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE

from tasks.cache.blobs import Store
from tasks.errors import PayloadError
from tasks.orchestration.account import Account
from tasks.settings import RunSettings

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def stored_run(settings: RunSettings) -> Iterator[Store]:
    """The store in the settings' cache folder, for the stages of the current flow run.

    Raises StoreError when the folder cannot be used.
    """
    run = FlowRunContext.get()
    assert run is not None, "stored_run belongs inside a flow"
    refresh = settings.refresh or PREFECT_TASKS_REFRESH_CACHE.value()
    store = Store(root=settings.cache_root, fresh_since=run.start_time if refresh else None)
    store.prepare()
    account = Account(store, run.flow_run and run.flow_run.id)
    account.begin()
    try:
        yield store
    finally:
        account.remove()


def healing(body: Callable[P, R]) -> Callable[P, R]:
    """Run a flow's body again after a stage met a stored file that is missing or altered.

    The stage that met it has set the file aside; the one that it came from computes it again, and
    the results of the others are in the cache. A file that is no better then ends the run.
    """

    @wraps(body)
    def heal(*args: P.args, **kwargs: P.kwargs) -> R:
        met: set[str] = set()
        while True:
            try:
                return body(*args, **kwargs)
            except PayloadError as damage:
                if damage.ref.sha256 in met:
                    raise
                met.add(damage.ref.sha256)
                get_run_logger().warning(
                    "the stages are called again to replace a file: %s", damage
                )

    return heal
