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
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from hookd import entries, faults
from hookd.entries import NotAnIndex, Reach
from hookd.errors import ChecksumMismatch, RemoteMissing, StoreTemporary
from hookd.files import FileKey, Kind, Roots, data_key, index_key, namespace_key
from hookd.journal import Job, LedgerEntry
from hookd.log import get
from hookd.manifest import Manifest
from hookd.restore import remote
from hookd.restore.doubts import Doubts
from hookd.restore.fit import Refused, bogus, fits, too_short
from hookd.restore.growth import Growth
from hookd.restore.local import WORK, Local, forget_fetched
from hookd.restore.place import check, make_folder, put_in_place
from hookd.restore.progress import Progress
from hookd.restore.proof import Proven, as_continued, as_named, as_proven
from hookd.restore.remote import There
from hookd.snapshot import hash_live
from hookd.stores.base import Remote, Store

log = get("restore")

SAY_EVERY_S = 10.0


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
    ledger: list[LedgerEntry]
    """All that the store has of the namespace."""
    altered: str = ""
    """What of it is not what was stored, or lacks, where that is brought all the same."""
    holes: tuple[FileKey, ...] = ()
    """Data files that come not, or not whole, and did not have more when they were stored."""


NOTHING: Proven = {}


async def _nothing() -> None:
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
        self._snapshot = snapshot
        self._say = say
        self.progress: Progress | None = None
        """Of the restore that runs now."""
        self._said = 0.0
        self._growth = Growth(self._tell)

    async def restore(
        self,
        local: Local,
        there: There,
        manifest: Manifest | None,
        *,
        proven: Proven = NOTHING,
        fetched: Callable[[], Awaitable[None]] = _nothing,
    ) -> Done:
        """Raises Refused, StoreError, OSError (no room). Cancelled or failed, it can be done again.

        `proven`: what the ledger says of files there, as far as that is to be relied on. `fetched` is
        awaited when all is fetched and fits, before anything is placed; what it raises ends the restore.
        """
        namespace = local.namespace
        self._doubts = Doubts(as_it_is=self._as_it_is)
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
        self.progress = Progress(namespace, arriving=self._growth.bytes)
        self._say(self.progress)
        try:
            if not there.indexes:
                return await self._restore_descriptor(local, there, proven, fetched)
            return await self._restore(local, there, manifest, proven, fetched)
        finally:
            self.progress = None

    async def _restore(
        self,
        local: Local,
        there: There,
        manifest: Manifest | None,
        proven: Proven,
        fetched: Callable[[], Awaitable[None]],
    ) -> Done:
        namespace = local.namespace
        await anyio.to_thread.run_sync(self._make_folders, namespace)
        here = {key: size for key, size in local.lengths.items() if not bogus(local, key, there)}
        wanted = [k for k in there.all if k.kind is not Kind.DATA and k not in here]
        self._doubts.sound(as_proven, wanted, there, proven)
        sizes = await self._fetch(wanted, there)
        indexes = sorted({*there.indexes, *(k.number for k in here if k.kind is Kind.INDEX)})
        self._does("reading the indexes")
        reach = await anyio.to_thread.run_sync(self._reach, namespace, indexes, here)
        active = indexes[-1]
        # of an index that is damaged nobody knows where it points to
        rest = range(active) if self._as_it_is else ()
        numbers = sorted({*reach.ends, *rest, active})
        await remote.look_for_data(self._store, there, numbers, manifest)
        lacks = partial(self._doubts.lacks, there, manifest, active)
        fits(namespace, reach, active, here, there, lacks)
        self._doubts.sound(as_named, there, manifest)
        self._doubts.sound(as_proven, there.files.keys() - here.keys(), there, proven)
        data = self._data_to_fetch(namespace, numbers, active, here, there)
        sizes |= await self._fetch(data, there)
        for key in data:
            end = reach.ends.get(key.number, 0)
            if sizes[key] < end:
                lacks(key, too_short(key, sizes[key], end, "in the store"))
        brought = [*wanted, *data]

        def where(key: FileKey) -> Path:
            return self._work(key) if key in sizes else self._roots.path(key)

        looked_at = {*brought, *there.files} if self._as_it_is else brought
        others = [key for key in looked_at if key not in proven and key in {*sizes, *here}]
        continued = partial(as_continued, others, there, manifest, where)
        await anyio.to_thread.run_sync(self._doubts.sound, continued)
        faults.point("restore-fetched")
        self._does("putting them in place")
        await fetched()
        await anyio.to_thread.run_sync(self._place, wanted, data, local, there)
        faults.point("restore-placed")
        await anyio.to_thread.run_sync(forget_fetched, self._roots, namespace)
        # what waits is not stored yet; what is stored of it has another length
        fetched_sizes = {key: size for key, size in sizes.items() if key not in there.waiting}
        measured = fetched_sizes | await anyio.to_thread.run_sync(self._measured, here, there)
        ledger = [
            self._entry(key, found, measured, reach, active, manifest)
            for key, found in there.files.items()
        ]
        size = sum(sizes[key] for key in brought)
        doubts = self._doubts
        return Done(namespace, len(brought), size, ledger, doubts.first, doubts.holes)

    def _does(self, what: str) -> None:
        """For whoever looks on."""
        if self.progress is not None:
            self.progress.doing = what
            self._say(self.progress)

    async def _restore_descriptor(
        self,
        local: Local,
        there: There,
        proven: Proven,
        fetched: Callable[[], Awaitable[None]],
    ) -> Done:
        """A namespace that was made, and of which nothing else was stored: its password comes back."""
        key = namespace_key(local.namespace)
        await anyio.to_thread.run_sync(self._make_folders, local.namespace)
        wanted = [key] if key in there.all else []
        self._doubts.sound(as_proven, wanted, there, proven)
        sizes = await self._fetch(wanted, there)
        await fetched()
        await anyio.to_thread.run_sync(self._place, wanted, [], local, there)
        await anyio.to_thread.run_sync(forget_fetched, self._roots, local.namespace)
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
        return Done(local.namespace, len(wanted), sum(sizes.values()), ledger)

    def _data_to_fetch(
        self,
        namespace: str,
        numbers: Sequence[int],
        active: int,
        here: Mapping[FileKey, int],
        there: There,
    ) -> list[FileKey]:
        wanted = numbers if self._full else [active]
        keys, stored = [data_key(namespace, number) for number in wanted], there.all
        return [key for key in keys if key not in here and key in stored]

    # -- fetching ------------------------------------------------------------------------------

    def _work(self, key: FileKey) -> Path:
        """Where a fetched file waits."""
        return self._roots.path(key).parent / WORK / key.name

    def _make_folders(self, namespace: str) -> None:
        for root in (self._roots.index, self._roots.data):
            root.mkdir(parents=True, exist_ok=True)
            make_folder(root / namespace, root)
            make_folder(root / namespace / WORK, root / namespace)

    async def _fetch(self, keys: Sequence[FileKey], there: There) -> dict[FileKey, int]:
        """Every one of them into WORK, proven; their lengths."""
        progress = self.progress
        assert progress is not None
        progress.files_total += len(keys)
        progress.doing = ""
        progress.bytes_total += sum(there.all[key].size_bytes or 0 for key in keys)
        self._say(progress)

        async def one(key: FileKey) -> int:
            size = await self._fetch_one(key, there)
            progress.files_done += 1
            progress.bytes_done += size
            self._tell()
            return size

        sizes = await remote.side_by_side(one, keys, self._store.readers)
        return dict(zip(keys, sizes, strict=True))

    def _tell(self) -> None:
        """Whoever looks on; and the log, now and then."""
        if (progress := self.progress) is None:
            return
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            log.info("restoring", progress=progress.line())
        self._say(progress)

    async def _fetch_one(self, key: FileKey, there: There) -> int:
        target = self._work(key)
        if key in there.waiting and (waiting := self._snapshot(key)) is not None:
            source, job = waiting
            assert job.digest is not None
            try:
                await anyio.to_thread.run_sync(shutil.copyfile, source, target)
                return await anyio.to_thread.run_sync(check, key, target, job.digest)
            except FileNotFoundError:
                pass  # stored a moment ago: the store has it
        found = there.all[key]
        try:
            return await anyio.to_thread.run_sync(check, key, target, found.digest)
        except FileNotFoundError:
            pass
        except ChecksumMismatch:  # cut off by a kill, or stored anew since
            await anyio.to_thread.run_sync(os.unlink, target)
        part = target.with_name(f"{target.name}.part")
        await anyio.to_thread.run_sync(lambda: part.unlink(missing_ok=True))
        try:
            async with self._growth.watch(key, part):
                await self._store.get(key, part)
        except RemoteMissing as error:
            raise StoreTemporary(
                "get", key, f"it was there a moment ago: {error.detail}"
            ) from error
        faults.point("restore-got")
        size = await anyio.to_thread.run_sync(check, key, part, found.digest)
        await anyio.to_thread.run_sync(os.rename, part, target)
        return size

    # -- does it fit? --------------------------------------------------------------------------

    def _reach(self, namespace: str, indexes: Sequence[int], here: Mapping[FileKey, int]) -> Reach:
        """What all index files together point to. Blocking. Raises Refused."""
        found = Reach()
        for number in indexes:
            key = index_key(namespace, number)
            path = self._roots.path(key) if key in here else self._work(key)
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
            if not put_in_place(self._work(key), self._roots.path(key), replace=replace):
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
