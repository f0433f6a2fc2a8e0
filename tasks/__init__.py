"""What the flows are made of: the stages, their shared vocabulary, and rooms for the rest."""

import os
import re
import sys
from pathlib import Path
from threading import Lock, RLock

from tasks.cache.bytecode import check_bytecode

# Read by Prefect, TensorFlow and Keras when they are first imported.
os.environ.setdefault("DO_NOT_TRACK", "1")  # no telemetry
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up chatter from C++

# What decides there which numbers come out, and no cache key knows of: all but C++'s log and the
# folder of Keras's downloads. OURS is what the trainer is written for, and what TensorFlow sets.
TERRAFORMS = "VAR_|CLI_|LOG|INPUT$|DATA_DIR$|WORKSPACE$|IN_AUTOMATION$|PLUGIN_CACHE_|TOKEN_"
DECIDING = re.compile(rf"TF_(?!CPP_|{TERRAFORMS})\w+|KERAS_(?!HOME$)\w+|(TF2|XLA|ONEDNN|DNNL)_\w+")
OURS = {"KERAS_BACKEND": "tensorflow", "KERAS_NNX_ENABLED": "0", "TF2_BEHAVIOR": "1"}
unused_variables: list[str] = []  # of the environment that this process was given
read_too_early = "tensorflow" in sys.modules


def settle_environment() -> None:
    """Take variables away that would change what TensorFlow and Keras compute, and note them."""
    found = {name for name in os.environ if DECIDING.fullmatch(name)}
    unused_variables.extend(name for name in sorted(found) if os.environ[name] != OURS.get(name))
    for name in found:
        del os.environ[name]
    os.environ.update(OURS)


settle_environment()
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
