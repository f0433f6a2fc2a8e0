"""Makes the pictures that stand in the README, from real runs on MNIST: `make screenshots`.

Three runs on MNIST and one on a copy with planted defects, against a Prefect server of its own,
looked at in Chromium (two minutes).
"""

from __future__ import annotations

import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from browser import Scheme, chromium, open_artifact, open_run, window
from builders import plant_defects
from PIL import Image
from playwright.sync_api import Page
from programs import environment_in, folders_in, prefect_server_in, prepare_home, run_program

from tasks.sources.catalogue import EMBEDDED_MNIST

FOLDER = Path(__file__).parent / "screenshots"
COLOURS = 64
LIMIT_BYTES = 150_000
SETTLE_MILLISECONDS = 3_000  # what moves when a page of the UI opens
# Each check of the planted defects stops the run, so that the whole report is about them.
PLANTED = "constant-images", "duplicates", "contradictions"


def main() -> int:
    """Run, look, write the pictures."""
    with tempfile.TemporaryDirectory() as work, chromium() as browser:
        home = Path(work) / "prefect"
        home.mkdir()
        prepare_home(home)
        planted = write_planted(Path(work) / "planted.npz")
        folders = [*folders_in(Path(work)), "--json"]
        with prefect_server_in(home) as url:
            environment = {**environment_in(home), "PREFECT_API_URL": url}
            for epochs in ("4", "8"):
                run_program([*folders, "--epochs", epochs], environment)
            summary = json.loads(run_program([*folders, "--label-suspects"], environment).stdout)
            errors = [word for check in PLANTED for word in ("--severity", f"{check}=error")]
            options = [*folders, "--dataset", str(planted), "--profile", "mnist", *errors]
            run_program(options, environment, status=1)
            with window(browser, height=625) as (page, _):  # the log, below, names folders
                open_run(page, url, summary["flow_run_id"])
                save(page, "run")
            for name, key in (("evaluation", "mnist-evaluation"), ("failed", "planted-validation")):
                with window(browser, height=1250) as (page, _):
                    open_artifact(page, url, key)
                    save(page, name)
        shapes: tuple[tuple[str, int, int, Scheme], ...] = (
            ("report", 1280, 1500, "light"),
            ("report-narrow", 390, 1000, "dark"),
        )
        for name, width, height, scheme in shapes:
            with window(browser, width, height, scheme) as (page, _):
                page.goto(Path(summary["report_path"]).as_uri())
                save(page, name)
    return 0


def write_planted(path: Path) -> Path:
    """A copy of MNIST with defects."""
    with np.load(EMBEDDED_MNIST) as archive:
        arrays = dict(archive)
    plant_defects(arrays)
    np.savez(path, **arrays)
    return path


def save(page: Page, name: str) -> None:
    """What the window shows, as a small PNG."""
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    content = BytesIO()
    shown = Image.open(BytesIO(page.screenshot())).convert("RGB")
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(content, "png", optimize=True)
    assert content.tell() <= LIMIT_BYTES, f"{name} has {content.tell()} bytes"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.png").write_bytes(content.getvalue())
    print(f"tests/screenshots/{name}.png  {content.tell() / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
