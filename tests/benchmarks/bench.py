"""Measures the pipeline beside its references, in one go: `make bench`.

Whole processes are timed, from start to exit, in turn with the plain Keras script, each
several times; the median counts and the ratio is to the plain script. Memory is measured
in runs of its own: the peak, over the process and all its children, of anonymous memory,
which leaves memory-mapped files out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tasks.cache.blobs import Store

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MNIST = ROOT / "tasks" / "sources" / "mnist.npz"
PLAIN = [sys.executable, str(HERE / "plain_keras.py"), str(MNIST)]
OBVIOUS = [sys.executable, str(HERE / "obvious_prefect.py"), str(MNIST)]
# In a process of its own, as every run is one.
KEYS = """
import time
from tasks.cache.keys import Ingredients, fingerprint_of
started = time.perf_counter()
for stage in ("load", "validate", "preprocess", "train", "evaluate", "illustrate"):
    code, libraries = fingerprint_of(f"tasks.{stage}")
    Ingredients(stage=stage, code=code, libraries=libraries, inputs={}).key
print(1000 * (time.perf_counter() - started))
"""
KEYS_MILLISECONDS = 50.0
VALIDATION_SECONDS, VALIDATION_MEGABYTES = 1.0, 300.0
MANY_IMAGES, FEW_IMAGES = 70_000, 700
MANY_FILES_SECONDS = 1.5
SAMPLE_SECONDS = 0.02
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Row:
    """One line of the table: a measured value, its reference, and the target for the ratio."""

    what: str
    value: float
    unit: str
    reference: float
    target: float

    def __str__(self) -> str:
        ratio = self.value / self.reference
        verdict = "" if self.target == 0 else "held" if ratio <= self.target else "MISSED"
        limit = "" if self.target == 0 else f"<= {self.target:.2f}"
        figure = f"{self.value:9.2f} {self.unit}"
        return f"| {self.what:<52} | {figure} | {ratio:5.2f} | {limit:<7} | {verdict:<6} |"


def pipeline(work: Path, cache: str = "cache") -> list[str]:
    """The command of a run with its own cache and model folders."""
    script = str(ROOT / "flows" / "mnist_flow.py")
    folders = ["--cache-dir", str(work / cache), "--model-dir", str(work / "models")]
    return [sys.executable, script, "--json", *folders]


def run(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Seconds from start to exit, and the last line of standard output."""
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, done.stdout.strip().splitlines()[-1]


def peak_anonymous_mebibytes(command: list[str], environment: dict[str, str]) -> float:
    """The highest sum of anonymous memory over a process and its children."""
    peak = 0
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def sample() -> None:
        nonlocal peak
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0
            with suppress(psutil.Error):
                for member in [parent, *parent.children(recursive=True)]:
                    with suppress(psutil.Error, OSError):
                        total += anonymous_bytes(member.pid)
            peak = max(peak, total)
            time.sleep(SAMPLE_SECONDS)

    sampler = threading.Thread(target=sample)
    sampler.start()
    status = process.wait()
    sampler.join()
    if status != 0:
        sys.exit(f"{' '.join(command)} failed with {status}")
    return peak / MEBIBYTE


