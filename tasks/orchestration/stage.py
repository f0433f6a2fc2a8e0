"""`@stage`: a Prefect task whose result is taken from the cache or computed once, and why.

The way of one call, whether it comes directly, by `.submit()` or `.map()`, in a thread or in
another process; under the lock of its key, so that equal calls compute a result once:

    its inputs, its code and its libraries make the key         cache/keys.py
    the entry of that key is there, and its files are → taken   cache/entries.py
    otherwise → computed, stored, and taken from then on

Prefect's own cache is off: it runs code that a stored result names, goes on when a result cannot
be stored, and has no room for a reason. Here each task says in its state what it did, for the UI
as for the terminal:

    Cached     unchanged
    Completed  epochs 12 → 6
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import State, Task, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed

from tasks.cache.blobs import Store
from tasks.cache.checkpoints import Checkpoints
from tasks.cache.entries import Entries, Entry
from tasks.cache.keys import Fingerprint, Ingredients, content_of, fingerprint_of, what_changed
from tasks.cache.sharing import held
from tasks.errors import PayloadError
from tasks.orchestration.account import Account, CallRecord, listener
from tasks.orchestration.signals import end_if_told
from tasks.records import StageRecord

P = ParamSpec("P")
R = TypeVar("R")

ALWAYS = "always runs"
ERROR = "see the error"
EDITED = "code edited during the run"
NO_KEY = "inputs that no key can be made of"
WAITING = "waiting for another run, which computes the same result"


@dataclass(frozen=True)
class Call:
    """A call of a stage while it computes. `notes` are added to the reason why it did."""

    stage: str
    module: str
    imported: Fingerprint
    made_of: Ingredients | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> str | None:
        """The key that the result will be kept under; None if it will not be.

        To be asked for after the stage has imported what it needs: code that was edited by then
        is not what the key stands for.
        """
        return self.made_of.key if self.made_of and not self.edited else None

    @property
    def edited(self) -> bool:
        """Whether the files are no longer those that were imported."""
        return fingerprint_of(self.module) != self.imported


@dataclass(frozen=True)
class Outcome:
    """What a stage hands back, whether it came from the cache, and why."""

    result: Any
    cached: bool
    why: str


_call: ContextVar[Call | None] = ContextVar("call", default=None)


def current_call() -> Call | None:
    """The call of the stage that is computing here; None outside of one."""
    return _call.get()


class Stage(Task[P, R]):
    """A Prefect task that hands back its result, not the state which says how it came about."""

    if not TYPE_CHECKING:  # for a type checker, Task's own overloads hold

        def __call__(self, *args: Any, return_state: bool = False, **kwargs: Any) -> Any:
            """Run the stage in the current flow run, as `Task.__call__` does."""
            state = super().__call__(*args, return_state=True, **kwargs)
            return state if return_state else state.result()

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name where that leads here: a worker runs the code that it imports and digests."""
        module, name = self.fn.__module__, self.fn.__qualname__
        here = getattr(importlib.import_module(module), name, None) is self
        return name if here else super().__reduce__()


