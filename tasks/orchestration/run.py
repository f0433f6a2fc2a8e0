"""What a run of a flow has: a server, a store, an account, and a second try after damage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import Flow, get_run_logger
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE

from tasks import expanded, unused_variables
from tasks.cache.blobs import Store, try_folder
from tasks.cache.entries import Entries
from tasks.cache.housekeeping import remove_abandoned, sweep
from tasks.cache.sharing import run_under_way
from tasks.errors import DatasetError, PayloadError, PipelineError
from tasks.orchestration.account import Account, listener
from tasks.orchestration.events import explain, tell_failed_load
from tasks.orchestration.naming import unless_named
from tasks.orchestration.signals import handle_in_flow
from tasks.server.home import DATA_VARIABLE, data_folders
from tasks.server.own import some_server
from tasks.settings import RunSettings
from tasks.sources.catalogue import dataset_name

P = ParamSpec("P")
R = TypeVar("R")


class Pipeline(Flow[P, R]):
    """A flow that brings its Prefect server, if there is none, also when Python calls it."""

    if not TYPE_CHECKING:  # for a type checker, Flow's own overloads hold

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run the flow, as `Flow.__call__` does."""
            with some_server():
                return super().__call__(*args, **kwargs)


def pipeline(name: str, run_name: Callable[[], str]) -> Callable[[Callable[P, R]], Pipeline[P, R]]:
    """Declare a function a pipeline: it is healed, and says why it ended badly.

    A run is called what `run_name` returns, unless a person gave it a name.
    """

    def declare(body: Callable[P, R]) -> Pipeline[P, R]:
        return Pipeline(
            healing(body),
            name=name,
            flow_run_name=unless_named(run_name),
            persist_result=False,
            on_failure=[explain],
            on_crashed=[explain],
        )

    return declare


@contextmanager
def stored_run(settings: RunSettings) -> Iterator[Store]:
    """The store in the settings' cache folder, for the stages of the current flow run.

    Raises StoreError when this folder, or that for models and reports, cannot be used, and
    PipelineError as `confine` does.
    """
    run = FlowRunContext.get()
    assert run is not None, "stored_run belongs inside a flow"
    handle_in_flow()
    if run.flow_run and run.flow_run.deployment_id:
        confine(settings, data_folders())
    refresh = settings.refresh or PREFECT_TASKS_REFRESH_CACHE.value()
    store = Store(root=settings.cache_root, fresh_since=run.start_time if refresh else None)
    logger = get_run_logger()
    for variable in unused_variables:
        logger.warning("%s in the environment is not used: it would change results", variable)
    for note in store.prepare():
        logger.warning("%s", note)
    for folder in (settings.model_root, settings.model_root / "reports"):
        try_folder(folder, option="--model-dir")  # now, and not after a training
        remove_abandoned(folder)
    account = Account(store, run.flow_run and run.flow_run.id)
    with run_under_way(store):
        sweep(Entries(store))
        account.begin()
        if run.flow_run:
            listener().run_started(str(run.flow_run.id))
        try:
            yield store
        except DatasetError as error:
            tell_failed_load(dataset_name(settings.dataset, settings.name), str(error))
            raise
        finally:
            account.remove()


def confine(settings: RunSettings, folders: Sequence[Path]) -> None:
    """Raise PipelineError if settings name a place outside of some folders, links followed."""
    outside = [
        f"{setting} {place!r}"
        for setting, place in settings.places.items()
        if "\0" in place
        or not any(Path(os.path.realpath(expanded(place))).is_relative_to(f) for f in folders)
    ]
    if outside:
        raise PipelineError(
            "A run of a deployment reads and writes only where its operator allows it.",
            received=outside,
            advice=f"Allowed is what lies in {', '.join(map(str, folders))}. The operator adds "
            f"folders with {DATA_VARIABLE}, separated by {os.pathsep!r}, where the worker starts.",
        )


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
