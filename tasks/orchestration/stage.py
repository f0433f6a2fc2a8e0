"""`@stage`: a Prefect task that keeps its account in the run's ledger.

A stage that meets a stored file which is missing or altered has it computed anew by the
stage that it came from, in the same run, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, runtime_checkable

from prefect import Task, get_run_logger
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.context import FlowRunContext

from tasks.cache.fingerprint import EDITED, fingerprint_of
from tasks.errors import PayloadError
from tasks.orchestration.ledger import Call, Ledger, current_ledger
from tasks.records import BlobRef, Record

P = ParamSpec("P")
R = TypeVar("R")


@runtime_checkable
class Accountable(Protocol):
    """Result storage that knows why a stage ran, and that forgets what is damaged."""

    def settle(self, stage: str, *, cached: bool) -> str:
        """Why a stage ran or did not. Raises StoreError when its result was not stored."""

    def condemn(self, ref: BlobRef) -> None:
        """Forget a stored file that is missing or altered."""

    def key(self, stage: str) -> str | None:
        """The key that the stage's result will be kept under; None if it will not be."""

    def remark(self, stage: str, text: str) -> None:
        """Add to the reason why the stage ran."""

    def disown(self, stage: str, why: str) -> None:
        """Do not keep what the stage has computed."""


class Stage(Task[P, R]):
    """A Prefect task whose direct call reports its state, its seconds and the reason."""

    if not TYPE_CHECKING:  # for a type checker, Task's own overloads hold

        def __call__(self, *args: Any, return_state: bool = False, **kwargs: Any) -> Any:
            """Run the stage in the current flow run, as `Task.__call__` does."""
            ledger = current_ledger()
            ledger.start(self.name)
            args, kwargs = _current(ledger, args, kwargs)
            try:
                state = super().__call__(*args, return_state=True, **kwargs)
                outcome = self._outcome(state.name, failed=state.is_failed())
            except BaseException as interruption:  # Ctrl-C, SIGTERM: noted and passed on
                ledger.finish(self.name, "failed", type(interruption).__name__)
                raise
            ledger.finish(self.name, *outcome)
            if state.is_completed():
                ledger.calls.append(Call(self.name, self, args, kwargs, state.result()))
            return state if return_state else state.result()

    def _outcome(self, state_name: str | None, *, failed: bool) -> tuple[str, str]:
        if failed:
            return "failed", "see the error"
        cached = state_name == "Cached"
        results = _results()
        if self.cache_policy is NO_CACHE or results is None:
            return "computed", "always runs"
        return "cached" if cached else "computed", results.settle(self.name, cached=cached)


def stage(*, cache_policy: CachePolicy) -> Callable[[Callable[P, R]], Stage[P, R]]:
    """Declare a function a stage of the pipeline.

    Stages have no tags: Prefect asks its server about the limits of each tag, even when the
    result is cached.

    Args:
        cache_policy: CODE_AND_INPUTS, or NO_CACHE for what must leave its mark on every run.
    """

    def declare(function: Callable[P, R]) -> Stage[P, R]:
        name = function.__name__
        return Stage(
            _restoring(function, name, keyed=cache_policy is not NO_CACHE),
            name=name,
            task_run_name=name,
            cache_policy=cache_policy,
        )

    return declare


def result_key(stage: Stage[..., Any]) -> str | None:
    """The cache key of the stage that is running; None if its result will not be kept.

    Asked for after the stage has imported what it needs: code that was edited by then is not
    what the key stands for.
    """
    results = _results()
    if results is None or fingerprint_of(stage.fn.__module__).edited:
        return None
    return results.key(stage.name)


def remark(stage: str, text: str) -> None:
    """Add to the reason that is shown for the stage that is running."""
    results = _results()
    if results is not None:
        results.remark(stage, text)


def _restoring(function: Callable[P, R], name: str, *, keyed: bool) -> Callable[P, R]:
    """The function, called again after a stored file that it needs was computed anew."""

    @wraps(function)
    def body(*args: Any, **kwargs: Any) -> R:
        restored: set[str] = set()
        while True:
            try:
                result = function(*args, **kwargs)
            except PayloadError as damage:
                if damage.ref.sha256 in restored:
                    raise
                _restore(damage)
                restored.add(damage.ref.sha256)
            else:
                # What its body imported may have been edited after the key was made.
                if keyed and fingerprint_of(function.__module__).edited:
                    _disown(name, EDITED)
                return result
            before = args, kwargs
            args, kwargs = _current(current_ledger(), args, kwargs)
            if keyed and _content(before) != _content((args, kwargs)):
                _disown(name, "")  # other weights than the key says, as on another machine

    return body


def _restore(damage: PayloadError) -> None:
    """Run the stage again that a stored file came from. Raises the damage if there is none."""
    ledger, results = current_ledger(), _results()
    for call in ledger.calls:
        for name, ref in _files(call.result).items():
            if ref == damage.ref and results is not None:
                get_run_logger().warning(
                    "%s runs again: its %s is missing or altered", call.name, name
                )
                results.condemn(ref)
                ledger.repeat(call)
                return
    raise damage


def _disown(stage: str, why: str) -> None:
    results = _results()
    if results is not None:
        results.disown(stage, why)


def _files(result: object) -> dict[str, BlobRef]:
    return result.stored_files() if isinstance(result, Record) else {}


def _current(
    ledger: Ledger, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (
        tuple(ledger.current(value) for value in args),
        {name: ledger.current(value) for name, value in kwargs.items()},
    )


def _content(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> list[Any]:
    args, kwargs = arguments
    values = [*args, *kwargs.values()]
    return [value.content() if isinstance(value, Record) else value for value in values]


def _results() -> Accountable | None:
    run = FlowRunContext.get()
    storage: object = run.result_store.result_storage if run else None
    return storage if isinstance(storage, Accountable) else None
