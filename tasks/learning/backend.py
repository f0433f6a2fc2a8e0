"""Keras on TensorFlow, imported without TensorFlow's chatter.

TensorFlow 2.21 writes a dozen lines about CPU features and absent GPUs while it is
imported, past every logging setting (tensorflow issue 100442). They are held back, and
shown only if the import fails.

This module takes 3 s to import: only the modules that stages import in their bodies do so.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def native_stderr_held_back() -> Iterator[None]:
    """Hold back what C++ writes to descriptor 2; `sys.stderr` goes on as before."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held, os.fdopen(original, "w", buffering=1) as stream:
        os.dup2(held.fileno(), 2)
        try:
            with redirect_stderr(stream):
                yield
        except Exception:
            held.seek(0)
            stream.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(stream.fileno(), 2)


with native_stderr_held_back():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices("GPU")  # has its say about CUDA now

for handler in list(tf.get_logger().handlers):  # made for a stream that is closed by now
    tf.get_logger().removeHandler(handler)  # logging's own last resort writes to standard error
# Whatever ~/.keras/keras.json says: it would change results, and no cache key knows of it.
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")

__all__ = ["keras", "tf"]
