"""Measures the reading of what people bring, in a process of its own; `bench.py` starts it.

    sources.py write FOLDER IMAGES    writes so many of MNIST's images as PNGs in class folders, and
                                      as a table like Kaggle's
    sources.py times FOLDER ROUNDS    seconds of reading both, ours and the reference
    sources.py read PLACE             reads a dataset: for its memory to be measured

Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tasks.sources.catalogue import EMBEDDED_MNIST, find_dataset, open_dataset
from tasks.sources.decoding import THREADS
from tasks.sources.stream import OpenedDataset


def write(folder: Path, images: int) -> None:
    """Training images and test images in one: as many of the 70,000."""
    with np.load(EMBEDDED_MNIST) as mnist:
        pixels = np.concatenate([mnist["x_train"], mnist["x_test"]])[:images]
        labels = np.concatenate([mnist["y_train"], mnist["y_test"]])[:images]
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        of_class = folder / "pictures" / str(label)
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(of_class / f"{number:05d}.png")
    table = pd.DataFrame(pixels.reshape(len(pixels), -1)).add_prefix("pixel")
    table.insert(0, "label", labels)
    table.to_csv(folder / "train.csv", index=False)


def read(opened: OpenedDataset) -> int:
    """Every image and label, by pieces; how many pieces."""
    return sum(1 for stream in opened.streams.values() for _ in stream.rows())


def decode_with_pillow(paths: list[Path], count: int) -> np.ndarray:
    """The reference for pictures, on so many threads."""
    pixels = np.empty((len(paths), 28, 28), np.uint8)

    def decode(number: int) -> None:
        pixels[number] = np.asarray(Image.open(paths[number]))

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(decode, range(len(paths))))
    return pixels


def times(folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of each way of reading, taken in turn."""
    pictures, table = (
        find_dataset(str(place), folder / "downloads")
        for place in (folder / "pictures", folder / "train.csv")
    )
    paths = [file.path for file in pictures.files]
    ways: dict[str, Callable[[], Any]] = {
        "Pillow, 1 thread": lambda: decode_with_pillow(paths, 1),
        f"Pillow, {THREADS} threads": lambda: decode_with_pillow(paths, THREADS),
        "pictures": lambda: read(open_dataset(pictures)),
        "pandas": lambda: pd.read_csv(table.files[0].path),
        "table": lambda: read(open_dataset(table)),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, reading in ways.items():
            started = time.perf_counter()
            reading()
            seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    # Pictures as small as these are decoded faster by one thread.
    return {**medians, "Pillow": min(medians[way] for way in ways if "thread" in way)}


def read_place(place: Path) -> int:
    """Whatever is recognised there."""
    return read(open_dataset(find_dataset(str(place), place.parent / "downloads")))


def main() -> None:
    """As the arguments say."""
    what, place, *number = sys.argv[1:]
    answers: dict[str, Callable[..., Any]] = {"write": write, "times": times, "read": read_place}
    print(json.dumps(answers[what](Path(place), *map(int, number))))


if __name__ == "__main__":
    main()
