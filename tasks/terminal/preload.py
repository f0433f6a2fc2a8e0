"""Importing TensorFlow while the server boots, when the run will need it.

Whether it will is known for certain only once the stages' keys are computed. A note beside the
cache says which settings last ran through with the code as it was; without it, TensorFlow is
imported at once. The note decides nothing but the moment of the import.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from tasks.cache.blobs import Store
from tasks.cache.housekeeping import prune_notes
from tasks.settings import RunSettings


def preload_for(settings: RunSettings) -> None:
    """Import TensorFlow now if the run will probably train or evaluate."""
    if settings.refresh or not _note(settings).exists():
        import tasks.learning.backend  # noqa: F401 - for its imports


def remember(settings: RunSettings) -> None:
    """Note that these settings have run through with the code as it is."""
    note = _note(settings)
    with suppress(OSError):
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note.touch()
        prune_notes(Store(root=settings.cache_root))


def _note(settings: RunSettings) -> Path:
    digest = hashlib.sha256(f"{settings.dataset} {settings.plan}".encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(f"{path} {path.stat().st_mtime_ns}".encode())
    return settings.cache_root / "warm" / digest.hexdigest()[:32]
