"""Reference profiles: what images usually are like, to notice when they are not.

mnist.json lies here, of MNIST's training images; `mnist-profile` writes others.
"""

from __future__ import annotations

from pathlib import Path

from tasks import expanded
from tasks.errors import ProfileError, reason_of
from tasks.records import Profile

OURS = {path.stem: path for path in Path(__file__).parent.glob("*.json")}


def find_profile(chosen: str | None, dataset: str) -> Profile | None:
    """The chosen profile, one of ours or a file, or the dataset's own. Raises ProfileError."""
    if chosen is None and dataset not in OURS:
        return None
    return _read(OURS.get(chosen or dataset) or expanded(chosen or ""))


def shipped_profile() -> Profile:
    """MNIST's."""
    return _read(OURS["mnist"])


def _read(path: Path) -> Profile:
    try:
        return Profile.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ProfileError(
            f"A profile is {', '.join(OURS)}, or a JSON file that mnist-profile wrote.",
            received=reason_of(error),
            where=f"--profile {path}",
            advice="Write it with mnist-profile DATASET OUTPUT.json.",
        ) from None
