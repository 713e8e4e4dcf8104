"""Brings one namespace back: fetch what is absent, prove it, see that it fits, place it.

In: what is here (`Local`), what is there (`There`); out: a namespace that zdb loads whole. Invariants:

- a file that is here is never touched, but for the blank ones that zdb made itself;
- nothing is placed before everything that zdb loads at its start has been fetched and proven: each file
  against the store's own checksum, the set by reading every index entry: what it points to is there, in
  full. A data file without its index is never placed;
- what it brings is what was stored, by the ledger or by the manifest (`proof`);
- placed in the order active data, then indexes from the newest down, then the descriptor, then i0: zdb
  sees nothing before the last step;
- killed at any point it goes on where it was: fetched files wait in WORK, not to be fetched again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from hookd import entries, faults
from hookd.entries import NotAnIndex, Reach
from hookd.files import FileKey, Kind, Roots, data_key, index_key, namespace_key
from hookd.journal import Job, LedgerEntry
from hookd.log import get
from hookd.manifest import Manifest
from hookd.restore import remote
from hookd.restore.doubts import Doubts
from hookd.restore.fetches import Fetches
from hookd.restore.fit import Refused, bogus, fits, too_short
from hookd.restore.local import CHOSEN, WORK, Local, forget_fetched
from hookd.restore.place import put_in_place
from hookd.restore.progress import Progress
from hookd.restore.proof import Proven, as_continued, as_named, as_proven
from hookd.restore.remote import There
from hookd.snapshot import hash_live
from hookd.stores.base import Remote, Store

log = get("restore")

UNWAITED = (
    "zdb did not wait until the restore was whole (was its hook killed?); start it again,"
    " the restore goes on"
)


class Disturbed(Refused):
    """zdb has made files of its own while its namespaces were being restored."""


@dataclass(slots=True)
class Done:
    """What one restore brought."""

    namespace: str
    files: int
    bytes: int
    altered: str = ""
    """What of it is not what was stored, or lacks, where that is brought all the same."""
    holes: tuple[FileKey, ...] = ()
    """Data files that come not, or not whole, and did not have more when they were stored."""
    spared: tuple[FileKey, ...] = ()
    """Data files that are not as they were stored, and do not come, as somebody chose."""


NOTHING: Proven = {}


Fetched = Callable[[Sequence[LedgerEntry]], Awaitable[None]]
"""Told all that the store has of a namespace, before any of it is placed."""


async def _nothing(entries: Sequence[LedgerEntry]) -> None:
    """Nobody minds."""


class Restorer:
    """Restores namespaces from `store` into `roots`."""

    def __init__(
        self,
        *,
        store: Store,
        roots: Roots,
        full: bool = False,
        as_it_is: bool = False,
        snapshot: Callable[[FileKey], tuple[Path, Job] | None] = lambda key: None,
        say: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """`full`: all data files come, not only the active one; `as_it_is`: all that there is, altered or
        no whole, and `Done` names the first reason. `snapshot` finds a newer content that waits in the
        staging folder for its turn; `say` is told now and then.
        """
        self._store = store
        self._roots = roots
        self._full = full
        self._as_it_is = as_it_is
        self._doubts = Doubts(as_it_is=as_it_is)
        self._fetches = Fetches(store, roots, snapshot=snapshot, say=say)

    @property
    def progress(self) -> Progress | None:
        """Of the restore that runs now."""
        return self._fetches.progress

    async def restore(
        self,
        local: Local,
        there: There,
        manifest: Manifest | None,
        *,
        proven: Proven = NOTHING,
        fetched: Fetched = _nothing,
        chosen: bool = False,
    ) -> Done:
        """Raises Refused, StoreError, OSError (no room). Cancelled or failed, it can be done again.

        `proven`: what the ledger says of files there, as far as that is to be relied on. `fetched` is
        awaited when all is fetched and fits, before anything is placed; what it raises ends the restore.
        `chosen`: somebody wants what is stored, whatever of its values is lost; what is here beside
        `local` is out of the way once that was awaited.
        """
        namespace = local.namespace
        holes = manifest.holes if manifest is not None else ()
        self._doubts = Doubts(as_it_is=self._as_it_is, spares=chosen, known=holes)
        self._fetches.folder = CHOSEN if chosen else WORK
        if there.gap is not None:
            self._doubts.refuse(f"the store lacks i{there.gap} of {namespace}; it has later ones")
        named = manifest.numbers(namespace, Kind.INDEX) if manifest is not None else []
        whole = local.gap is None and not local.lacks_active_data and not local.interrupted
        if not there.indexes and (named or not (local.blank or whole)):
            raise Refused(f"the store has no index files of {namespace}")
        gone = {*named} - {*there.indexes, *local.indexes}
        if gone:
            self._doubts.refuse(
                f"the store lacks i{max(gone)} of {namespace}, which its manifest names"
            )
        self._fetches.begin(namespace)
        try:
            if not there.indexes:
                return await self._restore_descriptor(local, there, proven, fetched)
            return await self._restore(local, there, manifest, proven, fetched)
        finally:
            self._fetches.end()

    async def _restore(
        self,
        local: Local,
        there: There,
        manifest: Manifest | None,
        proven: Proven,
        fetched: Fetched,
    ) -> Done:
        namespace = local.namespace
        await anyio.to_thread.run_sync(self._fetches.make_folders, namespace)
        here = {key: size for key, size in local.lengths.items() if not bogus(local, key, there)}
        wanted = [k for k in there.all if k.kind is not Kind.DATA and k not in here]
        as_proven(wanted, there, proven, self._doubts.altered)
        sizes = await self._fetches.fetch(wanted, there)
        indexes = sorted({*there.indexes, *(k.number for k in here if k.kind is Kind.INDEX)})
        self._fetches.says("reading the indexes")
        reach = await anyio.to_thread.run_sync(self._reach, namespace, indexes, here)
        self._doubts.active = active = indexes[-1]
        # of an index that is damaged nobody knows where it points to
        rest = range(active) if self._as_it_is else ()
        numbers = sorted({*reach.ends, *rest, active})
        await remote.look_for_data(self._store, there, numbers, manifest)
        lacks = partial(self._doubts.lacks, there, manifest)
        fits(namespace, reach, active, here, there, lacks)
        as_named(there, manifest, self._doubts.altered)
        as_proven(there.files.keys() - here.keys(), there, proven, self._doubts.altered)
        data = self._data_to_fetch(namespace, numbers, active, here, there)
        sizes |= await self._fetches.fetch(data, there)
        for key in data:
            end = reach.ends.get(key.number, 0)
            if sizes[key] < end:
                lacks(key, too_short(key, sizes[key], end, "in the store"), 0)
        brought = [*wanted, *data]

        def where(key: FileKey) -> Path:
            return self._fetches.path(key) if key in sizes else self._roots.path(key)

        looked_at = {*brought, *there.files} if self._as_it_is else brought
        others = [key for key in looked_at if key not in proven and key in {*sizes, *here}]
        continued = partial(as_continued, others, there, manifest, where)
        await anyio.to_thread.run_sync(self._doubts.sound, continued)
        faults.point("restore-fetched")
        self._fetches.says("putting them in place")
        # what waits is not stored yet; what is stored of it has another length
        fetched_sizes = {key: size for key, size in sizes.items() if key not in there.waiting}
        measured = fetched_sizes | await anyio.to_thread.run_sync(self._measured, here, there)
        ledger = [
            self._entry(key, found, measured, reach, active, manifest)
            for key, found in there.files.items()
            if key not in self._doubts.spared  # what is known of them was right
        ]
        await fetched(ledger)
        faults.point("restore-known")
        await anyio.to_thread.run_sync(self._place, wanted, data, local, there)
        faults.point("restore-placed")
        await anyio.to_thread.run_sync(forget_fetched, self._roots, namespace)
        size = sum(sizes[key] for key in brought)
        doubts = self._doubts
        spared = tuple(sorted(doubts.spared, key=lambda key: key.number))
        return Done(namespace, len(brought), size, doubts.first, doubts.holes, spared)

    async def _restore_descriptor(
        self,
        local: Local,
        there: There,
        proven: Proven,
        fetched: Fetched,
    ) -> Done:
        """A namespace that was made, and of which nothing else was stored: its password comes back."""
        key = namespace_key(local.namespace)
        await anyio.to_thread.run_sync(self._fetches.make_folders, local.namespace)
        wanted = [key] if key in there.all else []
        as_proven(wanted, there, proven, self._doubts.altered)
        sizes = await self._fetches.fetch(wanted, there)
        ledger = [
            LedgerEntry(
                key=key,
                size_bytes=sizes[key],
                digest=there.files[key].digest,
                stored_at=time.time(),
                sealed=False,
            )
            for key in wanted
            if key not in there.waiting
        ]
        await fetched(ledger)
        await anyio.to_thread.run_sync(self._place, wanted, [], local, there)
        await anyio.to_thread.run_sync(forget_fetched, self._roots, local.namespace)
        return Done(local.namespace, len(wanted), sum(sizes.values()))

    def _data_to_fetch(
        self,
        namespace: str,
        numbers: Sequence[int],
        active: int,
        here: Mapping[FileKey, int],
        there: There,
    ) -> list[FileKey]:
        wanted = numbers if self._full else [active]
        keys = [data_key(namespace, number) for number in wanted]
        stored = there.all.keys() - self._doubts.spared
        return [key for key in keys if key not in here and key in stored]

    # -- does it fit? --------------------------------------------------------------------------

    def _reach(self, namespace: str, indexes: Sequence[int], here: Mapping[FileKey, int]) -> Reach:
        """What all index files together point to. Blocking. Raises Refused."""
        found = Reach()
        for number in indexes:
            key = index_key(namespace, number)
            path = self._roots.path(key) if key in here else self._fetches.path(key)
            try:
                found.add(entries.reach_of_file(path))
            except NotAnIndex as error:
                self._doubts.refuse(f"{key} {'here' if key in here else 'in the store'}: {error}")
        return found

    # -- placing -------------------------------------------------------------------------------

    def _place(
        self, wanted: Sequence[FileKey], data: Sequence[FileKey], local: Local, there: There
    ) -> None:
        """Blocking. What zdb needs to see anything at all comes last. Raises Disturbed."""
        indexes = sorted(
            (key for key in wanted if key.kind is Kind.INDEX), key=lambda key: -key.number
        )
        others = [key for key in wanted if key.kind is Kind.NAMESPACE]
        first = indexes.pop() if indexes else None
        old = [key for key in local.lengths if key.kind is Kind.DATA and key not in data]
        for key in old:  # blank ones of zdb's own, in whose place missing-data brings the real ones
            if key in there.all and bogus(local, key, there):
                os.unlink(self._roots.path(key))
        for key in [*data, *indexes, *others, *([first] if first else [])]:
            replace = key in local.lengths
            if not put_in_place(self._fetches.path(key), self._roots.path(key), replace=replace):
                raise Disturbed(UNWAITED)
            faults.point("restore-placing")

    def _measured(self, here: Mapping[FileKey, int], there: There) -> dict[FileKey, int]:
        """Lengths in the store that only a file here tells, because it is the same. Blocking."""
        sizes: dict[FileKey, int] = {}
        for key in here.keys() & there.files.keys():
            if there.files[key].size_bytes is None:
                digest, size = hash_live(self._roots.path(key))
                if digest == there.files[key].digest:
                    sizes[key] = size
        return sizes

    def _entry(
        self,
        key: FileKey,
        found: Remote,
        sizes: Mapping[FileKey, int],
        reach: Reach,
        active: int,
        manifest: Manifest | None,
    ) -> LedgerEntry:
        """What the ledger is to know. A size that nobody tells is what the index needs, at least, until
        the file is fetched (`recovery`).

        The active files are not sealed, whatever they were: zdb goes on writing to them.
        """
        size = sizes.get(key, found.size_bytes)
        if size is None:
            size = reach.ends.get(key.number, 0)
        named = manifest.files.get(key) if manifest else None
        return LedgerEntry(
            key=key,
            size_bytes=size,
            digest=found.digest,
            stored_at=named.stored_at if named and named.digest == found.digest else time.time(),
            sealed=key.kind is Kind.DATA and key.number < active,
        )
