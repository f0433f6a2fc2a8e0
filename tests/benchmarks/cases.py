"""What runs again after a change or damage, here and in the obvious Prefect flow: `make cases`.

One run of each program, in a process of its own, over 3000 + 1000 images of MNIST, leaves its
code, dataset and cache in a folder. Each case changes something in a copy of that folder and
runs both again: a cell says which stages ran. Both also run in that situation without a cache.
Where that gives another answer, loss and accuracy to the last digit, the cell is marked: stale
after a change, wrong after damage.

The table goes to standard output, progress to standard error.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import httpx
import numpy as np
from bench import HERE, MNIST, ROOT, environment_in, lasting_server

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries

EPOCHS = 2
# Of both programs; the obvious flow's results lie on the disk in this order of their times.
STAGES = ("load", "validate", "preprocess", "train", "evaluate")
HIGHEST_EXPONENT_BIT = 0x40  # in the last byte of a little-endian float32: 0.0 becomes 2.0
TASK_FINISHED = re.compile(r"Task run '(\w+)-\w+' - Finished in state (\w+)")
ERROR = re.compile(r"^[\w.]*Error\b", re.MULTILINE)

# As after an upgrade of NumPy. The numbers stay the same, so that no answer can be stale.
OTHER_NUMPY = """\
import re
from importlib import metadata

installed = metadata.PathDistribution.read_text
metadata.PathDistribution.read_text = lambda self, name: re.sub(
    "(Name: numpy\\nVersion: .+)", r"\\1.post1", installed(self, name) or ""
)
"""

Edit = tuple[str, str, tuple[str, ...]]  # what is replaced, by what, in which source files
Damage = Literal["", "array truncated", "bit flipped", "record torn"]

HELPERS = ("tasks/learning/network.py", "obvious_network.py")
TRAINING = ("tasks/train.py", "obvious_prefect.py")


@dataclass(frozen=True)
class Case:
    """One row: what differs from the run that filled the caches.

    `continues`: what the case before left is the start, not that run.
    """

    what: str
    edits: tuple[Edit, ...] = ()
    epochs: int = EPOCHS
    pixel_changed: bool = False
    numpy_changed: bool = False
    damage: Damage = ""
    continues: bool = False

    @property
    def situation(self) -> Case:
        """What the answer should depend on: neither the row's name nor the caches."""
        return replace(self, what="", damage="", continues=False)


CASES = (
    Case("nothing changed"),
    Case("helper function changed", (('"relu"', '"tanh"', HELPERS),)),
    Case(
        "comment added in the helper and in a stage",
        (("\n    model = ", "\n    # Not code.\n    model = ", HELPERS + TRAINING),),
    ),
    Case(
        "unrelated code changed",
        (
            ("bar_width=24", "bar_width=32", ("tasks/terminal/display.py",)),
            ("ArgumentParser()", "ArgumentParser(allow_abbrev=False)", ("obvious_prefect.py",)),
        ),
    ),
    Case("epochs changed", epochs=EPOCHS + 1),
    Case("and back again", continues=True),
    Case("one pixel of the data file changed", pixel_changed=True),
    Case("array file truncated", damage="array truncated"),
    Case("one bit of an array flipped", damage="bit flipped"),
    Case(
        "one bit of an array flipped, and epochs changed, so that it is read",
        epochs=EPOCHS + 1,
        damage="bit flipped",
    ),
    Case("record of a stage torn", damage="record torn"),
    Case("library version changed (its number only)", numpy_changed=True),
)


@dataclass(frozen=True)
class Outcome:
    """Which stages ran, for a person; loss and accuracy, unless the program raised."""

    ran: str
    answer: tuple[float, float] | None


@dataclass(frozen=True)
class Place:
    """A folder with the code, the dataset and the cache of both programs."""

    root: Path

    @property
    def dataset(self) -> Path:
        return self.root / "digits.npz"

    def clear(self, start: Place | None = None) -> None:
        """Begin as another place is, or with the project's code and no cache."""
        shutil.rmtree(self.root, ignore_errors=True)
        if start:
            shutil.copytree(start.root, self.root)
            return
        for package in ("flows", "tasks"):
            without = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, self.root / "code" / package, ignore=without)
        for script in ("obvious_prefect.py", "obvious_network.py"):
            shutil.copy2(HERE / script, self.root / "code")
        write_dataset(self.dataset)

    def change(self, case: Case) -> None:
        """Edit the code and the dataset."""
        for old, new, names in case.edits:
            for source in (self.root / "code" / name for name in names):
                if old not in source.read_text():
                    sys.exit(f"A case must find what it replaces. Received: no {old!r} in {source}")
                source.write_text(source.read_text().replace(old, new))
        if case.pixel_changed:
            write_dataset(self.dataset, pixel_changed=True)
        if case.numpy_changed:
            (self.root / "code" / "sitecustomize.py").write_text(OTHER_NUMPY)

    def harm(self, damage: Damage) -> None:
        """Damage both caches: what `preprocess` stored, the largest file, or what `train` did."""
        store, obvious = Store(root=self.root / "pipeline"), self.root / "obvious"
        in_order = sorted(obvious.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for arrays, trained, flip in (
            (store.blobs, trained_record(store), flip_bit),
            (obvious, in_order[STAGES.index("train")], flip_bit_of_pickle),
        ):
            preprocessed = max(arrays.iterdir(), key=lambda file: file.stat().st_size)
            if damage == "bit flipped":
                flipped = flip(preprocessed.read_bytes(), first_image(self.dataset))
                preprocessed.write_bytes(flipped)
            elif damage:
                file = trained if damage == "record torn" else preprocessed
                os.truncate(file, file.stat().st_size // 2)

    def run(self, epochs: int, environment: dict[str, str]) -> tuple[Outcome, Outcome]:
        """Run the pipeline and the obvious flow, side by side."""
        code = self.root / "code"
        folders = ["--cache-dir", str(self.root / "pipeline"), "--model-dir", str(self.root)]
        dataset, passes = str(self.dataset), ["--epochs", str(epochs)]
        commands = (
            [str(code / "flows" / "mnist_flow.py"), "--json", "--dataset", dataset, *folders],
            [str(code / "obvious_prefect.py"), dataset],
        )
        environment = {
            **environment,
            "PYTHONPATH": str(code),  # before site-packages, which knows the project as installed
            "PREFECT_LOCAL_STORAGE_PATH": str(self.root / "obvious"),
        }

        def run(command: list[str]) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *command, *passes],
                env=environment,
                cwd=self.root,
                capture_output=True,
                text=True,
                check=False,
            )

        with ThreadPoolExecutor() as both:
            pipeline, obvious = both.map(run, commands)
        return outcome_of_pipeline(pipeline), outcome_of_obvious(obvious)

    def run_from_scratch(self, case: Case, environment: dict[str, str]) -> tuple[Outcome, Outcome]:
        """Run both in a case's situation, without a cache."""
        self.clear()
        self.change(case)
        outcomes = self.run(case.epochs, environment)
        if any(outcome.answer is None for outcome in outcomes):
            sys.exit(f"Without a cache, both programs must complete. Received: {outcomes}.")
        return outcomes


