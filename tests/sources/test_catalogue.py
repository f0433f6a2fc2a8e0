"""Finding datasets: the embedded MNIST, downloads, folders; and noticing when they change."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builders import Arrays, idx_bytes, tiny_arrays, write_idx_folder
from strange_files import EVERY_KIND, Kind, no_hanging, replace_by

from tasks.errors import DatasetError
from tasks.records import DatasetSource
from tasks.sources import catalogue
from tasks.sources.catalogue import (
    EMBEDDED_MNIST,
    artifact_name,
    dataset_name,
    find_dataset,
    open_dataset,
)
from tasks.sources.idx import IDX_FILES


def read(source: DatasetSource) -> Arrays:
    return {
        name: np.concatenate(list(s.rows())) for name, s in open_dataset(source).streams.items()
    }


# --- the embedded MNIST --------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist() -> Arrays:
    return read(find_dataset("mnist", downloads=Path("unused")))


@pytest.mark.parametrize(
    ("name", "published_sha256"),
    [
        ("x_train", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("y_train", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("x_test", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ("y_test", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ],
)
def test_embedded_mnist_is_the_published_one(
    mnist: Arrays, name: str, published_sha256: str
) -> None:
    """Turned back into the original IDX file, each array has the digest that its notice states."""
    digest = hashlib.sha256(idx_bytes(mnist[name])).hexdigest()
    notice = EMBEDDED_MNIST.with_name("MNIST-NOTICE.md").read_text(encoding="utf-8")

    assert published_sha256 == digest
    assert f"| {IDX_FILES[name]} | {published_sha256} |" in notice


@pytest.mark.parametrize(
    ("name", "images_per_class"),
    [
        ("y_train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("y_test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    ],
)
def test_embedded_mnist_has_the_known_number_of_each_digit(
    mnist: Arrays, name: str, images_per_class: list[int]
) -> None:
    assert images_per_class == np.bincount(mnist[name]).tolist()


def test_altered_embedded_mnist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered = bytearray(EMBEDDED_MNIST.read_bytes())
    altered[1_000_000] ^= 1
    (tmp_path / "mnist.npz").write_bytes(altered)
    monkeypatch.setattr(catalogue, "EMBEDDED_MNIST", tmp_path / "mnist.npz")

    found = hashlib.sha256(altered).hexdigest()
    with pytest.raises(DatasetError, match=f"embedded MNIST must have.*Received: {found}"):
        find_dataset("mnist", downloads=tmp_path)


def test_missing_embedded_mnist_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "EMBEDDED_MNIST", tmp_path / "mnist.npz")

    with pytest.raises(
        DatasetError, match=r"must be readable\. Received: No such file.*mnist\.npz"
    ):
        find_dataset("mnist", downloads=tmp_path)


# --- folders and files ---------------------------------------------------------------------


def compress(path: Path) -> None:
    """Replace a file by its .gz."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


@pytest.mark.parametrize(
    "compressed",
    [(), ("x_train", "y_test"), ("x_train", "y_train", "x_test", "y_test")],
    ids=["plain", "mixed", "gzip"],
)
def test_folder_of_idx_files_is_read(tmp_path: Path, compressed: tuple[str, ...]) -> None:
    folder = write_idx_folder(tmp_path / "My Digits", tiny_arrays())
    for name in compressed:
        compress(folder / IDX_FILES[name])

    source = find_dataset(str(folder), downloads=tmp_path)

    assert (source.name, source.kind) == ("my-digits", "idx")
    for name, found in read(source).items():
        np.testing.assert_array_equal(tiny_arrays()[name], found)


def test_folder_in_the_home_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_idx_folder(tmp_path / "digits", tiny_arrays())

    assert find_dataset("~/digits", downloads=tmp_path).name == "digits"


@pytest.mark.parametrize("stem", IDX_FILES.values())
def test_folder_without_one_of_its_files_is_refused_by_name(tmp_path: Path, stem: str) -> None:
    folder = write_idx_folder(tmp_path / "digits", tiny_arrays())
    (folder / stem).unlink()

    source = find_dataset(str(folder), downloads=tmp_path)
    with pytest.raises(DatasetError) as caught:
        open_dataset(source)

    assert "A dataset folder holds train-images-idx3-ubyte, " in str(caught.value)
    assert f"Received: no {stem} (in {folder})." in str(caught.value)


