"""Cache keys from content: the inputs, the code that a stage reaches, its libraries."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from prefect import get_run_logger
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from pydantic import BaseModel

from tasks.fingerprint import changed_since_start, code_of, libraries_of


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
        if edited := changed_since_start(function.__module__):
            get_run_logger().warning("%s changed during the run: not cached", ", ".join(edited))
            return None
        ingredients = {
            "stage": function.__name__,
            "code": code_of(function.__module__),
            "libraries": libraries_of(function.__module__),
            "inputs": {name: _content(value) for name, value in inputs.items()},
        }
        return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def _content(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"A stage's inputs are records or plain values. Received: {type(value)}.")


CODE_AND_INPUTS = CodeAndInputs()
