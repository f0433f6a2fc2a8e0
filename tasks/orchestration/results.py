"""Where Prefect keeps the stages' results, and why each stage ran or did not.

Prefect lets a stored record choose its own serializer, and its default ones run code that
the record names. Here what is stored is an `Entry`: nothing is parsed unless it is one, it
knows nothing but our own record types, and what Prefect is handed is made anew from it.
Whatever else lies in the folder is a miss, and so is an entry whose files are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect.context import FlowRunContext
from prefect.filesystems import WritableFileSystem
from prefect.results import ResultStore
from prefect.serializers import Serializer
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings
from pydantic import PrivateAttr

from tasks.cache.blobs import Store
from tasks.cache.checkpoints import Checkpoints
from tasks.cache.entries import RESULT_TYPES, Entries, Entry, decode_result
from tasks.cache.ingredients import Ingredients, what_changed
from tasks.errors import EntryError, PayloadError, StoreError
from tasks.orchestration.ledger import new_ledger
from tasks.orchestration.locks import KernelLocks
from tasks.records import BlobRef, Record
from tasks.settings import RunSettings

FAILURE = "failure"


class StageRecordSerializer(Serializer):  # bare: Prefect would register a parametrised base, too
    """JSON of our own record types, and of nothing else."""

    type: Literal["stage-record"] = "stage-record"

    def dumps(self, obj: Any) -> bytes:
        """Encode a record. A failure is encoded by name only: it is never stored."""
        if isinstance(obj, BaseException):
            return json.dumps({"kind": FAILURE, "value": type(obj).__name__}).encode()
        if type(obj) not in RESULT_TYPES.values():
            raise TypeError(f"A stage returns one of {', '.join(RESULT_TYPES)}. Received: {obj!r}.")
        return json.dumps(
            {"kind": type(obj).__name__, "value": obj.model_dump(mode="json")}
        ).encode()

    def loads(self, blob: bytes) -> Record:
        """Decode a record. Raises ValueError for anything else."""
        return decode_result(**json.loads(blob))


@dataclass
class Lookup:
    """What became of the search for one stage's result in this run."""

    ingredients: Ingredients
    found: Entry | None = None
    damage: str = ""  # for instance "lost: x_train"
    disowned: str | None = None  # why it is not kept; empty if nobody needs to know
    remark: str = ""  # what else there is to say about how it was computed
    failure: StoreError | None = None