def test_all_files_that_a_folder_lacks_are_named(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "digits", tiny_arrays())
    for name in ("x_test", "y_train"):
        (folder / IDX_FILES[name]).unlink()

    source = find_dataset(str(folder), downloads=tmp_path)
    with pytest.raises(DatasetError, match="no train-labels-idx1-ubyte, t10k-images-idx3-ubyte"):
        open_dataset(source)


def test_plain_file_is_taken_where_its_gzip_lies_beside_it(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "digits", tiny_arrays())
    images = folder / IDX_FILES["x_train"]
    images.with_name(f"{images.name}.gz").write_bytes(gzip.compress(images.read_bytes()))

    source = find_dataset(str(folder), downloads=tmp_path)

    assert [file.name for file in source.files] == list(IDX_FILES.values())


def test_file_is_read_through_a_link_of_the_right_name(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "digits", tiny_arrays())
    images = folder / IDX_FILES["x_train"]
    images.rename(tmp_path / "elsewhere.bin")
    images.symlink_to(tmp_path / "elsewhere.bin")

    found = read(find_dataset(str(folder), downloads=tmp_path))

    np.testing.assert_array_equal(tiny_arrays()["x_train"], found["x_train"])


def test_npz_file_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "Letters_v2.npz", **tiny_arrays())

    source = find_dataset(str(tmp_path / "Letters_v2.npz"), downloads=tmp_path)

    assert (source.name, source.kind) == ("letters-v2", "npz")
    for name, found in read(source).items():
        np.testing.assert_array_equal(tiny_arrays()[name], found)


def test_source_names_the_content_of_its_files_not_their_place(tmp_path: Path) -> None:
    here = write_idx_folder(tmp_path / "here" / "digits", tiny_arrays())
    there = write_idx_folder(tmp_path / "there" / "digits", tiny_arrays())
    os.utime(there / IDX_FILES["x_train"], (0, 0))

    contents = [find_dataset(str(f), downloads=tmp_path).content() for f in (here, there)]

    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("dataset", "what"),
    [
        ("mnits", ", which is not there"),
        ("no/such/folder", ", which is not there"),
        ("absent.npz", ", which is not there"),
        ("x" * 300, ": File name too long"),
    ],
)
def test_unknown_dataset_is_refused_with_the_known_names(
    tmp_path: Path, dataset: str, what: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        find_dataset(dataset, downloads=tmp_path)

    assert str(caught.value).startswith("A dataset is mnist, fashion_mnist, kmnist, a folder or ")
    assert f"Received: {dataset!r}{what} (in --dataset)." in str(caught.value)


def test_place_without_a_dataset_is_refused_with_what_is_there(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / name).touch()

    with pytest.raises(DatasetError, match=r", a folder of a, b, c, d, e and 2 more \(in"):
        find_dataset(str(tmp_path), downloads=tmp_path)
    with pytest.raises(DatasetError, match=r"/a', a file of another kind \(in"):
        find_dataset(str(tmp_path / "a"), downloads=tmp_path)


def test_place_with_two_kinds_of_datasets_is_refused_with_both(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "digits", tiny_arrays())
    np.savez(folder / "train-images.npz", tiny_arrays()["x_train"])

    both = r"a folder or zip of IDX files and also a folder of \.npz files"
    with pytest.raises(DatasetError, match=rf"must be one dataset\. Received: .*{both}"):
        find_dataset(str(folder), downloads=tmp_path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mnist", "mnist"),
        ("fashion_mnist", "fashion-mnist"),
        ("My Digits (v2)", "my-digits-v2"),
        ("--x--", "x"),
        ("Größe", "grosse"),
        ("łódź ø Æ", "lodz-o-ae"),
        ("Цифры", "tseieferyeru"),
        ("数字", "65705b57"),
        ("🙂", "dataset"),
        ("", "dataset"),
    ],
)
def test_artifact_name_is_lower_case_letters_digits_and_single_dashes(text: str, name: str) -> None:
    assert name == artifact_name(text)


