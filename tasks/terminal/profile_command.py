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
from tasks.terminal.streams import on_any_streams


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
        profile = _profile(options.dataset)
        text = profile.model_dump_json(indent=1) + "\n"
        write_atomically(options.output, text.encode(), option="OUTPUT")
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {profile.images} images, {len(profile.classes)} classes")
    return 0


def _profile(dataset: str) -> Profile:
    from tasks.validation.measure import measure, profile_of

    source = find_dataset(dataset, downloads=RunSettings().cache_root / "downloads")
    streams = open_dataset(source)
    images, labels = streams["x_train"], streams["y_train"]
    known = np.concatenate(list(labels.rows()))
    classes = np.unique(known)
    fits = images.dtype == np.uint8 and images.shape[:-2] == known.shape == (known.size,)
    if not fits or classes.tolist() != list(range(len(classes))):
        raise ProfileError(
            "A profile is made of images (image, row, column) uint8, and a label 0, 1, 2 … each.",
            received=f"images {images.shape} {images.dtype}, labels {labels.shape} {labels.dtype}",
            where=dataset,
            advice="Run the pipeline on it first: validation says what is wrong.",
        )
    pixels = np.concatenate(list(images.rows()))
    return profile_of(source.name, measure(pixels, known.astype(np.uint8)))


if __name__ == "__main__":
    sys.exit(main())
