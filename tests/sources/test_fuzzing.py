"""Whatever bytes a file has: it is refused with a typed error, or read right, in bounded memory.

Examples are the same in each run. For other ones, and more: FUZZ_EXAMPLES=5000 make test ARGS=….
"""

from __future__ import annotations

import gzip
import io
import math
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Arrays, idx_bytes, npy_bytes, npy_header, tiny_arrays
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from tasks.errors import DatasetError
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.idx import IDX_FILES
from tasks.sources.labels import read_labels
from tasks.sources.pixels import read_images

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
fuzzed = settings(
    max_examples=EXAMPLES or 25,  # of each format
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HEADROOM_BYTES = 1 << 30  # of addresses; decoding threads reserve some
MOST_BYTES = 16 << 20

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:PIL",  # of what it repairs
    # Not the strategies: Prefect's threads draw for their pauses, once this process has run flows.
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning",
)


# --- a valid file of each format -------------------------------------------------------------


def idx(folder: Path) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / stem).write_bytes(idx_bytes(tiny_arrays()[name]))
    return folder


def idx_gz(folder: Path) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(tiny_arrays()[name])))
    return folder


def emnist(folder: Path) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / f"emnist-{stem}").write_bytes(idx_bytes(tiny_arrays()[name]))
    (folder / "emnist-mapping.txt").write_text("0 65\n1 66\n2 67\n")
    return folder


def qmnist(folder: Path) -> Path:
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = (tiny_arrays()[f"{axis}_{split}"] for axis in "xy")
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        rows = np.repeat(labels[:, np.newaxis], 8, axis=1)
        content = bytearray(idx_bytes(rows)[:12] + rows.astype(">i4").tobytes())
        content[2] = 0x0C
        (folder / f"{name}-labels-idx2-int").write_bytes(content)
    return folder


def zip_of_idx(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "digits.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, stem in IDX_FILES.items():
            archive.writestr(f"raw/{stem}.gz", gzip.compress(idx_bytes(tiny_arrays()[name])))
    return folder / "digits.zip"


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "digits.npz", **tiny_arrays())
    return folder / "digits.npz"


def npz_of_others(folder: Path) -> Path:
    """Not compressed, so that damage reaches the headers and values; checksums left to zipfile."""
    arrays = tiny_arrays()
    for name in ("x_train", "x_test"):
        arrays[name] = np.asfortranarray(arrays[name] / 255)[..., np.newaxis]
    text = {name: arrays[name].astype("<U2") for name in ("y_train", "y_test")}
    np.savez(folder / "digits.npz", **arrays | text)
    return folder / "digits.npz"


def kmnist(folder: Path) -> Path:
    for split in ("train", "test"):
        np.savez(folder / f"{split}-imgs.npz", tiny_arrays()[f"x_{split}"])
        np.savez(folder / f"{split}-labels.npz", tiny_arrays()[f"y_{split}"])
    return folder


def csv(folder: Path, arrays: Arrays | None = None) -> Path:
    arrays = arrays or tiny_arrays(train=4, test=2, size=(3, 4))
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        rows, columns = images.shape[1:]
        table = pd.DataFrame(
            images.reshape(len(images), -1),
            columns=[f"{r}x{c}" for r in range(1, rows + 1) for c in range(1, columns + 1)],
        )
        table.insert(0, "label", labels)
        table.to_csv(folder / f"{split}.csv", index=False)
    return folder


