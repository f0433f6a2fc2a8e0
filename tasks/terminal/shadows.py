"""Files that Python takes for a library because PYTHONPATH names their folder."""

from __future__ import annotations

import os
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from tasks.errors import PipelineError

# What a person may well call a file of their own, and the distribution that it hides.
LIBRARIES = ("keras", "tensorflow", "numpy", "pandas", "pandera", "prefect", "pydantic", "rich")


def require_no_shadows() -> None:
    """Raise PipelineError if one of the libraries would be imported from a folder of PYTHONPATH."""
    folders = {Path(entry).absolute() for entry in os.environ.get("PYTHONPATH", "").split(":")}
    for name in LIBRARIES if "PYTHONPATH" in os.environ else ():
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        found = Path(spec.origin)
        folder = found.parents[1 if spec.submodule_search_locations else 0]
        if folder in folders and folder != Path(str(distribution(name).locate_file(""))):
            raise PipelineError(
                f"`{name}` must be the installed library.",
                received=found,
                where="PYTHONPATH",
                advice="Rename that file, or take its folder out of PYTHONPATH.",
            )
