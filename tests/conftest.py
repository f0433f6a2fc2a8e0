"""Fixtures that several test modules share."""

from __future__ import annotations

import ast
import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import RLock
from typing import Any

import instrument  # noqa: F401 - before all of ours
import prefect
import pytest
from builders import Arrays, Run, place_idx, run_flow, settings_in, stripes
from filelock import FileLock
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from programs import prepare_home

from tasks.cache.blobs import Store
from tasks.server.home import open_stack
from tasks.server.own import OwnServer, without_heartbeats
from tasks.settings import RunSettings

_parse = ast.parse
_parsing = RLock()


def _parse_alone(*args: Any, **options: Any) -> Any:
    """One thread at a time, see PARSING in tasks/__init__.py.

    What a stage imports, pytest and jaxtyping parse to change it, while other stages digest code.
    """
    with _parsing:
        return _parse(*args, **options)


ast.parse = _parse_alone


def pytest_collection_finish() -> None:
    """What has been imported stays: without it, a garbage collection takes milliseconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store of this test's own."""
    store = Store(root=tmp_path / "cache")
    store.prepare()
    return store


@pytest.fixture
def outside_a_run() -> Iterator[None]:
    """Stages can be called through `.fn()` without a flow run around them."""
    with disable_run_logger():
        yield


@pytest.fixture(scope="session")
def default_threads() -> None:
    """Before this process first computes: with as many threads as a plan says by default."""
    from tasks.learning.backend import use_threads  # noqa: PLC0415 - TensorFlow: seconds

    use_threads(RunSettings().plan.threads)


@pytest.fixture(scope="session")
def prepared_home(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect home whose database is at its newest revision and empty: to be copied.

    Making one takes seconds, so it is kept for other processes and later test runs.
    """
    cached = hasattr(pytestconfig, "cache")  # pytest runs without, too
    kept = pytestconfig.cache.mkdir("prefect") if cached else tmp_path_factory.mktemp("prepared")
    home = kept / prefect.__version__
    with FileLock(kept / "lock"):
        if not home.exists():
            made = tmp_path_factory.mktemp("prepared") / "home"
            made.mkdir()
            prepare_home(made)
            shutil.copytree(made, kept / "partial", dirs_exist_ok=True).rename(home)
    return home


@pytest.fixture(scope="session")
def prefect_server(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Prefect server with a database of its own for the whole session."""
    home = shutil.copytree(prepared_home, tmp_path_factory.mktemp("prefect") / "home")
    with pytest.MonkeyPatch.context() as patch:  # events can be read at once, not after seconds
        patch.setenv("PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL", "0.2")
        server = OwnServer(open_stack(home, {}))
    try:
        server.wait_until_ready()
        login = {PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: server.login}
        with without_heartbeats(), temporary_settings(login):
            yield
    finally:
        server.stop()


@pytest.fixture
def digits() -> Arrays:
    """The images of the flow's tests, to be changed at will."""
    return stripes()


@pytest.fixture
def settings(tmp_path: Path, digits: Arrays) -> RunSettings:
    """A run on these images, in this test's own folders."""
    place_idx(tmp_path / "stripes", digits, zipped=True)
    return settings_in(tmp_path)


@pytest.fixture(scope="session")
def first_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first run leaves its files, not to be changed."""
    return tmp_path_factory.mktemp("first")


@pytest.fixture(scope="session")
def first_run(
    first_folder: Path,
    prefect_server: None,  # noqa: ARG001 - must be up before the run
) -> Run:
    """A run that later runs can go on from."""
    place_idx(first_folder / "stripes", stripes(), zipped=True)
    return run_flow(settings_in(first_folder))


@pytest.fixture
def after_a_run(
    settings: RunSettings,
    first_run: Run,  # noqa: ARG001 - must be over before its cache is copied
    first_folder: Path,
    tmp_path: Path,
) -> RunSettings:
    """The same settings and dataset as of the first run, and a copy of its cache."""
    shutil.copytree(first_folder / "cache", tmp_path / "cache")
    return settings