class StageResults(WritableFileSystem):
    """The results of a store, as Prefect's result storage."""

    _block_type_name = "Stage results"
    _block_type_slug = "mnist-pipeline-stage-results"

    root: Path

    _lookups: dict[str, Lookup] = PrivateAttr(default_factory=dict)
    _declined: dict[str, str] = PrivateAttr(default_factory=dict)
    _condemned: set[str] = PrivateAttr(default_factory=set)

    @property
    def entries(self) -> Entries:
        """The entries in the store's folder."""
        return Entries(Store(root=self.root))

    def expect(self, ingredients: Ingredients) -> None:
        """Begin the account of a stage whose result will be looked up."""
        self._declined.pop(ingredients.stage, None)
        self._lookups[ingredients.stage] = Lookup(ingredients)

    def decline(self, stage: str, why: str) -> None:
        """Begin the account of a stage whose result is neither looked up nor kept."""
        self._lookups.pop(stage, None)
        self._declined[stage] = why

    def condemn(self, ref: BlobRef) -> None:
        """Remove a stored file that is not what its name says, so that it is computed anew."""
        self._condemned.add(ref.sha256)
        self.entries.store.discard(ref)

    def disown(self, stage: str, why: str) -> None:
        """Do not keep the result that the stage has computed: it is not its key's."""
        if stage in self._lookups:
            self._lookups[stage].disowned = why
            Checkpoints(self.entries.store, self._lookups[stage].ingredients.key).clear()

    def key(self, stage: str) -> str | None:
        """The key that the stage's result will be kept under; None if it will not be."""
        lookup = self._lookups.get(stage)
        if lookup is None or lookup.disowned is not None:
            return None
        return lookup.ingredients.key

    def remark(self, stage: str, text: str) -> None:
        """Add to the reason why the stage ran."""
        if stage in self._lookups:
            self._lookups[stage].remark = text

    def _resolve_path(self, path: str) -> Path:
        """Asked for by Prefect, which makes keys absolute and relative again with it."""
        return self.entries.path(path)

    def read_path(self, path: str, _sync: bool = True) -> bytes:  # type: ignore[override]  # called either way
        """A stored result. Raises StoreError or OSError for what must count as a miss."""
        entries, key = self.entries, Path(path).name
        lookup = self._lookup(key)
        try:
            entry = entries.read(key)
        except EntryError:
            lookup.damage = "corrupt: result"
            raise
        for name, ref in entry.result.stored_files().items():
            if not entries.store.holds(ref):
                altered = ref.sha256 in self._condemned or entries.store.path(ref).exists()
                lookup.damage = f"{'corrupt' if altered else 'lost'}: {name}"
                raise PayloadError(ref, "A cached result's files must be there.", received=name)
        lookup.found = entry
        entries.touch(key)
        result = StageRecordSerializer().dumps(entry.result).decode()
        metadata = {"storage_key": key, "serializer": {"type": "stage-record"}}
        return json.dumps({"metadata": metadata, "result": result}).encode()

    def write_path(  # type: ignore[override]  # Prefect calls either kind
        self, path: str, content: bytes, _sync: bool = True
    ) -> None:
        """Store a result in one step. Failures are not stored."""
        envelope = json.loads(json.loads(content)["result"])
        if envelope["kind"] == FAILURE:
            return
        lookup = self._lookup(Path(path).name)
        if lookup.disowned is not None:
            return
        entry = Entry.of(decode_result(**envelope), lookup.ingredients)
        try:
            self.entries.write(entry)
        except StoreError as error:  # Prefect would log it and go on
            lookup.failure = error
        else:
            Checkpoints(self.entries.store, entry.ingredients.key).clear()

    def settle(self, stage: str, *, cached: bool) -> str:
        """Close a stage's account: note its run and say why it ran or did not.

        Raises StoreError when its result could not be stored.
        """
        if stage in self._declined:
            return self._declined[stage]
        lookup = self._lookups[stage]
        if lookup.failure:
            raise lookup.failure
        if lookup.disowned:
            return lookup.disowned
        latest = self.entries.latest(stage)
        if latest != lookup.ingredients and lookup.disowned is None:
            self.entries.note_latest(lookup.ingredients)
        if cached:
            return _why_not(lookup, latest)
        return "; ".join(filter(None, (_why(lookup, latest), lookup.remark)))

    def _lookup(self, key: str) -> Lookup:
        return next(found for found in self._lookups.values() if found.ingredients.key == key)


def _why_not(lookup: Lookup, latest: Ingredients | None) -> str:
    if latest == lookup.ingredients or lookup.found is None:
        return "unchanged"
    return f"unchanged (as on {lookup.found.computed.astimezone():%Y-%m-%d})"


def _why(lookup: Lookup, latest: Ingredients | None) -> str:
    if PREFECT_TASKS_REFRESH_CACHE.value():
        return "refresh"
    if lookup.damage:
        return lookup.damage
    if latest is None:
        return "first run"
    return what_changed(latest, lookup.ingredients) or "lost: result"


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
        result_storage=StageResults(root=store.root),
        serializer=StageRecordSerializer(),
        lock_manager=KernelLocks(store.locks),
    )
    refresh = temporary_settings({PREFECT_TASKS_REFRESH_CACHE: settings.refresh})
    with flow_run.model_copy(update={"result_store": results}), refresh, new_ledger():
        yield store
