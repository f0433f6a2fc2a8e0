"""`mnist-profile`: write down what a dataset's training images are like.

mnist-profile letters.npz letters.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from tasks.cache.blobs import write_atomically
from tasks.errors import PipelineError, ProfileError
from tasks.records import Profile
from tasks.settings import RunSettings
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.labels import read_labels
from tasks.sources.pixels import read_images
from tasks.terminal.streams import on_any_streams

LABELS = ("y_train", "y_test")  # a class that only one of them has counts


@on_any_streams
def main(arguments: list[str] | None = None) -> int:
    """Write one profile; 1 when it cannot be done, 2 for a wrong call."""
    parser = argparse.ArgumentParser(
        prog="mnist-profile",
        description="Write down what a dataset's training images are like, for --profile.",
    )
    parser.add_argument("dataset", help="as of --dataset")
    parser.add_argument("output", type=Path, help="the JSON file to write")
    options = parser.parse_args(arguments)
    try:
        profile, classes = _profile(options.dataset)
        text = profile.model_dump_json(indent=1) + "\n"
        write_atomically(options.output, text.encode(), option="OUTPUT")
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {profile.images} images, {classes} classes")
    return 0


def _profile(dataset: str) -> tuple[Profile, int]:
    """What the training images are like, and how many classes the dataset has."""
    from tasks.validation.measure import measure, profile_of
    from tasks.validation.plausibility import shapes_by_class

    source = find_dataset(dataset, downloads=RunSettings().cache_root / "downloads")
    opened = open_dataset(source)
    labels = {name: opened.streams[name] for name in LABELS if name in opened.streams}
    images = read_images({"x_train": opened.streams["x_train"]}, print, print)["x_train"]
    numbers, class_names = read_labels(labels, opened.names, print)
    if len(numbers["y_train"]) != images.shape[0]:
        raise ProfileError(
            "A profile is made of images with a label each.",
            received=f"{images.shape[0]} images, {len(numbers['y_train'])} labels",
            where=dataset,
            advice="Take both from the same release of the dataset.",
        )
    pixels = np.concatenate(list(images.rows()))
    table = measure(pixels, numbers["y_train"])
    grey = pixels.ndim == 3  # noqa: PLR2004 - axes
    upright = shapes_by_class(pixels, numbers["y_train"]) if grey else ()
    return profile_of(source.name, table, upright), len(class_names)


if __name__ == "__main__":
    sys.exit(main())
