"""Images that people bring, from the place where they lie to the accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from builders import Run, run_flow, settings_in
from PIL import Image

from tasks.settings import RunSettings

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


@pytest.fixture(scope="module")
def lamps(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """Class folders of pictures that differ by their colour alone, equally bright."""
    folder, random = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "lamps" / name).mkdir(parents=True)
        for number in range(32):
            noise = random.integers(0, 40, (16, 12, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "lamps" / name / f"{number}.png")
    change = {"dataset": str(folder / "lamps"), "test_fraction": 0.25}
    change |= {"learning_rate": 0.01, "batch_size": 24}  # 72 images: a smaller one is compiled, too
    return settings_in(folder).model_copy(update=change)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "options",
    [{"epochs": 5}, {"model": "cnn", "epochs": 3, "hidden_units": 16}],
    ids=["mlp", "cnn"],
)
def test_colours_are_told_apart(lamps: RunSettings, options: dict[str, object]) -> None:
    run: Run = run_flow(lamps.model_copy(update=options))

    assert "lamps" == run.summary.dataset
    assert run.summary.accuracy > 0.9
    report = run.summary.report_path.read_text()
    assert "Images of 16 by 12 pixels in colour, 3 classes." in report
    assert "The test split is 0.25 of each class, cut off here." in report
    assert all(name in report for name in COLOURS)