# --- downloads -----------------------------------------------------------------------------


class Mirror(HTTPServer):
    """A server on this machine that offers the tiny dataset, and notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.files = {
            f"/{stem}.gz": gzip.compress(idx_bytes(tiny_arrays()[name]), mtime=0)
            for name, stem in IDX_FILES.items()
        }
        self.requests: list[str] = []
        self.failures_left = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class MirrorHandler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.failures_left:
            self.server.failures_left -= 1
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        content = self.server.files[self.path]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the test's output free of access logs."""


def publish(monkeypatch: pytest.MonkeyPatch, url: str, digests: list[str]) -> None:
    """Enter `tiny` into the catalogue, and let retries follow each other at once."""
    names = [f"{stem}.gz" for stem in IDX_FILES.values()]
    entry = {"url": url, "sha256": dict(zip(names, digests, strict=True))}
    monkeypatch.setitem(catalogue.DOWNLOADS, "tiny", entry)
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with Mirror() as server:
        digests = [hashlib.sha256(content).hexdigest() for content in server.files.values()]
        publish(monkeypatch, server.url, digests)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_named_dataset_is_downloaded_and_kept(tmp_path: Path, mirror: Mirror) -> None:
    source = find_dataset("tiny", downloads=tmp_path)

    assert (source.name, source.kind) == ("tiny", "idx")
    assert [tmp_path / "tiny" / name[1:] for name in mirror.files] == [f.path for f in source.files]
    for name, found in read(source).items():
        np.testing.assert_array_equal(tiny_arrays()[name], found)


def test_download_happens_once(tmp_path: Path, mirror: Mirror) -> None:
    first = find_dataset("tiny", downloads=tmp_path)
    second = find_dataset("tiny", downloads=tmp_path)

    assert first == second
    assert list(mirror.files) == mirror.requests


def test_each_download_is_told_and_nothing_when_all_is_here(tmp_path: Path, mirror: Mirror) -> None:
    told: list[str] = []

    find_dataset("tiny", tmp_path, told.append)
    assert told == [f"downloading {mirror.url}{path[1:]}" for path in mirror.files]

    told.clear()
    find_dataset("tiny", tmp_path, told.append)
    assert told == []


def test_spoiled_download_is_fetched_again(tmp_path: Path, mirror: Mirror) -> None:
    spoiled = find_dataset("tiny", downloads=tmp_path).files[1].path
    spoiled.write_bytes(b"spoiled")

    find_dataset("tiny", downloads=tmp_path)

    assert mirror.files[f"/{spoiled.name}"] == spoiled.read_bytes()
    assert [*mirror.files, f"/{spoiled.name}"] == mirror.requests


@EVERY_KIND
def test_something_strange_in_the_place_of_a_download_gives_way(
    tmp_path: Path, mirror: Mirror, kind: Kind
) -> None:
    place = find_dataset("tiny", downloads=tmp_path).files[1].path
    replace_by(kind, place)

    with no_hanging():
        find_dataset("tiny", downloads=tmp_path)

    assert mirror.files[f"/{place.name}"] == place.read_bytes()


def test_server_that_fails_for_a_moment_is_asked_again(tmp_path: Path, mirror: Mirror) -> None:
    mirror.failures_left = 1

    find_dataset("tiny", downloads=tmp_path)

    assert ["/train-images-idx3-ubyte.gz", *mirror.files] == mirror.requests


def test_server_that_keeps_failing_is_given_up(tmp_path: Path, mirror: Mirror) -> None:
    mirror.failures_left = 99

    with pytest.raises(DatasetError, match=r"must be downloaded once from.*HTTPError: 503"):
        find_dataset("tiny", downloads=tmp_path)

    assert mirror.requests == ["/train-images-idx3-ubyte.gz"] * 3


