"""Where runs of deployments may read and write; those of its users may anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from flows.mnist_flow import mnist_flow
from tasks.errors import PipelineError
from tasks.orchestration.run import confine
from tasks.server.home import data_folders
from tasks.settings import RunSettings

PLACES = ("dataset", "profile", "cache_dir", "model_dir")


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the operator has named, beside one that is nobody's business."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PIPELINE_DATA_DIRS", str(tmp_path / "allowed"))
    (tmp_path / "allowed" / "below").mkdir(parents=True)
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "secret").write_text("Zq7x")
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "allowed" / "folder").symlink_to(tmp_path)
    return tmp_path / "allowed"


def refused(**chosen: str) -> str:
    with pytest.raises(PipelineError) as error:
        confine(RunSettings.model_validate(chosen), data_folders())
    return str(error.value)


@pytest.mark.parametrize("setting", PLACES)
@pytest.mark.parametrize(
    "place",
    [
        "{tmp}/secret",
        "{tmp}/allowed/../secret",
        "{tmp}/allowed/below/../../secret",
        "{tmp}/allowed/link",
        "{tmp}/allowed/folder/secret",
        "{tmp}/allowed/folder/not/there/yet",
        "{tmp}/allowed-not",
        "{tmp}",
        "/",
        "/proc/self/environ",
        "/proc/self/root{tmp}/secret",
        "~/secret",
        "~nobody-at-all/secret",
        "relative",
        "mnist/../../secret",
    ],
)
@pytest.mark.usefixtures("allowed")
def test_place_outside_of_what_is_allowed_is_refused(
    tmp_path: Path, setting: str, place: str
) -> None:
    named = place.format(tmp=tmp_path)
    assert f"Received: {setting} {named!r}. Allowed is" in refused(**{setting: named})


@pytest.mark.parametrize("setting", ["dataset", "profile"])  # those of folders are refused before
@pytest.mark.usefixtures("allowed")
def test_name_with_nul_is_outside(tmp_path: Path, setting: str) -> None:
    named = f"{tmp_path}/allowed/\0/../../secret"
    assert f"Received: {setting} {named!r}. Allowed is" in refused(**{setting: named})


@pytest.mark.parametrize("setting", PLACES)
@pytest.mark.parametrize("place", ["{tmp}/allowed/new", "{tmp}/allowed/below/..", "{tmp}/allowed"])
@pytest.mark.usefixtures("allowed")
def test_place_in_an_allowed_folder_is_taken(tmp_path: Path, setting: str, place: str) -> None:
    chosen = {setting: place.format(tmp=tmp_path)}
    confine(RunSettings.model_validate(chosen), data_folders())


@pytest.mark.usefixtures("allowed")
def test_refusal_names_every_place_the_folders_and_how_to_allow_more(tmp_path: Path) -> None:
    said = refused(dataset="/etc/passwd", profile="/etc/shadow")
    assert "Received: dataset '/etc/passwd', profile '/etc/shadow'." in said
    assert f"Allowed is what lies in {tmp_path}/data/mnist-pipeline, {tmp_path}/allowed." in said
    assert "adds folders with PIPELINE_DATA_DIRS, separated by ':', where the worker starts" in said


def test_what_is_named_and_not_placed_is_always_allowed() -> None:
    for dataset in ("mnist", "fashion_mnist", "kmnist"):
        confine(RunSettings(dataset=dataset, profile="mnist"), [])


def test_by_default_the_applications_data_folder_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert data_folders({}) == [tmp_path / "mnist-pipeline"]


def test_allowed_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    (_, folder) = data_folders({"PIPELINE_DATA_DIRS": str(tmp_path / "images")})
    confine(RunSettings(dataset=str(tmp_path / "images" / "letters")), [folder])


@pytest.mark.usefixtures("prefect_server")
class TestDeployment:
    """A run of a deployment, as a worker starts it."""

    def run(self, **settings: Any) -> str:
        """The message that it ends with."""
        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(client.create_flow(mnist_flow), "confined")
            parameters = {"settings": settings}
            run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
            state = run_flow(mnist_flow, flow_run=run, parameters=parameters, return_type="state")
        return str(state.message)

    @pytest.mark.parametrize("setting", PLACES)
    def test_is_refused_before_anything_is_read_or_made(
        self, allowed: Path, tmp_path: Path, setting: str
    ) -> None:
        before = sorted(tmp_path.rglob("*"))
        said = self.run(**{"dataset": str(allowed), setting: str(tmp_path / "secret")})
        assert "only where its operator allows it" in said
        assert "Zq7x" not in said
        assert before == sorted(tmp_path.rglob("*"))

    def test_of_a_file_that_is_no_profile_says_nothing_of_what_it_holds(
        self, allowed: Path
    ) -> None:
        (allowed / "notes").write_text("Zq7x")
        folders = {"cache_dir": str(allowed / "cache"), "model_dir": str(allowed / "models")}
        said = self.run(profile=str(allowed / "notes"), **folders)
        assert "A profile is mnist, or a JSON file" in said
        assert "Zq7x" not in said


@pytest.mark.usefixtures("allowed", "prefect_server")
def test_run_from_python_reads_anywhere(tmp_path: Path) -> None:
    folders = {"cache_dir": tmp_path / "cache", "model_dir": tmp_path / "models"}
    settings = RunSettings(dataset=str(tmp_path / "secret"), **folders)
    with pytest.raises(PipelineError, match="a file of another kind"):
        mnist_flow(settings)
