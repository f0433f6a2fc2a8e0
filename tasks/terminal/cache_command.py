"""`mnist-cache`: what the cache holds, and looking after it.

stage       computed          last used         size      key
train       2026-11-20 21:14  2026-11-23 09:02     0.6MB  4f2a90c1d3e5
preprocess  2026-11-20 21:14  2026-11-23 09:02   219.8MB  0b7763fe12aa
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from datetime import timedelta

from pydantic import ByteSize, TypeAdapter, ValidationError

from tasks.cache.blobs import Store
from tasks.cache.entries import Entries
from tasks.cache.housekeeping import (
    clear,
    damages,
    inventory,
    prune,
    stored_bytes,
    unfinished_trainings,
)
from tasks.cache.sharing import used_since
from tasks.errors import PipelineError
from tasks.settings import RunSettings
from tasks.terminal.streams import on_any_streams

HOURS = {"h": 1, "d": 24, "w": 7 * 24}


@on_any_streams
def main(arguments: list[str] | None = None) -> int:
    """Run one command; 1 when something is damaged or cannot be done, 2 for a wrong call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.cache_dir == "":  # an unset variable of a shell, not the folder where it stands
        parser.error("a folder must not be empty")
    if options.run is _prune and options.max_size is options.max_age is None:
        parser.error("prune needs --max-size, --max-age or both")
    store = Store(root=RunSettings(cache_dir=options.cache_dir).cache_root)
    try:
        return int(options.run(store, options))
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return 1


def _list(store: Store, _: argparse.Namespace) -> int:
    columns = "{:<10}  {:<16}  {:<16}  {:>9}  {}"
    items = inventory(Entries(store))
    if items:
        print(columns.format("stage", "computed", "last used", "size", "key"))
    for item in items:
        times = (f"{time.astimezone():%Y-%m-%d %H:%M}" for time in (item.computed, item.used))
        print(columns.format(item.stage, *times, _size(item.size_bytes), item.key[:12]))
    print(f"{_count(len(items), 'result')}, {_size(stored_bytes(store))} in {store.root}")
    if unfinished := unfinished_trainings(Entries(store)):
        print(f"{_count(len(unfinished), 'training')} to go on with: a run was cut off, or is on")
    return 0


def _prune(store: Store, options: argparse.Namespace) -> int:
    done = prune(Entries(store), max_bytes=options.max_size, max_age=options.max_age)
    results, files = _count(done.results, "result"), _count(done.files, "file")
    counts = f"{results} and {files}"
    if done.trainings:
        counts = f"{results}, {files} and {_count(done.trainings, 'training')} to go on with"
    print(f"{counts} removed, {_size(done.size_bytes)}.")
    print(f"{_size(stored_bytes(store))} are left in {store.root}{_in_use(store)}")
    return 0


def _verify(store: Store, _: argparse.Namespace) -> int:
    found = list(damages(Entries(store)))
    whole = f"{_size(stored_bytes(store))} verified, every digest holds."
    damaged = f"{len(found)} damaged. The next run that needs them computes them again."
    print(*found, damaged if found else whole, sep="\n")
    return 1 if found else 0


def _clear(store: Store, _: argparse.Namespace) -> int:
    removed = _size(clear(store).size_bytes)
    print(f"{removed} removed from {store.root}. Downloaded datasets stay{_in_use(store)}.")
    return 0


def _in_use(store: Store) -> str:
    return "" if used_since(store) == math.inf else ", and what a run uses that is under way"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnist-cache", description="Look after the cache of the training pipeline."
    )
    parser.add_argument(
        "--cache-dir",
        default=os.environ.get("MNIST_CACHE_DIR") or None,
        help="the cache folder; MNIST_CACHE_DIR or the user's cache folder unless set",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, help_text in {
        _list: "every result: its stage, its age and its size",
        _prune: "remove what was not used for longest",
        _verify: "compute every digest and name what is damaged",
        _clear: "remove everything but downloaded datasets",
    }.items():
        commands.add_parser(run.__name__[1:], help=help_text).set_defaults(run=run)
    add = commands.choices["prune"].add_argument
    add("--max-size", type=_byte_size, help="keep at most this: 2GB, 500MB")
    add("--max-age", type=_age, help="keep what was used since: 30d, 12h")
    return parser


def _byte_size(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"a size such as 2GB or 500MB, not {text!r}") from error


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"an age such as 30d, 12h or 2w, not {text!r}")
    return timedelta(hours=int(match[1]) * HOURS[match[2]])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size(size_bytes: int) -> str:
    return ByteSize(size_bytes).human_readable(decimal=True)


if __name__ == "__main__":
    sys.exit(main())