def anonymous_bytes(pid: int) -> int:
    """Resident anonymous memory of one process, as the kernel counts it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def folder_bytes(folder: Path) -> int:
    """What the files below a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def lasting_server(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A Prefect server as an operator would start it; yields the environment to reach it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}/api"
    command = [str(Path(sys.executable).with_name("prefect")), "server", "start", "--port", port]
    server = subprocess.Popen(
        command,
        env={**environment, "PREFECT_API_URL": url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield {**environment, "PREFECT_API_URL": url}
    finally:
        server.terminate()
        server.wait()


def inherited() -> dict[str, str]:
    """This environment without what is set of Prefect and of the pipeline.

    Python keeps bytecode, as it does unless it is told not to: what is measured comes after a
    process that has compiled the code.
    """
    settings = ("PREFECT_", "MNIST_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)}


def environment_in(home: Path) -> dict[str, str]:
    """This environment with a Prefect home of its own, its database made beforehand."""
    environment = {
        **inherited(),
        "PREFECT_HOME": str(home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    prefect = str(Path(sys.executable).with_name("prefect"))
    subprocess.run(
        [prefect, "server", "database", "upgrade", "-y"],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return environment


def trainer(*arguments: object) -> list[str]:
    """The command that measures the trainer by itself."""
    return [sys.executable, str(HERE / "trainer.py"), *map(str, arguments)]


def measure_trainer(environment: dict[str, str], rounds: int) -> tuple[dict[str, float], float]:
    """Median seconds of each training; the requests' share of a training with live progress."""
    seconds = json.loads(run(trainer("times", rounds), environment)[1])
    with lasting_server(environment) as reached:
        requests_share = json.loads(run(trainer("progress"), reached)[1])["requests_share"]
    return seconds, requests_share


def measure_times(work: Path, environment: dict[str, str], rounds: int) -> dict[str, float]:
    """Median seconds of each kind of run, the kinds taken in turn."""
    seconds: dict[str, list[float]] = {}
    answers: dict[str, str] = {}

    def timed(kind: str, command: list[str], where: dict[str, str]) -> None:
        taken, answers[kind] = run(command, where)
        seconds.setdefault(kind, []).append(taken)
        print(f"  {kind:<24} {taken:6.2f} s", file=sys.stderr)

    for number in range(rounds):
        cache = f"cache-{number}"
        timed("plain", PLAIN, environment)
        timed("first", pipeline(work, cache), environment)
        timed("unchanged", pipeline(work, cache), environment)
    with lasting_server(environment) as reached:
        run(pipeline(work, cache), reached)  # waits until the server answers
        for _ in range(rounds):
            timed("unchanged, server", pipeline(work, cache), reached)
    for number in range(max(1, rounds - 1)):
        where = {**environment, "PREFECT_LOCAL_STORAGE_PATH": str(work / f"obvious-{number}")}
        timed("obvious", OBVIOUS, where)
        timed("obvious, unchanged", OBVIOUS, where)
    accuracies = {kind: json.loads(answer)["accuracy"] for kind, answer in answers.items()}
    print(f"  accuracies: {accuracies}", file=sys.stderr)
    return {kind: statistics.median(taken) for kind, taken in seconds.items()}


def measure_keys(rounds: int) -> float:
    """Median milliseconds for the code and libraries of all stages, and their keys.

    The first process, which notes what it finds in the sources, does not count.
    """
    command = [sys.executable, "-c", KEYS]
    _, *taken = (float(run(command, inherited())[1]) for _ in range(1 + rounds))
    return statistics.median(taken)


def measure_storing(work: Path, rounds: int) -> tuple[float, float]:
    """Median seconds of storing the images as float32, and of np.save and SHA-256 of the same."""
    store = Store(root=work / "storing")
    store.prepare()
    images = np.random.default_rng(0).random((60000, 784), np.float32)
    ours, reference = [], []
    for _ in range(rounds + 2):  # the first ones warm up the disk
        started = time.perf_counter()
        store.path(store.put_array(images)).unlink()
        stored = time.perf_counter()
        np.save(work / "images.npy", images)
        hashlib.sha256(images.data).hexdigest()
        (work / "images.npy").unlink()
        ours.append(stored - started)
        reference.append(time.perf_counter() - stored)
    return statistics.median(ours), statistics.median(reference)


def sources(*arguments: object) -> list[str]:
    """The command that measures the reading of datasets by itself."""
    return [sys.executable, str(HERE / "sources.py"), *map(str, arguments)]


def measure_sources(work: Path, environment: dict[str, str], rounds: int, images: int) -> list[Row]:
    """Of pictures and a table: seconds beside their references, memory beside that of few."""
    folders = {number: work / f"sources-{number}" for number in (images, FEW_IMAGES)}
    for number, folder in folders.items():
        run(sources("write", folder, number), environment)
    whole = folders[images]
    seconds = json.loads(run(sources("times", whole, rounds), environment)[1])
    peaks = {
        (number, place): peak_anonymous_mebibytes(sources("read", folder / place), environment)
        for number, folder in folders.items()
        for place in ("pictures", "train.csv")
    }
    few, few_lines = peaks[FEW_IMAGES, "pictures"], peaks[FEW_IMAGES, "train.csv"]
    more = seconds_for_many_files(work, whole / "pictures", environment, rounds)
    pictures = f"{images:,} PNGs in class folders"
    return [
        Row(f"{pictures}, Pillow alone", seconds["Pillow"], "s  ", seconds["Pillow"], 0),
        Row(f"{pictures}, read", seconds["pictures"], "s  ", seconds["Pillow"], 1.2),
        Row(
            f"{pictures}, peak memory beside {FEW_IMAGES}",
            peaks[images, "pictures"],
            "MiB",
            few,
            2.6,  # a kilobyte for name, place and digest of each file
        ),
        Row(
            f"{images:,} lines of CSV, pandas.read_csv",
            seconds["pandas"],
            "s  ",
            seconds["pandas"],
            0,
        ),
        Row(f"{images:,} lines of CSV, read", seconds["table"], "s  ", seconds["pandas"], 1.5),
        Row(
            f"CSV, peak memory beside {FEW_IMAGES}",
            peaks[images, "train.csv"],
            "MiB",
            few_lines,
            1.5,  # few lines are less than the piece that is read at a time
        ),
        Row("unchanged rerun, for so many files (to 1.5 s)", more, "s  ", MANY_FILES_SECONDS, 1.0),
    ]


def seconds_for_many_files(
    work: Path, pictures: Path, environment: dict[str, str], rounds: int
) -> float:
    """How much longer an unchanged rerun takes on a folder of pictures than on a single file."""
    options = {
        "many": ["--dataset", str(pictures), "--test-fraction", "0.1", "--epochs", "1"],
        "one": ["--epochs", "1"],
    }
    commands = {kind: [*pipeline(work, "many-files"), *of] for kind, of in options.items()}
    for command in commands.values():
        run(command, environment)
    taken: dict[str, list[float]] = {kind: [] for kind in commands}
    for _ in range(rounds):
        for kind, command in commands.items():
            taken[kind].append(run(command, environment)[0])
    return statistics.median(taken["many"]) - statistics.median(taken["one"])


def validation_rows(clean: float, worst: float, megabytes: float) -> list[Row]:
    """Of all tiers over 70,000 images: seconds of one core, and memory above the arrays."""
    seconds = VALIDATION_SECONDS
    return [
        Row("validation of MNIST, one core (to 1 s)", clean, "s  ", seconds, 1.0),
        Row("validation, every image bad, one core (to 1 s)", worst, "s  ", seconds, 1.0),
        Row("validation, peak memory (to 300 MB)", megabytes, "MB ", VALIDATION_MEGABYTES, 1.0),
    ]


def main() -> int:
    """Measure, print the table; status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often to run each (default 3)")
    rounds = parser.parse_args().rounds
    work = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        environment = environment_in(work / "prefect")
        seconds = measure_times(work, environment, rounds)
        plain_peak = peak_anonymous_mebibytes(PLAIN, environment)
        peak = peak_anonymous_mebibytes(pipeline(work, "memory"), environment)
        cache = folder_bytes(work / "memory") / MEBIBYTE
        obvious_cache = folder_bytes(work / "obvious-0") / MEBIBYTE
        storing, saving = measure_storing(work, rounds)
        keys = measure_keys(rounds)
        validation = json.loads(run([sys.executable, str(HERE / "validation.py")], environment)[1])
        reading = measure_sources(work, environment, rounds, MANY_IMAGES)
        training, requests_share = measure_trainer(environment, rounds)
        training_peak, large_peak = (
            peak_anonymous_mebibytes(trainer("memory", times_over), environment)
            for times_over in (1, 10)
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    plain, fit, products = seconds["plain"], training["plain Keras, fit"], training["products"]
    rows = [
        Row("plain Keras script", plain, "s  ", plain, 0),
        Row("first run, no server", seconds["first"], "s  ", plain, 0.75),
        Row("unchanged rerun, no server", seconds["unchanged"], "s  ", plain, 0.35),
        Row("unchanged rerun, server up", seconds["unchanged, server"], "s  ", plain, 0.12),
        Row("obvious Prefect flow, first run", seconds["obvious"], "s  ", plain, 0),
        Row("obvious Prefect flow, unchanged", seconds["obvious, unchanged"], "s  ", plain, 0),
        Row("plain Keras script, peak memory", plain_peak, "MiB", plain_peak, 0),
        Row("first run, its server included, peak memory", peak, "MiB", plain_peak, 0.9),
        Row("obvious Prefect flow, cache on disk", obvious_cache, "MiB", obvious_cache, 0),
        Row("cache on disk", cache, "MiB", obvious_cache, 0.7),
        Row("np.save and SHA-256 of the training images", saving, "s  ", saving, 0),
        Row("storing the training images", storing, "s  ", saving, 1.2),
        Row("fit of the reference experiment", fit, "s  ", fit, 0),
        Row("the trainer, compiling included", training["mlp"], "s  ", fit, 0.3),
        Row("mlp, recipe fast", training["mlp, fast"], "s  ", fit, 1.0),
        Row("mlp, recipe long", training["mlp, long"], "s  ", fit, 0),
        Row("cnn", training["cnn"], "s  ", fit, 5.0),
        Row("cnn, recipe long", training["cnn, long"], "s  ", fit, 0),
        Row("bare matrix products in NumPy", products, "s  ", products, 0),
        Row("the trainer, compiling included", training["mlp"], "s  ", products, 2.5),
        Row("training, peak memory", training_peak, "MiB", training_peak, 0),
        Row("training on ten times the images, peak memory", large_peak, "MiB", training_peak, 1.3),
        Row("requests of the live progress, of training", 100 * requests_share, "%  ", 100, 0.02),
        Row("keys of the whole flow (to 50 ms)", keys, "ms ", KEYS_MILLISECONDS, 1.0),
        *validation_rows(**validation),
        *reading,
    ]
    print(f"| {'what':<52} | {'measured':>13} | ratio | target  |        |")
    print(f"| {'-' * 52} | {'-' * 12}: | ----: | ------- | ------ |")
    print("\n".join(map(str, rows)))
    return int(any("MISSED" in str(row) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
