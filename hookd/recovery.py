"""Stage recovery: data files that zdb asks back (missing-data).

The invariants: a live file is never touched. What is retrieved is staged, checked, fsynced and linked
into place, and if a file has appeared there meanwhile, that one stays. And nothing is placed that is
shorter than what index entries here point into: zdb would not ask for it again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from hookd import faults
from hookd.backoff import Backoff
from hookd.errors import (
    ChecksumMismatch,
    Conflict,
    JournalError,
    NoRoom,
    RemoteMissing,
    StoreError,
    StorePermanent,
    StoreUnreachable,
)
from hookd.files import FileKey, Roots, data_key, index_key
from hookd.journal import Job, Journal, LedgerEntry
from hookd.log import get
from hookd.restore.belongs import belongs
from hookd.restore.ends import Ends
from hookd.restore.fit import too_short
from hookd.restore.growth import Growth
from hookd.restore.place import check, put_in_place
from hookd.scheduler import Scheduler
from hookd.snapshot import RETRIEVES, Staging
from hookd.stores.base import Store
from hookd.wire import Answer

log = get("recovery")


class Retriever:
    """Brings one missing data file back; single flight per file."""

    def __init__(
        self,
        *,
        journal: Journal,
        store: Store,
        staging: Staging,
        scheduler: Scheduler,
        roots: Roots,
        deadline_s: float,
        backoff: Backoff,
        prefetch: int = 0,
        noted: Callable[[], None] = lambda: None,
    ) -> None:
        """`deadline_s` bounds one retrieve with its retries: zdb is frozen all the while. `prefetch`: how
        many files are fetched ahead once two in a row were asked back. `noted` is told of a ledger entry
        that no job settled.
        """
        self._journal = journal
        self._store = store
        self._staging = staging
        self._scheduler = scheduler
        self._roots = roots
        self._deadline_s = deadline_s
        self._backoff = backoff
        self._noted = noted
        self._ends = Ends(roots)
        self._locks: dict[FileKey, anyio.Lock] = {}
        self._prefetch = prefetch
        self._newest_asked: dict[str, int] = {}
        self._ahead: asyncio.Task[None] | None = None
        self._ahead_key: FileKey | None = None
        self._yielding: dict[FileKey, anyio.CancelScope] = {}
        self._stopped = False
        self.asked = 0
        """Retrieves under way that zdb waits for."""
        self.growth = Growth()
        """What is here of files on their way."""
        self._wanted: dict[FileKey, int] = {}
        self.prefetched = 0
        self.retrieved = 0
        self.failed = 0
        self.last_error: str | None = None

    @property
    def running(self) -> Collection[FileKey]:
        """Files that are being brought back now."""
        return self._locks.keys()

    def arriving(self) -> dict[FileKey, tuple[int, int | None]]:
        """(bytes here, of how many) of files that take longer than a second; None: nobody knows."""
        found = self.growth.bytes.items()
        return {key: (size, self._wanted.get(key)) for key, size in found}

    async def retrieve(self, key: FileKey) -> Answer:
        """The file is where zdb looks for it (0), or one line why not (1)."""
        self._give_way(key)
        started = time.monotonic()
        self.asked += 1
        try:
            async with self._alone(key):
                await self._until_deadline(key)
        except (StoreError, NoRoom, OSError, JournalError) as error:
            self.failed += 1
            self.last_error = f"{key}: {error}"
            log.error("not retrieved", file=str(key), error=str(error))
            return Answer(1, f"{key} cannot be retrieved: {error}")
        finally:
            self.asked -= 1
        self.retrieved += 1
        took = round(time.monotonic() - started, 3)
        log.info("retrieved", file=str(key), seconds=took)
        self._look_ahead(key)
        return Answer(0, "")

    @asynccontextmanager
    async def _alone(self, key: FileKey) -> AsyncIterator[None]:
        """Nobody else brings that file meanwhile."""
        lock = self._locks.setdefault(key, anyio.Lock())
        async with lock:
            try:
                yield
            finally:
                if not lock.statistics().tasks_waiting:
                    self._locks.pop(key, None)

    # -- ahead ---------------------------------------------------------------------------------

    async def bring(self, key: FileKey) -> bool:
        """A sealed data file that zdb does not wait for; False where it gave way to one that it does.

        Not placed if the namespace was deleted meanwhile. Raises StoreError, NoRoom, OSError,
        TimeoutError, JournalError.
        """
        if self._stopped:
            raise StoreUnreachable("get", key, "hookd stops")
        with anyio.CancelScope() as scope:
            self._yielding[key] = scope
            try:
                await self._quietly(key)
                return True
            finally:
                self._yielding.pop(key, None)
        return False

    async def _quietly(self, key: FileKey) -> None:
        sealed = self._roots.path(index_key(key.namespace, key.number + 1))
        async with self._alone(key):
            with anyio.fail_after(self._deadline_s):
                await self._once(key, still_wanted=sealed.exists)

    def _give_way(self, key: FileKey) -> None:
        """What zdb waits for comes before what it may want next."""
        if self._ahead is not None and self._ahead_key != key:
            self._ahead.cancel()
        for other, scope in self._yielding.items():
            if other != key:
                scope.cancel()

    def _look_ahead(self, key: FileKey) -> None:
        before = self._newest_asked.get(key.namespace)
        self._newest_asked[key.namespace] = key.number
        busy = self._ahead is not None and not self._ahead.done()
        if self._prefetch and before == key.number - 1 and not busy:
            self._ahead = asyncio.ensure_future(self._fetch_ahead(key))

    async def _fetch_ahead(self, key: FileKey) -> None:
        """The next sealed data files, one after the other; the first that fails ends it quietly."""
        for number in range(key.number + 1, key.number + 1 + self._prefetch):
            wanted = data_key(key.namespace, number)
            sealed = self._roots.path(index_key(key.namespace, number + 1))
            live = self._roots.path(wanted)
            if not sealed.exists() or live.exists():
                continue
            self._ahead_key = wanted
            try:
                await self._quietly(wanted)
                self.prefetched += 1
                self._newest_asked[key.namespace] = number
            except (StoreError, NoRoom, OSError, TimeoutError, JournalError) as error:
                log.info("not fetched ahead", file=str(wanted), error=str(error))
                return
            finally:
                self._ahead_key = None

    def stop(self) -> None:
        """Fetch nothing more that zdb does not wait for."""
        self._stopped = True
        if self._ahead is not None:
            self._ahead.cancel()
        for scope in self._yielding.values():
            scope.cancel()

    # -- one file ------------------------------------------------------------------------------

    async def _until_deadline(self, key: FileKey) -> None:
        """Try again what may work later. Raises the last error."""
        ends = time.monotonic() + self._deadline_s
        attempts, before = 0, ""
        while True:
            attempts += 1
            try:
                with anyio.fail_after(max(0.1, ends - time.monotonic())):
                    await self._once(key)
                return
            except TimeoutError:
                detail = f"no answer within {self._deadline_s:g} s{before}"
                raise StoreUnreachable("get", key, detail) from None
            except (StorePermanent, RemoteMissing):
                raise
            except StoreError as error:
                wait_s = self._backoff.after(attempts)
                if time.monotonic() + wait_s >= ends:
                    raise
                before = f"; the time before: {error.detail}"
                log.warning("retrieve failed, again", file=str(key), error=str(error))
                await anyio.sleep(wait_s)

    async def _once(self, key: FileKey, *, still_wanted: Callable[[], bool] = lambda: True) -> None:
        """`still_wanted` is asked right before the file is placed: zdb does not wait for one that is
        fetched ahead, and may have deleted the namespace and made another of its name meanwhile.
        """
        live = self._roots.path(key)
        if await anyio.to_thread.run_sync(live.exists):
            return
        known = await self._journal.find_ledger(key)
        folder = Path(await anyio.to_thread.run_sync(self._private_folder))
        target = folder / key.name
        # read beside the store's work: zdb is frozen
        reading = asyncio.ensure_future(
            anyio.to_thread.run_sync(self._ends.of, key, abandon_on_cancel=True)
        )
        try:
            if known is not None:
                self._wanted[key] = known.size_bytes
            async with self.growth.watch(key, target):
                expected = await self._newest(key, target, known)
            faults.point("retrieve-staged")
            size = await anyio.to_thread.run_sync(check, key, target, expected)
            faults.point("retrieve-verified")
            if size < (end := await reading):
                short = too_short(key, size, end, "in the store")
                if not _never_longer(known, expected, size):
                    await self._note_size(known, expected, size, sealed=False)
                    raise StorePermanent("get", key, short)
                log.warning(
                    "some values were lost before it was stored", file=str(key), reason=short
                )
            await self._note_size(known, expected, size)

            def place() -> None:
                if still_wanted():
                    put_in_place(target, live)

            await anyio.to_thread.run_sync(place)
            faults.point("retrieve-linked")
        finally:
            self._wanted.pop(key, None)
            reading.cancel()
            # not awaited in a cancelled scope: a leftover is removed at the next start
            shutil.rmtree(folder, ignore_errors=True)

    async def _note_size(
        self, known: LedgerEntry | None, digest: bytes, size: int, *, sealed: bool = True
    ) -> None:
        """The ledger has the real length from now on. Of a file that was restored from a store which
        tells no sizes it has only what entries needed then. `sealed`: as far as it was taken to be.
        """
        if known is None or known.digest != digest or known.size_bytes == size:
            return
        real = replace(known, size_bytes=size, sealed=known.sealed and sealed)
        await self._journal.adopt([real], seen={known.key: digest})
        self._scheduler.remote(known.key, size, sealed=real.sealed)
        self._noted()

    def _private_folder(self) -> str:
        self._staging.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix=RETRIEVES, dir=self._staging.folder)

    async def _newest(self, key: FileKey, target: Path, known: LedgerEntry | None) -> bytes:
        """Fill `target` with the newest content there is; returns the digest it must have."""
        for job in self._scheduler.of(key)[-1:]:  # an earlier one is shorter
            if _is_newest(job, known):
                assert job.staged is not None and job.digest is not None
                snapshot = self._staging.path(job.staged)
                try:
                    await anyio.to_thread.run_sync(shutil.copyfile, snapshot, target)
                    return job.digest
                except FileNotFoundError:
                    pass  # stored a moment ago
        retired = known is None and await self._journal.was_retired(key)
        remote = await self._store.stat(key)
        if remote is None:
            await self._store.prove_absence()
            raise RemoteMissing("get", key, "the store has no such file")
        other = known is not None and remote.digest != known.digest
        if known is not None and other and (known.job or known.sealed):
            raise ChecksumMismatch(
                "get",
                key,
                f"the store has {remote.digest.hex()}, the ledger says {known.digest.hex()}",
            )
        await self._store.get(key, target)
        if retired or other:  # the manifest that named it so was behind, or it is another's
            await self._claim(key, target, remote.digest, known)
        return remote.digest

    async def _claim(
        self, key: FileKey, target: Path, digest: bytes, known: LedgerEntry | None
    ) -> None:
        """The ledger counts the file to a namespace that was deleted, or knows of it what a manifest said
        before it was whole. Raises RemoteMissing if it is not the one that the indexes here point into.

        It is wrong of a file of the next namespace of that name which was stored before the deletion was
        heard of: then the entries here point to its very values, and it is theirs from now on.
        """
        await anyio.to_thread.run_sync(check, key, target, digest)
        if not await anyio.to_thread.run_sync(belongs, self._roots, key, target):
            detail = "what the store has is not what the indexes here point into"
            if known is None:
                detail = "what the store has is of a namespace of that name which was deleted"
            raise RemoteMissing("get", key, detail)
        size = os.stat(target).st_size
        entry = LedgerEntry(
            key=key, size_bytes=size, digest=digest, stored_at=time.time(), sealed=True
        )
        await self._journal.adopt([entry], seen={} if known is None else {key: known.digest})
        self._scheduler.remote(key, size, sealed=True)
        self._noted()
        log.warning("it is of the namespace that is here", file=str(key))


def _never_longer(known: LedgerEntry | None, digest: bytes, size: int) -> bool:
    """Whether this is all that there ever was of a data file, to the knowledge of who stored it."""
    return known is not None and known.sealed and (known.digest, known.size_bytes) == (digest, size)


def _is_newest(job: Job, known: LedgerEntry | None) -> bool:
    """Whether the job's snapshot has all that is proven remote; one in conflict has other content."""
    if job.staged is None or job.digest is None or job.error_class == Conflict.error_class:
        return False
    return known is None or (job.size_bytes or 0) >= known.size_bytes
