"""Images that people bring, from the place where they lie to the accuracy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from builders import settings_in
from PIL import Image

from flows.mnist_flow import mnist_flow
from tasks.records import RunSummary

pytestmark = pytest.mark.usefixtures("prefect_server")

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of pictures that differ by their colour alone, equally bright."""
    folder, random = tmp_path_factory.mktemp("own") / "lamps", np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(40):
            noise = random.integers(0, 40, (16, 12, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def trained(pictures: Path, tmp_path: Path, **options: object) -> RunSummary:
    settings = settings_in(tmp_path).model_copy(
        update={"dataset": str(pictures), "test_fraction": 0.25, "epochs": 20, **options}
    )
    return mnist_flow(settings)


@pytest.mark.parametrize("options", [{}, {"model": "cnn", "shift_pixels": 1}], ids=["mlp", "cnn"])
def test_colours_are_told_apart(pictures: Path, tmp_path: Path, options: dict[str, object]) -> None:
    summary = trained(pictures, tmp_path, **options)

    assert "lamps" == summary.dataset
    assert summary.accuracy > 0.9
    report = summary.report_path.read_text()
    assert "Images of 16 by 12 pixels in colour, 3 classes." in report
    assert "The test split is 0.25 of each class, cut off here." in report
    assert all(name in report for name in COLOURS)


def test_grey_pictures_hold_a_third_of_the_values(pictures: Path, tmp_path: Path) -> None:
    summary = trained(pictures, tmp_path, grayscale=True, epochs=1)

    assert "Images of 16 by 12 pixels, 3 classes." in summary.report_path.read_text()


def test_pictures_of_several_sizes_are_brought_to_one(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lamps"
    shutil.copytree(pictures, folder)
    with Image.open(folder / "red" / "0.png") as image:
        image.resize((24, 32)).save(folder / "red" / "0.png")

    summary = trained(folder, tmp_path, image_size="8x6", epochs=1)

    assert "Images of 8 by 6 pixels in colour" in summary.report_path.read_text()
