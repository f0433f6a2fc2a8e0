"""Code is digested and arrays are opened in several threads at once."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tasks.cache.blobs import Store
from tasks.cache.source import read_source

ROWS = np.zeros((2, 3), dtype=np.uint8)
STATEMENTS = "\n".join(f"a{n} = [{n}, ({n}, {{'x': {n}}})]" for n in range(300))


@pytest.fixture
def threads_change_in_the_parser() -> Iterator[None]:
    """Let other threads go on while garbage is collected, often: in the middle of parsing."""

    def pause(*_: object) -> None:
        time.sleep(0.0002)

    before = gc.get_threshold()
    gc.callbacks.append(pause)
    gc.set_threshold(50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(pause)


@pytest.mark.usefixtures("threads_change_in_the_parser")
def test_arrays_open_while_code_is_digested(store: Store, tmp_path: Path) -> None:
    ref = store.put_array(ROWS)
    sources = [tmp_path / f"source_{n}.py" for n in range(3)]
    for source in sources:
        source.write_text(STATEMENTS)

    with ThreadPoolExecutor(2) as threads:
        opened = threads.submit(lambda: [store.open_array(ref).sum() for _ in range(1000)])
        digests = [read_source(str(path), path.stem).sha256 for path in sources]

        assert not any(opened.result())
    assert len(set(digests)) == 1
