"""Keras on TensorFlow: imported without TensorFlow's chatter, on a chosen number of threads.

TensorFlow 2.21 writes a dozen lines about CPU features and absent GPUs while it is
imported, past every logging setting (tensorflow issue 100442). They are held back, and
shown only if the import fails or ends the process.

This module takes 3 s to import: only the modules that stages import in their bodies do so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from threading import Lock

from tasks import read_too_early, settle_environment, unused_variables
from tasks.errors import ModelError

# Shows what it was given once there is no more to come, even if the giver has crashed.
SHOW_AT_THE_END = 'while IFS= read -r line; do held="$held$line\n"; done; printf %s "$held$line"'

_one_at_a_time = Lock()


@contextmanager
def native_stderr_held_back() -> Iterator[None]:
    """Hold back what C++ writes to descriptor 2; `sys.stderr` goes on as before."""
    sys.stderr.flush()
    with (
        subprocess.Popen(["/bin/sh", "-c", SHOW_AT_THE_END], stdin=subprocess.PIPE, stdout=2) as sh,
        os.fdopen(os.dup(2), "w", buffering=1) as stream,
    ):
        assert sh.stdin is not None, "it is a pipe"
        os.dup2(sh.stdin.fileno(), 2)
        try:
            with redirect_stderr(stream):
                yield
        finally:
            os.dup2(stream.fileno(), 2)
            if not isinstance(sys.exception(), Exception):  # it has not failed
                sh.kill()


settle_environment()
if read_too_early and unused_variables:
    raise ModelError(
        "TensorFlow must not be told by the environment what to compute.",
        received=unused_variables,
        where="a process that imported TensorFlow before `tasks`",
        advice="Unset them, or import `tasks` first.",
    )
with native_stderr_held_back():
    import keras
    import tensorflow as tf

    # A GPU adds up in no fixed order. What TensorFlow has to say about CUDA, it says now.
    tf.config.set_visible_devices([], "GPU")

for handler in list(tf.get_logger().handlers):  # made for a stream that is closed by now
    tf.get_logger().removeHandler(handler)  # logging's own last resort writes to standard error


def use_defaults() -> None:
    """Whatever ~/.keras/keras.json says, and a model of the user's own has set in this process.

    It would change results, and no cache key knows of it.
    """
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)


def use_threads(count: int) -> None:
    """Let TensorFlow compute each operation with so many threads, from now on.

    How a sum is divided among threads decides its last bits. Raises ModelError if this process
    has begun to compute with another number: TensorFlow cannot change it then.
    """
    with _one_at_a_time:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(count)
        except RuntimeError as error:
            used = tf.config.threading.get_intra_op_parallelism_threads()
            raise ModelError(
                "A process computes with one number of threads, from its first computation on.",
                received=f"{count} threads after {used or 'one for each core'}",
                where="--threads",
                advice="Start another process.",
            ) from error
        tf.config.list_logical_devices()  # TensorFlow starts to compute: the number is fixed


__all__ = ["keras", "tf", "use_threads"]
