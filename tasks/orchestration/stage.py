"""`@stage`: a Prefect task that keeps its account in the run's ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE

from tasks.ledger import current_ledger

P = ParamSpec("P")
R = TypeVar("R")


class Stage(Task[P, R]):
    """A Prefect task whose direct call reports its state, its seconds and the reason."""

    if not TYPE_CHECKING:  # for a type checker, Task's own overloads hold

        def __call__(self, *args: Any, return_state: bool = False, **kwargs: Any) -> Any:
            """Run the stage in the current flow run, as `Task.__call__` does."""
            ledger = current_ledger()
            ledger.start(self.name)
            try:
                state = super().__call__(*args, return_state=True, **kwargs)
            except BaseException as interruption:  # Ctrl-C, SIGTERM: noted and passed on
                ledger.finish(self.name, "failed", type(interruption).__name__)
                raise
            ledger.finish(self.name, *self._outcome(state.name, failed=state.is_failed()))
            return state if return_state else state.result()

    def _outcome(self, state_name: str | None, *, failed: bool) -> tuple[str, str]:
        if failed:
            return "failed", "see the error"
        if state_name == "Cached":
            return "cached", "unchanged"
        if self.cache_policy is NO_CACHE:
            return "computed", "always runs"
        return "computed", "refresh" if PREFECT_TASKS_REFRESH_CACHE.value() else "no cached result"


def stage(*, cache_policy: CachePolicy, tags: set[str]) -> Callable[[Callable[P, R]], Stage[P, R]]:
    """Declare a function a stage of the pipeline.

    Args:
        cache_policy: CODE_AND_INPUTS, or NO_CACHE for what must leave its mark on every run.
        tags: shown on the task run in the Prefect UI.
    """

    def declare(function: Callable[P, R]) -> Stage[P, R]:
        name = function.__name__
        return Stage(
            function,
            name=name,
            task_run_name=name,
            tags=tags,
            cache_policy=cache_policy,
        )

    return declare