def stage(*, cached: bool = True) -> Callable[[Callable[P, R]], Stage[P, R]]:
    """Declare a function a stage of the pipeline. It takes the `store` that arrays lie in.

    A `cached` one returns a record; others leave their mark on every run. Stages have no tags:
    Prefect asks its server about the limits of each tag, even when the result is cached.
    """

    def declare(function: Callable[P, R]) -> Stage[P, R]:
        return Stage(
            _with_account(function, cached=cached),
            name=function.__name__,
            task_run_name=function.__name__,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return declare


def _with_account(function: Callable[P, R], *, cached: bool) -> Callable[P, Any]:
    """The function as Prefect calls it: looked up first, and its account given."""
    name, signature = function.__name__, inspect.signature(function)
    if "store" not in signature.parameters:
        raise TypeError(f"A stage takes a `store`. Received: {name}{signature}.")
    # What is edited from now on is noticed.
    imported = fingerprint_of(function.__module__) if cached else None

    @wraps(function)
    def body(*args: P.args, **kwargs: P.kwargs) -> R | State[R]:
        run = TaskRunContext.get()
        if run is None:  # called as `stage.fn()`
            return function(*args, **kwargs)
        end_if_told()
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given, compute = bound.arguments, partial(function, *args, **kwargs)
        store: Store = given["store"]
        report = _reporter(name, Account(store, run.task_run.flow_run_id))
        try:
            if imported is None:
                done = Outcome(compute(), cached=False, why=ALWAYS)
            else:
                done = _cached_call(Call(name, function.__module__, imported), given, compute)
        except PayloadError as damage:
            store.set_aside(damage.ref)
            report("failed", "a damaged file, which is computed again")
            raise
        except BaseException as error:  # Ctrl-C and SIGTERM included: noted and passed on
            report("failed", ERROR if isinstance(error, Exception) else type(error).__name__)
            raise
        report("cached" if done.cached else "computed", done.why)
        state = "Cached" if done.cached else "Completed"
        return Completed(name=state, message=done.why, data=done.result)

    return body


def _cached_call(call: Call, given: dict[str, Any], compute: Callable[[], Any]) -> Outcome:
    """Take a result from the cache, or compute and keep it. Raises StoreError."""
    store: Store = given["store"]
    try:
        inputs = {name: content_of(value) for name, value in given.items()}
    except TypeError as error:
        get_run_logger().warning("the result of %s is not kept: %s", call.stage, error)
        return Outcome(_computed(call, compute), cached=False, why=NO_KEY)
    if call.edited:
        return _not_kept(call, _computed(call, compute))
    made_of = Ingredients(stage=call.stage, **call.imported._asdict(), inputs=inputs)
    entries = Entries(store)
    with held(store.locks / made_of.key, on_waiting=_say_waiting):
        found, damage = entries.look_up(made_of.key)
        if found is not None:
            Checkpoints(store, made_of.key).clear()  # of a run that was killed before it did
            entries.remember(made_of)
            return Outcome(found.result, cached=True, why=_unchanged_since(found.computed))
        earlier = entries.nearest(made_of)
        call = replace(call, made_of=made_of)
        result = _computed(call, compute)
        if unedited := not call.edited:
            entries.write(Entry.of(result, made_of))
            entries.remember(made_of)
        Checkpoints(store, made_of.key).clear()
    if not unedited:
        return _not_kept(call, result)
    difference = what_changed(earlier, made_of) if earlier else "first run"
    why = damage or difference or "lost: result"
    return Outcome(result, cached=False, why="; ".join([why, *call.notes]))


def _computed(call: Call, compute: Callable[[], R]) -> R:
    token = _call.set(call)
    try:
        return compute()
    finally:
        _call.reset(token)


def _not_kept(call: Call, result: Any) -> Outcome:
    get_run_logger().warning("%s: the result of %s is not kept", EDITED, call.stage)
    return Outcome(result, cached=False, why=EDITED)


def _unchanged_since(computed: datetime) -> str:
    day = computed.astimezone().date()
    return "unchanged" if day == datetime.now().astimezone().date() else f"unchanged since {day}"


def _say_waiting() -> None:
    get_run_logger().info(WAITING)
    listener().waiting(WAITING)


def _reporter(stage: str, account: Account) -> Callable[[str, str], None]:
    """Say that a call begins; returns a function that says how it ended, and why."""
    started, clock = time.time(), time.perf_counter()
    listener().stage_started(stage)

    def report(state: str, why: str) -> None:
        seconds = round(time.perf_counter() - clock, 3)
        record = StageRecord.model_validate({"state": state, "seconds": seconds, "why": why})
        account.add(CallRecord(stage=stage, started=started, record=record))
        listener().stage_finished(stage, record)

    return report