def outcome_of_pipeline(done: subprocess.CompletedProcess[str]) -> Outcome:
    """Read the summary, which tells of each stage. `publish` always runs, and is left out."""
    if done.returncode != 0:
        sys.exit(f"The pipeline must complete. Received: {done.stdout}\n{done.stderr[-4000:]}")
    summary = json.loads(done.stdout)
    stages = {name: summary["stages"][name] for name in STAGES}
    ran = [f"{name}: {s['why']}" for name, s in stages.items() if s["state"] == "computed"]
    return Outcome("; ".join(ran) or "nothing", (summary["loss"], summary["accuracy"]))


def outcome_of_obvious(done: subprocess.CompletedProcess[str]) -> Outcome:
    """Read the log, which names the final state of each task."""
    if done.returncode != 0:
        return Outcome(f"fails: {ERROR.findall(done.stderr)[-1]}", None)
    states = TASK_FINISHED.findall(done.stderr)
    ran = [name for name, state in states if state == "Completed"]
    answer = json.loads(done.stdout.splitlines()[-1])
    return Outcome(", ".join(ran) or "nothing", (answer["loss"], answer["accuracy"]))


def write_dataset(path: Path, *, pixel_changed: bool = False) -> None:
    """The first 3000 training and 1000 test images of MNIST; perhaps with one byte changed."""
    with np.load(MNIST) as archive:
        counts = {"x_train": 3000, "y_train": 3000, "x_test": 1000, "y_test": 1000}
        arrays = {name: archive[name][:count] for name, count in counts.items()}
    arrays["x_train"][0, 0, 0] += 255 * pixel_changed  # from background to ink
    np.savez(path, **arrays)


def first_image(dataset: Path) -> bytes:
    """The bytes of the first training image as both programs store it: float32 in [0, 1]."""
    with np.load(dataset) as archive:
        return (archive["x_train"][0].astype("float32") / 255).tobytes()


def trained_record(store: Store) -> Path:
    """Where the latest training's result lies."""
    notes = (store.latest / "train").iterdir()
    return Entries(store).path(max(notes, key=lambda note: note.stat().st_mtime_ns).name)


def flip_bit(content: bytes, image: bytes) -> bytes:
    """Flip one bit of the first pixel of an image that lies somewhere in a file."""
    at = content.index(image) + 3
    return content[:at] + bytes([content[at] ^ HIGHEST_EXPONENT_BIT]) + content[at + 1 :]


def flip_bit_of_pickle(content: bytes, image: bytes) -> bytes:
    """The same bit in what Prefect stores: a pickle in base64 in JSON, which all stay valid."""
    record = json.loads(content)
    pickled = flip_bit(base64.b64decode(record["result"]), image)
    return json.dumps({**record, "result": base64.encodebytes(pickled).decode()}).encode()


def table(work: Path, environment: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Carry out the cases; yields the rows."""
    # One path for all cases: to the obvious flow, the path of the dataset is an input.
    warm, now, fresh = (Place(work / name) for name in ("warm", "now", "fresh"))
    right = {CASES[0].situation: now.run_from_scratch(CASES[0], environment)}
    warm.clear(start=now)
    for case in CASES:
        print(f"  {case.what}", file=sys.stderr)
        if not case.continues:
            now.clear(start=warm)
            now.change(case)
            now.harm(case.damage)
        outcomes = now.run(case.epochs, environment)
        if case.situation not in right:
            right[case.situation] = fresh.run_from_scratch(case, environment)
        mark = " (wrong)" if case.damage else " (stale)"
        pipeline, obvious = (
            outcome.ran + (mark if outcome.answer not in (None, expected.answer) else "")
            for outcome, expected in zip(outcomes, right[case.situation], strict=True)
        )
        yield case.what, pipeline, obvious


def main() -> None:
    """Carry out the cases, print the table."""
    with tempfile.TemporaryDirectory(prefix="cases-") as folder:
        work = Path(folder)
        with lasting_server(environment_in(work / "prefect")) as environment:
            # The obvious flow does not wait until the server answers: up to half a minute here.
            transport = httpx.HTTPTransport(retries=7)
            httpx.Client(transport=transport).get(f"{environment['PREFECT_API_URL']}/health")
            rows = list(table(work, environment))
    print("| case | this pipeline | the obvious Prefect flow |")
    print("| --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
