r"""Where Prefect keeps the stages' results: small JSON records beside the arrays.

    <cache dir>/results/<cache key>
    {"metadata": {"serializer": {"type": "stage-record"}, …},
     "result": "{\"type\": \"DatasetRef\", \"value\": {…}}"}

Prefect lets a stored record choose its own serializer, and its default ones run code that
the record names. Here nothing is parsed unless it names this serializer, and this
serializer knows nothing but our own record types. Whatever else lies in the folder is a
miss, and so is a record whose arrays are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from prefect.context import FlowRunContext
from prefect.filesystems import WritableFileSystem
from prefect.results import ResultStore
from prefect.serializers import Serializer
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from tasks.ledger import new_ledger
from tasks.records import BlobRef, DatasetRef, Metrics, ModelRef, Record, ValidationReport
from tasks.settings import RunSettings
from tasks.store import Store, write_atomically

RESULT_TYPES: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (DatasetRef, ValidationReport, ModelRef, Metrics)
}
FAILURE = "failure"


class StageRecordSerializer(Serializer):  # bare: Prefect would register a parametrised base, too
    """JSON of our own record types, and of nothing else."""

    type: Literal["stage-record"] = "stage-record"

    def dumps(self, obj: Any) -> bytes:
        """Encode a record. A failure is encoded by name only: it is never stored."""
        if isinstance(obj, BaseException):
            return json.dumps({"type": FAILURE, "value": type(obj).__name__}).encode()
        if type(obj) not in RESULT_TYPES.values():
            raise TypeError(f"A stage returns one of {', '.join(RESULT_TYPES)}. Received: {obj!r}.")
        return json.dumps(
            {"type": type(obj).__name__, "value": obj.model_dump(mode="json")}
        ).encode()

    def loads(self, blob: bytes) -> Record:
        """Decode a record. Raises ValueError for anything else."""
        envelope = json.loads(blob)
        kind = RESULT_TYPES.get(envelope["type"])
        if kind is None:
            raise ValueError(f"A stored result is one of {', '.join(RESULT_TYPES)}.")
        return kind.model_validate_json(json.dumps(envelope["value"]))


class StageResults(WritableFileSystem):
    """The results folder of a store, as Prefect's result storage."""

    _block_type_name = "Stage results"
    _block_type_slug = "mnist-pipeline-stage-results"

    root: Path

    def _resolve_path(self, path: str) -> Path:
        """Asked for by Prefect, which makes keys absolute and relative again with it."""
        return self.root / "results" / path

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]  # called either way
        """A stored result. Raises ValueError or OSError for what must count as a miss."""
        content = self._resolve_path(path).read_bytes()
        envelope = json.loads(content)
        if envelope["metadata"]["serializer"] != {"type": "stage-record"}:
            raise ValueError("A stored result must be written by this pipeline's serializer.")
        record = StageRecordSerializer().loads(envelope["result"].encode())
        store = Store(root=self.root)
        lost = [ref for ref in _blobs(record) if not store.holds(ref)]
        if lost:
            raise ValueError(f"A stored result's files must exist. Received: {lost}.")
        return content

    def write_path(  # type: ignore[override]  # Prefect calls either kind
        self, path: str, content: bytes, _sync: bool = True
    ) -> None:
        """Store a result in one step. Failures are not stored."""
        if json.loads(json.loads(content)["result"])["type"] != FAILURE:
            write_atomically(self._resolve_path(path), content)


@contextmanager
def stored_run(settings: RunSettings) -> Iterator[Store]:
    """Let the stages of the current flow run keep results and arrays in the settings' cache.

    Raises StoreError when the cache folder cannot be used.
    """
    store = Store(root=settings.cache_root)
    store.prepare()
    flow_run = FlowRunContext.get()
    assert flow_run is not None, "stored_run belongs inside a flow"
    results = ResultStore(
        result_storage=StageResults(root=store.root), serializer=StageRecordSerializer()
    )
    refresh = temporary_settings({PREFECT_TASKS_REFRESH_CACHE: settings.refresh})
    with flow_run.model_copy(update={"result_store": results}), new_ledger(), refresh:
        yield store


def _blobs(record: Record) -> Iterator[BlobRef]:
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, BlobRef):
            yield value
