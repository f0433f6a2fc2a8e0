"""A dataset that is rewritten while it is read: what was digested is read, or nothing.

Each file is rewritten with its size and its time as they were, which nothing but its content tells.
"""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import Arrays, idx_bytes, npy_bytes, tiny_arrays
from PIL import Image

from tasks.errors import DatasetError
from tasks.sources import digests, verified
from tasks.sources.catalogue import find_dataset, open_dataset
from tasks.sources.digests import MANY
from tasks.sources.idx import IDX_FILES
from tasks.sources.stream import Stream

CHANGED = "A dataset must not change while it is read."
ARRAYS = tiny_arrays()
# Of the same values, in another order: whatever the format, of the same size.
OTHERS = {
    name: np.ascontiguousarray(array[:, ::-1, ::-1]) if name[0] == "x" else (array + 1) % 3
    for name, array in ARRAYS.items()
}


def idx(folder: Path, arrays: Arrays) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / stem).write_bytes(idx_bytes(arrays[name]))
    return folder


def idx_gz(folder: Path, arrays: Arrays) -> Path:
    for name, stem in IDX_FILES.items():
        content = gzip.compress(idx_bytes(arrays[name]), compresslevel=0, mtime=0)
        (folder / f"{stem}.gz").write_bytes(content)
    return folder


def emnist(folder: Path, arrays: Arrays) -> Path:
    for name, stem in IDX_FILES.items():
        (folder / f"emnist-{stem}").write_bytes(idx_bytes(arrays[name]))
    codes = ["65", "66", "67"] if arrays is ARRAYS else ["67", "66", "65"]
    lines = [f"{label} {code}\n" for label, code in enumerate(codes)]
    (folder / "emnist-mapping.txt").write_text("".join(lines))
    return folder


def zip_of_idx(folder: Path, arrays: Arrays) -> Path:
    with zipfile.ZipFile(folder / "digits.zip", "w") as archive:
        for name, stem in IDX_FILES.items():
            archive.writestr(zipfile.ZipInfo(stem), idx_bytes(arrays[name]))
    return folder / "digits.zip"


def npz(folder: Path, arrays: Arrays) -> Path:
    np.savez(folder / "digits.npz", **arrays)
    return folder / "digits.npz"


def npz_deflated(folder: Path, arrays: Arrays) -> Path:
    with zipfile.ZipFile(folder / "digits.npz", "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            archive.writestr(member, npy_bytes(array), zipfile.ZIP_DEFLATED, compresslevel=0)
    return folder / "digits.npz"


def npz_fortran(folder: Path, arrays: Arrays) -> Path:
    return npz(folder, {name: np.asfortranarray(array) for name, array in arrays.items()})


def kmnist(folder: Path, arrays: Arrays) -> Path:
    for split in ("train", "test"):
        np.savez(folder / f"{split}-imgs.npz", arrays[f"x_{split}"])
        np.savez(folder / f"{split}-labels.npz", arrays[f"y_{split}"])
    return folder


def png(image: np.ndarray) -> bytes:
    content = BytesIO()
    Image.fromarray(image).save(content, "PNG", compress_level=0)
    return content.getvalue()


def pictures(folder: Path, arrays: Arrays) -> Path:
    for split in ("train", "test"):
        # Their classes are their folders: only the images differ.
        images = zip(arrays[f"x_{split}"], ARRAYS[f"y_{split}"], strict=True)
        for number, (image, label) in enumerate(images):
            path = folder / split / str(label) / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))
    return folder


def table(folder: Path, arrays: Arrays) -> Path:
    for split in ("train", "test"):
        rows = zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)
        header = ["label", *(f"{row}x{column}" for row in range(4) for column in range(5))]
        lines = [header, *([label, *image.ravel()] for image, label in rows)]
        text = "".join(",".join(map(str, line)) + "\n" for line in lines)
        (folder / f"{split}.csv").write_text(text)
    return folder


def table_gz(folder: Path, arrays: Arrays) -> Path:
    for path in table(folder, arrays).iterdir():
        content = gzip.compress(path.read_bytes(), compresslevel=0, mtime=0)
        path.with_name(f"{path.name}.gz").write_bytes(content)
        path.unlink()
    return folder


def parquet(folder: Path, arrays: Arrays) -> Path:
    for split in ("train", "test"):
        images = pa.array([png(image) for image in arrays[f"x_{split}"]], pa.binary())
        labels = pa.array(arrays[f"y_{split}"].tolist(), pa.int64())
        shard = folder / f"{split}-00000-of-00001.parquet"
        plain = {"compression": "NONE", "use_dictionary": False, "write_statistics": False}
        pq.write_table(pa.table({"image": images, "label": labels}), shard, **plain)
    return folder


