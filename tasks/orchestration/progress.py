"""`<dataset>-training`: an artifact that moves while a task trains."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event, Thread
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0  # also before the first request: the program is compiled then
PAUSE_PER_REQUEST = 100  # so that requests take at most a hundredth of the time
LAST_SECONDS = 2.0  # for the request that says how it ended


@contextmanager
def live_progress(dataset: str) -> Iterator[Callable[[float], None]]:
    """`<dataset>-training`: how far the current task is, while it runs.

    Yields a function that takes the fraction that is done. It costs nothing: a thread tells
    Prefect now and then. Outside a task run, and while the server is away, nobody is told.
    """
    if TaskRunContext.get() is None:
        yield lambda _: None
        return
    percent, ended = 0.0, Event()

    def show(done_fraction: float) -> None:
        nonlocal percent
        percent = round(100 * done_fraction, 1)

    def tell() -> None:
        is_last, pause_seconds = ended.wait(PAUSE_SECONDS), PAUSE_SECONDS
        try:
            artifact = create_progress_artifact(percent, f"{dataset}-training", "Epochs trained")
            assert isinstance(artifact, UUID), "called in a thread without an event loop"
            while not is_last:
                is_last = ended.wait(pause_seconds)
                started = time.perf_counter()
                update_progress_artifact(artifact, percent)
                took_seconds = time.perf_counter() - started
                pause_seconds = max(PAUSE_SECONDS, PAUSE_PER_REQUEST * took_seconds)
        except Exception:  # whatever it is: training does not depend on it
            logger.debug("no progress in Prefect", exc_info=True)

    thread = Thread(target=copy_context().run, args=(tell,), daemon=True)
    thread.start()
    try:
        yield show
    finally:
        ended.set()
        thread.join(LAST_SECONDS)
