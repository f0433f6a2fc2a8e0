"""Fetch: what the task says of a dataset before anything of it is read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import tiny_arrays, write_idx_folder
from PIL import Image

from flows.mnist_flow import mnist_flow
from tasks.cache.blobs import Store
from tasks.errors import DatasetError
from tasks.fetch import fetch
from tasks.settings import RunSettings


@pytest.fixture
def logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """What the task logs, outside of a run."""
    logger = logging.getLogger("fetching")
    monkeypatch.setattr("tasks.fetch.get_run_logger", lambda: logger)
    with caplog.at_level("INFO", "fetching"):
        yield caplog


def test_found_files_are_logged_with_their_size_and_place(
    logged: pytest.LogCaptureFixture, store: Store, tmp_path: Path
) -> None:
    folder = write_idx_folder(tmp_path / "Digits", tiny_arrays(train=300, test=100, size=(10, 10)))

    source = fetch.fn(str(folder), None, store)

    assert source.name == "digits"
    # 400 images of 100 bytes, 400 labels, two headers of 16 bytes and two of 8
    (line,) = logged.messages
    names = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
    found = f"digits: a folder or zip of IDX files, 40.4KB in {folder}"
    assert line == f"{found} ({names}t10k-labels-idx1-ubyte)"


def test_files_in_folders_are_logged_with_the_folder_that_holds_all(
    logged: pytest.LogCaptureFixture, store: Store, tmp_path: Path
) -> None:
    for name in ("red", "green"):
        (tmp_path / "lamps" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "lamps" / name / "0.png")

    fetch.fn(str(tmp_path / "lamps"), None, store)

    assert logged.messages[-1].endswith(f" in {tmp_path / 'lamps'} (green/0.png, red/0.png)")


def test_downloads_are_logged_and_kept_in_the_cache(
    logged: pytest.LogCaptureFixture, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(dataset: str, folder: Path, note: object) -> list[Path]:
        assert callable(note)
        note(f"downloading {dataset}")
        write_idx_folder(folder, tiny_arrays())
        return sorted(folder.iterdir())

    monkeypatch.setattr("tasks.sources.catalogue.download", download)

    source = fetch.fn("kmnist", None, store)

    assert {file.path.parent for file in source.files} == {store.root / "downloads" / "kmnist"}
    first, found = logged.messages
    assert first == "downloading kmnist"
    assert found.startswith("kmnist: a folder or zip of IDX files, 930B in ")


@pytest.mark.usefixtures("prefect_server")
def test_mistyped_dataset_fails_in_fetch_and_leaves_no_artifact(
    settings: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    monkeypatch.setattr("tasks.publish.publish_validation", lambda *_, **__: published.append("x"))

    with pytest.raises(
        DatasetError, match=r"A dataset is .* Received: 'mnits', which is not there"
    ):
        mnist_flow(settings.model_copy(update={"dataset": "mnits"}))

    assert published == []
    assert not settings.model_root.exists()
