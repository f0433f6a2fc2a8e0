"""Reference profiles: what images usually are like, to notice when they are not.

mnist.json lies here, of MNIST's training images; `mnist-profile` writes others.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tasks.errors import ProfileError
from tasks.records import Profile

FOLDER = Path(__file__).parent


def find_profile(chosen: str | None, dataset: str) -> Profile | None:
    """The chosen profile, one of ours or a file, or the dataset's own. Raises ProfileError."""
    ours = {path.stem: path for path in FOLDER.glob("*.json")}
    if chosen is None and dataset not in ours:
        return None
    return _read(ours.get(chosen or dataset) or Path(chosen or "").expanduser())


def shipped_profile() -> Profile:
    """MNIST's."""
    return _read(FOLDER / "mnist.json")


def _read(path: Path) -> Profile:
    try:
        return Profile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ProfileError(
            "A profile is mnist, or a JSON file that mnist-profile wrote.",
            received=str(error).replace("\n", " "),
            where=f"--profile {path}",
            advice="Write it with mnist-profile DATASET OUTPUT.json.",
        ) from error
