"""The store: files named by their content, complete or not there at all."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import FullDisk, npy_bytes, npy_header

from tasks.cache.blobs import NewFile, Store, sha256_of_file, write_atomically
from tasks.errors import PayloadError, StoreError
from tasks.records import ArrayRef

HUGE = 2**40
ROWS = np.arange(6, dtype=np.uint8).reshape(3, 2)


def files_in(store: Store) -> list[str]:
    return sorted(path.name for path in store.blobs.iterdir())


@pytest.mark.parametrize("dtype", ["|u1", "<f2", "<f4", "<f8", ">f4", "<i8"])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 5)])
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_array_written_in_pieces_is_what_numpy_saves(
    store: Store, dtype: str, shape: tuple[int, ...], chunk: int
) -> None:
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)

    pieces = (array[start : start + chunk] for start in range(0, len(array), chunk))
    ref = store.put_rows(array.dtype, shape, pieces)

    assert npy_bytes(array) == store.path(ref).read_bytes()


def test_array_in_another_memory_order_is_stored_row_by_row(store: Store) -> None:
    ref = store.put_array(np.asfortranarray(ROWS))

    assert npy_bytes(ROWS) == store.path(ref).read_bytes()


def test_record_says_what_the_file_is(store: Store) -> None:
    content = npy_bytes(ROWS)

    expected = ArrayRef(
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        dtype="uint8",
        shape=(3, 2),
    )

    assert expected == store.put_array(ROWS)


def test_file_is_named_by_the_digest_of_its_bytes(store: Store) -> None:
    path = store.path(store.put_array(ROWS))

    assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}.npy" == path.name


def test_equal_arrays_share_a_file(store: Store) -> None:
    refs = [store.put_array(ROWS), store.put_array(ROWS.copy())]

    assert refs[0] == refs[1]
    assert [store.path(refs[0]).name] == files_in(store)


def test_stored_array_comes_back_with_its_values_and_dtype(store: Store) -> None:
    array = np.array([[0.5, -1.25], [3.0, 1e-8]], np.float32)

    np.testing.assert_array_equal(array, store.open_array(store.put_array(array)), strict=True)


def test_stored_array_is_opened_as_a_read_only_memory_map(store: Store) -> None:
    array = store.open_array(store.put_array(ROWS))

    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


def test_failure_while_writing_leaves_no_file(store: Store) -> None:
    def half() -> Iterator[np.ndarray]:
        yield ROWS[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put_rows(np.uint8, (3, 2), half())

    assert files_in(store) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.astype(np.int64), r"Rows must be uint8 \(2,\)\. Received: int64 \(2,\)\."),
        (ROWS[:, :1], r"Rows must be uint8 \(2,\)\. Received: uint8 \(1,\)\."),
        (ROWS[:2], r"Expected 3 rows\. Received: 2\."),
        (np.vstack([ROWS, ROWS]), r"Expected 3 rows\. Received: 6\."),
    ],
    ids=["dtype", "row shape", "too few", "too many"],
)
def test_rows_that_do_not_fit_are_refused_and_not_stored(
    store: Store, rows: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.put_rows(np.uint8, (3, 2), [rows])

    assert files_in(store) == []


def test_missing_file_is_reported_with_the_way_out(store: Store) -> None:
    ref = store.put_array(ROWS)
    path = store.path(ref)
    path.unlink()

    with pytest.raises(PayloadError) as caught:
        store.open_array(ref)

    assert f"Received: no such file (in {path})." in str(caught.value)
    assert str(caught.value).endswith("Run again with --refresh to compute it again.")


def test_truncated_file_is_reported(store: Store) -> None:
    ref = store.put_array(ROWS)
    os.truncate(store.path(ref), 100)

    with pytest.raises(PayloadError, match=r"Received: 100 bytes, not 134 \(in "):
        store.open_array(ref)


def test_store_holds_only_complete_files(store: Store) -> None:
    refs = [store.put_array(ROWS + n) for n in range(3)]
    store.path(refs[1]).unlink()
    os.truncate(store.path(refs[2]), 100)

    assert [store.holds(ref) for ref in refs] == [True, False, False]


def test_copy_of_a_file_is_stored_under_its_digest(store: Store, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one piece of the copy
    (tmp_path / "model.keras").write_bytes(content)

    ref = store.put_file(tmp_path / "model.keras", ".keras")

    assert f"{hashlib.sha256(content).hexdigest()}.keras" == store.path(ref).name
    assert content == store.require(ref).read_bytes()


def test_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    """The example of FIPS 180-2, appendix B.1."""
    (tmp_path / "file").write_bytes(b"abc")

    digest = sha256_of_file(tmp_path / "file")

    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_folders_are_private_to_their_user(tmp_path: Path) -> None:
    store = Store(root=tmp_path / "parent" / "cache")
    umask = os.umask(0)
    try:
        store.prepare()
    finally:
        os.umask(umask)

    modes = [
        stat.S_IMODE(folder.stat().st_mode)
        for folder in (store.root, store.blobs, store.root / "results")
    ]
    assert modes == [0o700] * 3


def test_stored_files_are_private_to_their_user(store: Store) -> None:
    assert stat.S_IMODE(store.path(store.put_array(ROWS)).stat().st_mode) == 0o600


def test_preparing_again_keeps_what_is_stored(store: Store) -> None:
    ref = store.put_array(ROWS)

    store.prepare()

    assert store.holds(ref)


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")
    with path.open("rb") as opened_before:
        write_atomically(path, b"new")

        assert opened_before.read() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["cache", "cache/blobs"])
def test_file_in_place_of_a_folder_is_reported(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()

    with pytest.raises(StoreError) as caught:
        Store(root=tmp_path / "cache").prepare()

    assert str(caught.value).startswith(
        "The folders for the cache and the models must be writable. Received: File exists (in "
    )
    assert str(tmp_path / place) in str(caught.value)


def test_folder_that_cannot_be_written_to_is_reported(store: Store) -> None:
    """As root every folder can be written to, so a file stands in its place."""
    store.blobs.rmdir()
    store.blobs.touch()

    with pytest.raises(StoreError, match=rf"Not a directory \(in {store.blobs}\)"):
        store.put_array(ROWS)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fdopen(handle: int, mode: str) -> io.BufferedWriter:
        return io.BufferedWriter(FullDisk(handle, mode))

    monkeypatch.setattr("tasks.cache.blobs.os.fdopen", fdopen)


@pytest.mark.parametrize(
    "array",
    [ROWS, np.zeros(1 << 20, np.uint8)],
    ids=["when the last buffer is flushed", "while writing"],
)
def test_full_disk_is_reported_and_spoils_nothing(
    store: Store, request: pytest.FixtureRequest, array: np.ndarray
) -> None:
    before = store.put_array(ROWS + 1)
    request.getfixturevalue("full_disk")

    with pytest.raises(StoreError, match=r"No space left on device \(in .*--cache-dir"):
        store.put_array(array)

    assert [store.path(before).name] == files_in(store)
    np.testing.assert_array_equal(ROWS + 1, store.open_array(before))


def test_full_disk_keeps_the_old_content(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")
    request.getfixturevalue("full_disk")

    with pytest.raises(StoreError):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_not_altered(store: Store) -> None:
    ref = store.put_array(ROWS)
    store.path(ref).unlink()
    store.set_aside(ref)

    assert not store.is_altered(ref)


def test_file_knows_the_digest_and_size_of_what_was_written(store: Store) -> None:
    with NewFile(store.blobs) as file:
        for part in (b"a", b"bc"):
            file.write(part)

        assert (hashlib.sha256(b"abc").hexdigest(), 3) == (file.sha256, file.size_bytes)


def test_published_file_has_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    write_atomically(tmp_path / "private", b"")
    with NewFile(tmp_path) as file:
        file.publish(tmp_path / "public", mode=0o644)

    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("private", "public")]
    assert modes == [0o600, 0o644]


def stored(store: Store, content: bytes, shape: tuple[int, ...], dtype: str) -> ArrayRef:
    """A stored file with the right digest, named as an array."""
    blob = store.put_bytes(content, ".npy")
    return ArrayRef(**blob.model_dump(), shape=shape, dtype=dtype)


@pytest.mark.parametrize(
    ("content", "shape", "dtype"),
    [
        (npy_header((HUGE,)), (HUGE,), "uint8"),
        (npy_header((HUGE, HUGE)), (HUGE, HUGE), "uint8"),
        (npy_header((2,)) + b"ab", (3,), "uint8"),
        (npy_header((2,)) + b"ab", (2,), "int8"),
        (npy_header((2,), fortran_order=True) + b"ab", (2,), "uint8"),
        (npy_header((1,), "|O") + b"a", (1,), "object"),
        (b"no array", (2,), "uint8"),
        (b"", (2,), "uint8"),
        (npy_header((2,)).replace(b"shape", b"sh(pe"), (2,), "uint8"),
        (npy_header((2,)).replace(b"{", b"("), (2,), "uint8"),
        (npy_header((2,)).replace(b"\x01\x00", b"\x02\x00", 1), (2,), "uint8"),
    ],
)
def test_array_that_is_not_what_its_record_says_is_damaged(
    store: Store, content: bytes, shape: tuple[int, ...], dtype: str
) -> None:
    with pytest.raises(PayloadError, match="must have its recorded size and SHA-256"):
        store.open_array(stored(store, content, shape, dtype))


NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
FOLDERS = ["", "blobs", "results", "latest", "checkpoints", "locks", "accounts"]


@NEEDS_ROOT
def test_stored_file_of_another_user_is_damaged(store: Store) -> None:
    ref = store.put_array(ROWS)
    os.chown(store.path(ref), 12345, -1)

    assert not store.holds(ref)
    with pytest.raises(PayloadError, match="a file of another user"):
        store.open_array(ref)


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o750, 0o701, 0o1777])
@pytest.mark.parametrize("name", FOLDERS)
def test_folder_that_is_open_to_others_is_closed_and_told(
    store: Store, name: str, mode: int
) -> None:
    folder = store.root / name
    folder.chmod(mode)

    expected = f"{folder} was open to other users ({mode:04o}), and is closed to them now"
    assert [expected] == store.prepare()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert store.prepare() == []


@NEEDS_ROOT
@pytest.mark.parametrize("name", FOLDERS)
def test_folder_of_somebody_else_is_refused(store: Store, name: str) -> None:
    os.chown(store.root / name, 12345, -1)

    with pytest.raises(StoreError, match=r"must belong to the user .*Received: user 12345, not 0"):
        store.prepare()


def test_root_that_others_can_write_to_is_refused_if_other_things_lie_in_it(store: Store) -> None:
    (store.root / "thesis.tex").touch()
    store.root.chmod(0o775)

    with pytest.raises(StoreError, match=r"Received: mode 0775 \(in .*Other things lie in it"):
        store.prepare()


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_root_that_is_shared_for_other_things_is_left_as_it_is(store: Store, mode: int) -> None:
    """Nobody can rename what lies in it, and what lies there is private."""
    (store.root / "thesis.tex").touch()
    store.root.chmod(mode)
    store.results.chmod(0o777)

    assert len(store.prepare()) == 1
    assert stat.S_IMODE(store.results.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.root.stat().st_mode) == mode


def test_file_that_has_gone_by_the_time_it_is_opened_is_damaged(store: Store) -> None:
    ref = store.put_array(ROWS)

    def open_late() -> None:
        with store.reading(ref) as path:
            path.unlink()
            path.open()

    with pytest.raises(PayloadError, match="no such file"):
        open_late()


def test_error_over_an_intact_file_is_passed_on(store: Store) -> None:
    ref = store.put_array(ROWS)

    with pytest.raises(ValueError, match="of the reader"), store.reading(ref):
        raise ValueError("of the reader")
