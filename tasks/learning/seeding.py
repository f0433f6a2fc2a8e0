"""Seeds that hold although other threads draw random numbers, too.

Keras takes the seeds of layers and initializers from Python's `random`, which the whole process
shares: Prefect's threads draw the pauses between their requests from it. One such draw while a
network is built, and its initial weights are others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any

from tasks.learning.backend import keras

Draw = Callable[..., Any]

# `random`'s functions are the methods of one hidden generator.
DRAWS = [
    name
    for name, function in vars(random).items()
    if getattr(function, "__self__", None) is random.seed.__self__  # type: ignore[attr-defined]
]
_one_at_a_time = Lock()  # NumPy's and TensorFlow's global seeds are the process's


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let all that this thread draws through Keras, `random`, NumPy and TensorFlow follow a seed.

    Other threads go on with the `random` they had, or wait if they are to be seeded as well.
    """
    with _one_at_a_time:
        keras.utils.set_random_seed(seed)
        shared: dict[str, Draw] = {name: getattr(random, name) for name in DRAWS}
        own = random.Random(seed)  # noqa: S311 - weights, not secrets
        for name, draw in shared.items():
            setattr(random, name, _for_this_thread(getattr(own, name), otherwise=draw))
        try:
            yield
        finally:
            vars(random).update(shared)


def _for_this_thread(draw: Draw, otherwise: Draw) -> Draw:
    thread = get_ident()

    def chosen(*args: object, **options: object) -> object:
        return (draw if get_ident() == thread else otherwise)(*args, **options)

    return chosen
