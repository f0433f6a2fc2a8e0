"""Tiny datasets to test with: arrays, IDX bytes and folders, .npy members, records."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

from tasks.records import DatasetRef
from tasks.sources.catalogue import IDX_FILES
from tasks.store import Store

Arrays = dict[str, np.ndarray]


def tiny_arrays(
    train: int = 30, test: int = 12, classes: int = 3, size: tuple[int, int] = (4, 5)
) -> Arrays:
    """A dataset that is easy to learn: class c has row c all ink; (image, row, column) uint8.

    The last pixel of each image is its number, so that no two of up to 255 images are equal.
    """
    arrays: Arrays = {}
    for split, count in (("train", train), ("test", test)):
        labels = (np.arange(count) % classes).astype(np.uint8)
        images = np.zeros((count, *size), np.uint8)
        images[np.arange(count), labels] = 255
        images[:, -1, -1] = np.arange(count) % 255
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    return arrays


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of unsigned bytes as an IDX file."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_folder(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write the four plain IDX files of a dataset into a new folder."""
    folder.mkdir(parents=True)
    for name, stem in IDX_FILES.items():
        (folder / stem).write_bytes(idx_bytes(arrays[name]))
    return folder


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as numpy.save writes it."""
    content = BytesIO()
    np.save(content, array)
    return content.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "|u1", *, fortran_order: bool = False) -> bytes:
    """The header of an .npy file, whatever it claims."""
    content = BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": descr, "fortran_order": fortran_order, "shape": shape}
    )
    return content.getvalue()


def store_dataset(arrays: Mapping[str, np.ndarray], store: Store) -> DatasetRef:
    """Put four arrays into the store and describe them as `load` would."""
    _, height, width = arrays["x_train"].shape
    return DatasetRef(
        name="tiny",
        height=height,
        width=width,
        classes=1 + int(max(arrays["y_train"].max(), arrays["y_test"].max())),
        **{name: store.put_array(array) for name, array in arrays.items()},
    )