def test_download_with_another_digest_is_refused_and_not_kept(
    tmp_path: Path, mirror: Mirror
) -> None:
    mirror.files["/train-images-idx3-ubyte.gz"] += b"\0"

    spoiled = r"ValueError: SHA256 hash of downloaded file \(train-images-idx3-ubyte\.gz\)"
    with pytest.raises(DatasetError, match=spoiled):
        find_dataset("tiny", downloads=tmp_path)

    assert list((tmp_path / "tiny").iterdir()) == []


def test_unreachable_server_is_reported_with_the_folder_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:  # but it does not listen: connections are refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        publish(monkeypatch, url, ["0" * 64] * 4)

        with pytest.raises(DatasetError) as caught:
            find_dataset("tiny", downloads=tmp_path)

    assert f"tiny must be downloaded once from {url}." in str(caught.value)
    assert "Received: ConnectionError" in str(caught.value)
    assert str(caught.value).endswith(f"--dataset {tmp_path / 'tiny'}")


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_published_downloads_have_an_https_address_and_four_digests(name: str) -> None:
    entry = catalogue.DOWNLOADS[name]

    assert entry["url"].startswith("https://")
    assert list(entry["sha256"]) == [f"{stem}.gz" for stem in IDX_FILES.values()]
    assert [len(bytes.fromhex(digest)) for digest in entry["sha256"].values()] == [32] * 4


def test_idx_builder_writes_the_published_format() -> None:
    """The oracle for the digests above: 0x08 = unsigned byte, then sizes, then the bytes."""
    images = np.array([[[1, 2]], [[3, 4]]], np.uint8)

    assert struct.pack(">IIII4B", 0x803, 2, 1, 2, 1, 2, 3, 4) == idx_bytes(images)


def test_dataset_in_a_folder_whose_name_is_no_utf_8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff"))
    write_idx_folder(folder / "digits", tiny_arrays())
    monkeypatch.chdir(folder)
    with pytest.raises(
        DatasetError, match=r"in UTF-8, without NUL\. Received: '.*/m.udcff/digits'"
    ):
        find_dataset("digits", downloads=tmp_path)


def test_name_with_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"without NUL\. Received: '.*/m.x00'"):
        find_dataset("m\0", downloads=tmp_path)


def test_source_that_was_deleted_has_changed(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "digits", tiny_arrays())
    source = find_dataset(str(folder), downloads=tmp_path)
    (folder / IDX_FILES["x_train"]).unlink()

    with pytest.raises(DatasetError, match="Received: No such file"):
        open_dataset(source)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("fashion_mnist", "fashion-mnist"),
        ("/data/Letters_v2.npz", "letters-v2"),
        ("/data/digits.v1", "digits-v1"),
        ("/", "dataset"),
        ("/data/mnist.npz", "mnist-local"),
        ("~nobody-here/digits", "digits"),
        ("/data/mnist/raw", "mnist-local"),
        ("/letters/raw/", "letters"),
        ("/letters/Raw/data.npz", "letters"),
        ("/letters/raw/../../signs/raw", "signs"),
        ("/letters.CSV.gz", "letters"),
        ("/raw", "raw"),
    ],
)
def test_dataset_is_called_after_the_last_part_of_its_path_that_is_its_own(
    dataset: str, name: str
) -> None:
    assert dataset_name(dataset) == name


@pytest.mark.parametrize(
    ("dataset", "name", "called"),
    [
        ("/data/letters", "My Übung", "my-ubung"),
        ("/data/letters", "mnist", "mnist-local"),
        ("mnist", "kmnist", "kmnist-local"),
        ("mnist", "mnist", "mnist"),
        ("mnist", "digits", "digits"),
    ],
)
def test_chosen_name_is_taken_unless_another_dataset_has_it(
    dataset: str, name: str, called: str
) -> None:
    assert dataset_name(dataset, name) == called


def test_long_name_is_cut_and_stays_its_own() -> None:
    first, second = (dataset_name(f"/data/{'x' * 200}{end}") for end in "ab")

    assert [100, 100] == [len(first), len(second)]
    assert first.startswith("x" * 91 + "-")
    assert first != second


def test_source_has_the_chosen_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "tiny.npz", **tiny_arrays())

    assert "mine" == find_dataset(str(tmp_path / "tiny.npz"), tmp_path, name="Mine").name
