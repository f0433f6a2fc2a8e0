"""Cache keys from content: the inputs, the code that a stage reaches, its libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from prefect import get_run_logger
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.transactions import IsolationLevel

from tasks.cache.fingerprint import EDITED, fingerprint_of
from tasks.cache.ingredients import Ingredients, content_of


@runtime_checkable
class Expecting(Protocol):
    """Result storage that wants to know what a key stands for."""

    def expect(self, ingredients: Ingredients) -> None:
        """Hear of a stage's ingredients before its result is looked up."""

    def decline(self, stage: str, why: str) -> None:
        """Hear that a stage's result is neither looked up nor kept."""


@dataclass
class CodeAndInputs(CachePolicy):
    """A stage's key changes exactly with what can change its result.

    Inputs are records, which name content and neither places nor times, or plain JSON
    values; with anything else, a stage runs and its result is not kept.
    """

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """SHA-256 over the stage's name, code, libraries and inputs.

        None, so that the result is neither taken from the cache nor kept, when code was
        edited after this process imported it: its digest is not that of the code that runs.
        """
        del flow_parameters, kwargs
        function = task_ctx.task.fn
        storage: object = task_ctx.result_store.result_storage
        expecting = storage if isinstance(storage, Expecting) else None
        if expecting:
            expecting.decline(function.__name__, "inputs that no key can be made of")
        code, libraries, edited = fingerprint_of(function.__module__)
        if edited:
            get_run_logger().warning("%s changed during the run: not cached", ", ".join(edited))
            if expecting:
                expecting.decline(function.__name__, EDITED)
            return None
        ingredients = Ingredients(
            stage=function.__name__,
            code=code,
            libraries=libraries,
            inputs={name: content_of(value) for name, value in inputs.items()},
        )
        if expecting:
            expecting.expect(ingredients)
        return ingredients.key


# Serializable: two runs that need the same result compute it once, see KernelLocks.
CODE_AND_INPUTS = CodeAndInputs(isolation_level=IsolationLevel.SERIALIZABLE)