FORMATS = [idx, idx_gz, emnist, zip_of_idx, npz, npz_deflated, npz_fortran, kmnist]
FORMATS += [pictures, table, table_gz, parquet]
MOMENTS = ("before it is opened", "once it is open", "between two pieces")


@pytest.fixture(params=[64, verified.BLOCK_BYTES], ids=["of many blocks", "of one block"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "BLOCK_BYTES", request.param)


def rewrite(path: Path, content: bytes) -> None:
    """Write other bytes of the same size, in place, and set the time back."""
    before = path.stat()
    assert len(content) == before.st_size
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def in_pieces(streams: dict[str, Stream], rewriting: Iterator[None]) -> Arrays:
    """All arrays; of each the first piece is read before the next step of the rewriting."""
    arrays = {}
    for name, stream in streams.items():
        rows = stream.rows()
        pieces = [next(rows).copy()]
        next(rewriting, None)
        arrays[name] = np.concatenate([*pieces, *rows])
    return arrays


def outcome(place: Path, path: Path, content: bytes, moment: str) -> Arrays | str:
    """The arrays, or the refusal, when a file is rewritten at a moment after it was digested."""
    source = find_dataset(str(place), place.parent)

    def rewriting() -> Iterator[None]:
        for now in MOMENTS:
            if now == moment:
                rewrite(path, content)
            yield

    steps = rewriting()
    try:
        next(steps)
        opened = open_dataset(source)
        next(steps)
        arrays = in_pieces(dict(opened.streams), steps)
    except DatasetError as refusal:
        return str(refusal)
    return arrays | {"names": np.array(list((opened.names or {}).values()))}


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("build", FORMATS)
def test_what_was_digested_is_read_or_nothing(
    build: Callable[[Path, Arrays], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("stream", "tables", "decoding"):  # so that images come in several pieces
        for chunk in ("FIRST_BYTES", "CHUNK_BYTES", "TEXT_BYTES"):
            monkeypatch.setattr(f"tasks.sources.{module}.{chunk}", 100, raising=False)
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    place = build(here, ARRAYS)
    build(there, OTHERS)
    files = [file.path for file in find_dataset(str(place), tmp_path).files]
    whole = outcome(place, files[0], files[0].read_bytes(), MOMENTS[0])
    assert isinstance(whole, dict)
    for path in files[:1] + files[-4:]:
        first, other = path.read_bytes(), (there / path.relative_to(here)).read_bytes()
        assert first != other
        for moment in MOMENTS:
            result = outcome(place, path, other, moment)
            rewrite(path, first)
            if isinstance(result, str):
                assert CHANGED in result
                assert f"(in {path})" in result
                continue
            assert moment != MOMENTS[0]
            assert whole.keys() == result.keys()
            for name in whole:
                np.testing.assert_array_equal(whole[name], result[name])


@pytest.mark.usefixtures("_blocks")
def test_file_that_grows_is_read_as_it_was(tmp_path: Path) -> None:
    place = npz(tmp_path, ARRAYS)
    source = find_dataset(str(place), tmp_path)
    with place.open("ab") as file:
        file.write(b"more")
    streams = open_dataset(source).streams
    for name in ARRAYS:
        np.testing.assert_array_equal(ARRAYS[name], np.concatenate(list(streams[name].rows())))


@pytest.mark.usefixtures("_blocks")
def test_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    place = npz(tmp_path, ARRAYS)
    source = find_dataset(str(place), tmp_path)
    place.write_bytes(place.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=CHANGED):
        open_dataset(source)


def test_digests_that_turn_out_wrong_are_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that does not tell when a file was changed: the next run is right."""
    monkeypatch.setattr(digests, "MOMENT_NS", -3_600_000_000_000)  # what was just written counts
    monkeypatch.setattr(digests, "_marks", lambda status: str(status.st_size))
    arrays = tiny_arrays(train=MANY)
    monkeypatch.setitem(ARRAYS, "y_train", arrays["y_train"])
    place = pictures(tmp_path / "pictures", arrays)
    downloads = tmp_path / "cache" / "downloads"
    find_dataset(str(place), downloads)
    path = place / "train" / "0" / "00.png"
    rewrite(path, png(arrays["x_train"][3]))

    with pytest.raises(DatasetError, match=CHANGED):
        open_dataset(find_dataset(str(place), downloads))
    first = next(open_dataset(find_dataset(str(place), downloads)).streams["x_train"].rows())[0]
    np.testing.assert_array_equal(arrays["x_train"][3], first)
