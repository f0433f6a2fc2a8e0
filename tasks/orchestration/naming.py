"""What a run is called: by the person who started it, or else by what it does.

Prefect makes up names, too, and does not say that it has: its server two words (`merry-otter`),
the form of its UI a Greek letter and an astronomer's or a star's name (`phi92-khorana-band`). A
run of a deployment by another name was called so by somebody.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, wraps
from importlib.resources import files

from prefect.context import FlowRunContext

GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma"
    "|tau|upsilon|phi|chi|psi|omega"
)
BY_THE_FORM = re.compile(rf"({GREEK})\d*(-[a-z]+)+")


def unless_named(run_name: Callable[[], str]) -> Callable[[], str]:
    """Name a run by a function, unless a person gave it a name."""

    @wraps(run_name)
    def name() -> str:
        run = FlowRunContext.get()
        assert run is not None, "Prefect names a run inside of it"
        assert run.flow_run is not None, "what is named is a run"
        by_a_person = run.flow_run.deployment_id and not is_made_up(run.flow_run.name)
        return run.flow_run.name if by_a_person else run_name()

    return name


def is_made_up(name: str) -> bool:
    """Whether Prefect may have thought of a name."""
    first, _, second = name.partition("-")
    return bool(BY_THE_FORM.fullmatch(name)) or {first, second} <= _words()


@cache
def _words() -> set[str]:
    """Those that Prefect's server makes names of."""
    lists = [each for each in files("coolname").joinpath("data").iterdir() if ".txt" in each.name]
    return {word for each in lists for word in each.read_text().split() if word.isalpha()}
