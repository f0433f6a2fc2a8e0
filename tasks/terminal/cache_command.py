"""`mnist-cache`: what the cache holds, and looking after it.

stage       computed          last used         size      key
train       2026-11-20 21:14  2026-11-23 09:02     0.6MB  4f2a90c1d3e5
preprocess  2026-11-20 21:14  2026-11-23 09:02   219.8MB  0b7763fe12aa
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from tasks.cache.blobs import Store
from tasks.cache.checkpoints import all_checkpoints
from tasks.cache.entries import Entries
from tasks.cache.housekeeping import clear, damages, inventory, prune, stored_bytes
from tasks.errors import PipelineError
from tasks.settings import RunSettings

EXIT_DAMAGED = 1
HOURS = {"h": 1, "d": 24, "w": 7 * 24}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 1 when something is damaged or cannot be done, 2 for a wrong call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "prune" and options.max_size is None and options.max_age is None:
        parser.error("prune needs --max-size, --max-age or both")
    chosen = options.cache_dir or os.environ.get("MNIST_CACHE_DIR") or None
    store = Store(root=RunSettings(cache_dir=chosen).cache_root)
    commands: dict[str, Callable[[], int]] = {
        "list": lambda: _list(store),
        "prune": lambda: _prune(store, options.max_size, options.max_age),
        "verify": lambda: _verify(store),
        "clear": lambda: _clear(store),
    }
    try:
        return commands[options.command]()
    except PipelineError as error:
        print(f"failed {error}", file=sys.stderr)
        return EXIT_DAMAGED


def _list(store: Store) -> int:
    items = inventory(Entries(store))
    if items:
        print(f"{'stage':<10}  {'computed':<16}  {'last used':<16}  {'size':>9}  key")
    for item in items:
        times = f"{_minute(item.computed)}  {_minute(item.used)}"
        print(f"{item.stage:<10}  {times}  {_size(item.size_bytes):>9}  {item.key[:12]}")
    print(f"{_count(len(items), 'result')}, {_size(stored_bytes(store))} in {store.root}")
    if unfinished := list(all_checkpoints(store)):
        print(f"{_count(len(unfinished), 'training')} to go on with: a run was cut off, or is on")
    return 0


def _prune(store: Store, max_size: int | None, max_age: timedelta | None) -> int:
    done = prune(Entries(store), max_bytes=max_size, max_age=max_age)
    left = _size(stored_bytes(store))
    counts = f"{_count(done.results, 'result')} and {_count(done.files, 'file')}"
    print(f"{counts} removed, {_size(done.size_bytes)}.")
    print(f"{left} are left in {store.root}")
    return 0


def _verify(store: Store) -> int:
    found = list(damages(Entries(store)))
    for line in found:
        print(line)
    print(
        f"{len(found)} damaged. The next run that needs them computes them anew."
        if found
        else f"{_size(stored_bytes(store))} verified, every digest holds."
    )
    return EXIT_DAMAGED if found else 0


def _clear(store: Store) -> int:
    size = _size(stored_bytes(store))
    clear(store)
    print(f"{size} removed from {store.root}. Downloaded datasets stay.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mnist-cache", description="Look after the cache of the training pipeline."
    )
    parser.add_argument(
        "--cache-dir",
        type=_folder,
        help="the cache folder; MNIST_CACHE_DIR or the user's cache folder unless set",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="every result: its stage, its age and its size")
    pruning = commands.add_parser("prune", help="remove what was not used for longest")
    pruning.add_argument("--max-size", type=_byte_size, help="keep at most this much: 2GB, 500MB")
    pruning.add_argument("--max-age", type=_age, help="keep what was used in this time: 30d, 12h")
    commands.add_parser("verify", help="compute every digest and name what is damaged")
    commands.add_parser("clear", help="remove everything but downloaded datasets")
    return parser


def _folder(text: str) -> Path:
    if not text:  # an unset variable of a shell, not the folder where it stands
        raise argparse.ArgumentTypeError("a folder must not be empty")
    return Path(text)


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


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size(size_bytes: int) -> str:
    return ByteSize(size_bytes).human_readable(decimal=True)


if __name__ == "__main__":
    sys.exit(main())