def csv_gz(folder: Path) -> Path:
    for path in list(csv(folder).iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return folder


def pictures(ending: str, mode: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        noise = np.random.default_rng(0).integers(0, 256, (2, 9, 8), np.uint8)
        for label, pixels in enumerate(noise):
            (folder / str(label)).mkdir()
            picture = Image.fromarray(pixels).convert(mode)
            picture.save(folder / str(label) / f"0.{ending}")
        return folder

    write.__name__ = f"{mode} {ending}"
    return write


def parquet(compression: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        encoded = [encoded_as_png(image) for image in tiny_arrays()["x_train"][:6]]
        table = pa.table({"image": [{"bytes": one} for one in encoded], "label": [0, 1, 2] * 2})
        pq.write_table(table, folder / "train.parquet", compression=compression)
        return folder / "train.parquet"

    write.__name__ = f"parquet {compression}"
    return write


def encoded_as_png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def pickled(folder: Path) -> Path:
    """Refused as it is."""
    (folder / "digits").write_bytes(gzip.compress(pickle.dumps({"x": np.zeros(3)})))
    return folder / "digits"


def torch(folder: Path) -> Path:
    """Refused as it is."""
    with zipfile.ZipFile(folder / "digits", "w") as archive:
        archive.writestr("training/data.pkl", pickle.dumps({"x": np.zeros(3)}))
    return folder / "digits"


MULTI = [idx, idx_gz, emnist, qmnist, zip_of_idx, npz, npz_of_others, kmnist, csv, csv_gz]
PICTURES = [("png", "L"), ("png", "P"), ("png", "RGBA"), ("jpg", "L"), ("gif", "L"), ("bmp", "RGB")]
FORMATS = [
    *MULTI,
    *(pictures(*kind) for kind in PICTURES),
    *map(parquet, ("none", "zstd")),
    *(pickled, torch),
]
REFUSED = (pickled, torch)


# --- reading ---------------------------------------------------------------------------------


def read(place: Path) -> Arrays:
    """All that `load` does, but the storing; what it relies on is asserted."""
    opened = open_dataset(find_dataset(str(place), place.parent))
    x, y = ({n: s for n, s in opened.streams.items() if n[0] == axis} for axis in "xy")
    labels, names = read_labels(y, opened.names, str)
    arrays: Arrays = dict(labels)
    for name, stream in read_images(x, str, str).items():
        arrays[name] = np.concatenate(list(stream.rows()))
        assert (np.uint8, stream.shape) == (arrays[name].dtype, arrays[name].shape)
        assert arrays[name].ndim == 3 or arrays[name].shape[3:] == (3,)
    for name, stream in y.items():
        assert (np.uint8, stream.shape[:1]) == (labels[name].dtype, labels[name].shape)
        assert labels[name].max() < len(names)
    return arrays


def outcome(place: Path) -> str:
    """Refused, or read. A refusal says where; its reason must not be that memory is used up."""
    try:
        read(place)
    except DatasetError as error:
        names = {place.name, *(path.name for path in place.rglob("*"))}
        if isinstance(error.__cause__, MemoryError) or not any(
            name in str(error) for name in names
        ):
            raise AssertionError(error) from error
        return "refused"
    else:
        return "read"


@contextmanager
def little_memory() -> Iterator[None]:
    """Whatever asks for a gigabyte, even without using it, gets a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


# --- damage ----------------------------------------------------------------------------------


ODD = [b"\xff" * 4, b"\0" * 8, *map(bytes, zip(b',;\t"\r\n .-+eE0179x#\xef'))]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes changed, lost, repeated or put in; or the rest cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 8))):
        most = len(content)
        start = draw(
            st.integers(0, most) | st.integers(0, 63) | st.integers(max(0, most - 99), most)
        )
        place = slice(start, start + draw(st.sampled_from([1, 2, 4, 64])))
        other = draw(st.binary(min_size=1, max_size=4) | st.sampled_from(ODD))
        same = content[place]
        content[place] = draw(st.sampled_from([other, b"", same * 2, other + same]))
    if draw(st.integers(0, 9)) == 0:
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


@dataclass(frozen=True)
class Whole:
    """A dataset, what its files hold, and what became of it when they were damaged."""

    place: Path
    files: dict[Path, bytes]
    outcomes: set[str] = field(default_factory=set)


@pytest.fixture
def whole(tmp_path: Path, make: Callable[[Path], Path]) -> Iterator[Whole]:
    folder = tmp_path / "whole"
    folder.mkdir()
    place = make(folder)
    assert outcome(place) == ("refused" if make in REFUSED else "read")
    found = Whole(place, {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()})
    with little_memory():
        yield found
    assert "refused" in found.outcomes, "no damage was found"


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
@fuzzed
@given(data=st.data())
def test_damaged_files_are_refused_or_read(whole: Whole, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(whole.files)))
    path.write_bytes(data.draw(damaged(whole.files[path])))
    try:
        found = outcome(whole.place)
    finally:
        path.write_bytes(whole.files[path])
    whole.outcomes.add(found)
    event(found)


@pytest.mark.parametrize("name", ["x_train", "y_train"])
@fuzzed
@given(data=st.data())
def test_damaged_arrays_in_a_whole_archive_are_refused_or_read(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """Checksums agree: what the header says is all that can be wrong."""
    arrays = {key: npy_bytes(array) for key, array in tiny_arrays().items()}
    arrays[name] = data.draw(damaged(arrays[name]))
    with little_memory():
        event(outcome(npz_of(tmp_path, arrays)))


def npz_of(folder: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "digits.npz", "w") as archive:
        for key, content in members.items():
            archive.writestr(f"{key}.npy", content)
    return folder / "digits.npz"


# --- headers that promise too much -----------------------------------------------------------

SIZES = st.sampled_from([0, 1, 2, 28, 2**20, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
SHAPES = st.lists(SIZES, min_size=1, max_size=4).map(tuple)


@contextmanager
def bounded() -> Iterator[None]:
    tracemalloc.start()
    try:
        with little_memory():
            yield
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < MOST_BYTES


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@fuzzed
@given(shape=st.tuples(SIZES, SIZES, SIZES), body=st.binary(max_size=64))
def test_idx_of_any_declared_size_is_refused_or_read(
    tmp_path: Path, shape: tuple[int, int, int], body: bytes, *, zipped: bool
) -> None:
    content = struct.pack(">4B3I", 0, 0, 8, 3, *shape) + body
    folder = tmp_path / "digits"
    folder.mkdir(exist_ok=True)
    idx(folder)
    (folder / IDX_FILES["x_train"]).write_bytes(gzip.compress(content) if zipped else content)

    with bounded():
        found = outcome(folder)

    assert ("read" if 0 < math.prod(shape) == len(body) else "refused") == found


@fuzzed
@given(shape=SHAPES, fortran_order=st.booleans(), descr=st.sampled_from(["|u1", "<f8", "<U9"]))
def test_npy_of_any_declared_size_is_refused_or_read(
    tmp_path: Path, shape: tuple[int, ...], descr: str, *, fortran_order: bool
) -> None:
    members = {key: npy_bytes(array) for key, array in tiny_arrays().items()}
    members["x_train"] = npy_header(shape, descr, fortran_order=fortran_order) + bytes(64)

    with bounded():
        event(outcome(npz_of(tmp_path, members)))


PNG_SIZE = slice(16, 24)


@fuzzed
@given(rows=SIZES, columns=SIZES)
def test_png_of_any_declared_size_is_refused_or_read(
    tmp_path: Path, rows: int, columns: int
) -> None:
    """Pixels that it does not have are not allocated for it, even though its checksums agree."""
    content = bytearray(encoded_as_png(np.zeros((9, 8), np.uint8)))
    content[PNG_SIZE] = struct.pack(">II", columns, rows)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "0").mkdir(exist_ok=True)
    (tmp_path / "0" / "0.png").write_bytes(content)

    with little_memory():
        event(outcome(tmp_path))


# --- what is sound is read as it is ----------------------------------------------------------


@st.composite
def datasets(draw: st.DrawFn) -> Arrays:
    """Images of any size and values, beyond 0 and 1, with labels 0 … k - 1 that all occur."""
    size = draw(st.tuples(st.integers(1, 6), st.integers(2, 6)))
    arrays: Arrays = {}
    for split in ("train", "test"):
        count = draw(st.integers(2, 5))
        images = draw(st_numpy.arrays(np.uint8, (count, *size)))
        images[0, 0, :2] = 0, draw(st.integers(2, 255))
        arrays |= {f"x_{split}": images, f"y_{split}": (np.arange(count) % 2).astype(np.uint8)}
    return arrays


def as_idx(folder: Path, arrays: Arrays) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / stem).write_bytes(idx_bytes(arrays[name]))
    return folder


def as_npz(folder: Path, arrays: Arrays) -> Path:
    np.savez(folder / "digits.npz", **arrays)
    return folder / "digits.npz"


def as_pictures(folder: Path, arrays: Arrays) -> Path:
    for split in ("train", "test"):
        for number, image in enumerate(arrays[f"x_{split}"]):
            of_class = folder / split / str(arrays[f"y_{split}"][number])
            of_class.mkdir(parents=True, exist_ok=True)
            (of_class / f"{number}.png").write_bytes(encoded_as_png(image))
    return folder


def as_parquet(folder: Path, arrays: Arrays) -> Path:
    for split in ("train", "test"):
        images = [{"bytes": encoded_as_png(image)} for image in arrays[f"x_{split}"]]
        table = pa.table({"image": images, "label": arrays[f"y_{split}"]})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def in_order(arrays: Arrays) -> list[list[bytes]]:
    """Of each split the images of each class: folders have another order than files."""
    return [
        [
            image.tobytes()
            for label in (0, 1)
            for image in arrays[f"x_{split}"][arrays[f"y_{split}"] == label]
        ]
        for split in ("train", "test")
    ]


@pytest.mark.parametrize("write", [as_idx, as_npz, csv, as_pictures, as_parquet])
@fuzzed
@given(arrays=datasets())
def test_sound_files_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    write: Callable[[Path, Arrays], Path],
    arrays: Arrays,
) -> None:
    found = read(write(tmp_path_factory.mktemp("sound"), arrays))

    assert in_order(arrays) == in_order(found)
    assert {name: array.shape for name, array in arrays.items()} == {
        name: found[name].shape for name in arrays
    }


WHOLE_DTYPES = st_numpy.integer_dtypes() | st_numpy.unsigned_integer_dtypes()


@fuzzed
@given(arrays=datasets(), pixels=WHOLE_DTYPES, labels=WHOLE_DTYPES, order=st.sampled_from("CF"))
def test_whole_numbers_of_any_dtype_are_read_as_they_are(
    tmp_path: Path, arrays: Arrays, pixels: np.dtype, labels: np.dtype, order: str
) -> None:
    """As far as they fit."""
    most = min(255, np.iinfo(pixels).max)
    arrays = {k: np.minimum(v, most) if k[0] == "x" else v for k, v in arrays.items()}
    stored = {k: v.astype(pixels if k[0] == "x" else labels, order) for k, v in arrays.items()}

    found = read(as_npz(tmp_path, stored))

    assert {k: v.tolist() for k, v in arrays.items()} == {k: v.tolist() for k, v in found.items()}


@fuzzed
@given(text=st.text("0123456789.-+e _x", min_size=1, max_size=4))
def test_every_written_form_of_a_pixel_is_read_as_pandas_does_or_refused(
    tmp_path: Path, text: str
) -> None:
    """An independent parser agrees on what is accepted."""
    path = tmp_path / "train.csv"
    path.write_text(f"7,0,{text},5,9\n")

    try:
        pixel = read(path)["x_train"][0, 0, 1]
    except DatasetError:
        event("refused")
        return

    assert [pixel] == pd.read_csv(path, header=None)[2].tolist()
