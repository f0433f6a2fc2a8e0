"""What the flows are made of: the stages, their shared vocabulary, and rooms for the rest."""

import os
from pathlib import Path
from threading import Lock, RLock

from tasks.cache.bytecode import check_bytecode

# Read by Prefect, TensorFlow and Keras when they are first imported.
os.environ.setdefault("DO_NOT_TRACK", "1")  # no telemetry
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up chatter from C++
os.environ["KERAS_BACKEND"] = "tensorflow"  # the trainer is written for no other

check_bytecode()  # first of all: of every module that is imported from now on

APPLICATION = "mnist-pipeline"  # names the folders that it keeps on a machine

# Stages import what they compute with when they run, several at a time. Modules that import each
# other in a circle, as pandera's do, then wait for each other (`_DeadlockError`).
IMPORTS = RLock()
# Python 3.11 loses count of how deep its parser is when two threads parse (`SystemError`, CPython's
# issue 106905). Code is parsed to be digested, and the header of an array by NumPy.
PARSING = Lock()


def expanded(path: str | Path) -> Path:
    """A path with `~` replaced; a user who is unknown stays as written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for such a user
