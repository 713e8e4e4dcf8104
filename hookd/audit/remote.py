"""Stage audit, the remote half: ledger entries against what the store says that it has.

The invariants: what differs is believed only if neither the ledger's entry changed nor a job stood for
the file between two looks; what is absent, only beside `Store.prove_absence`; and the store is asked one
bounded question at a time and worker, after `World.turn`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from hookd.audit.finding import Finding, Problem
from hookd.audit.world import World
from hookd.errors import PathRefused, StoreError, StoreUnreachable
from hookd.files import FileKey, Kind, data_key, index_key
from hookd.journal import Job, LedgerEntry
from hookd.restore.compare import prefix_digest
from hookd.stores.base import Remote, StatsMany

MOST_BEYOND = 64
"""Files that are looked for after the newest ones here."""

TRIES = 3
"""Looks at a file that is stored anew meanwhile; then it is left to the next audit."""

T = TypeVar("T")


class Remotes:
    """Asks the store of a `World`. `found` is told each finding."""

    def __init__(self, world: World, found: Callable[[Finding], None]) -> None:
        self._world = world
        self._found = found
        self.queued: list[FileKey] = []
        """Files that are stored again."""
        self.noted = 0
        """Files that the ledger did not know."""
        self.lost: set[FileKey] = set()
        """Files that were told to be in no place that is known."""

    async def compare(self, entry: LedgerEntry) -> None:
        """One ledger entry. Raises StoreUnreachable once the world's patience is at an end."""
        key = entry.key
        if self._world.covers(key):
            return
        try:
            there = await self.stat(key, entry.size_bytes)
            if not _same(entry, there):
                await self._look_again(key)
        except StoreUnreachable:
            raise
        except StoreError as error:
            detail = f"the store cannot say what it has: {error.detail}"
            self._found(Finding(key=key, problem=Problem.UNCHECKED, detail=detail, alarm=False))

    async def compare_many(self, entries: Sequence[LedgerEntry]) -> None:
        """As `compare` for each; where the store can, those that are as they should be cost one question.

        Raises StoreUnreachable.
        """
        store = self._world.store
        rest = entries
        if isinstance(store, StatsMany) and entries:
            keys = [entry.key for entry in entries]
            size = sum(entry.size_bytes for entry in entries)
            there = await self.call(keys[0], size, partial(store.stat_many, keys))
            rest = [e for e, one in zip(entries, there, strict=True) if not _same(e, one)]
        for entry in rest:
            await self.compare(entry)

    async def ask_for(self, key: FileKey, end: int) -> None:
        """A sealed data file that neither the disk nor the ledger has; entries need `end` bytes of it.

        What the store has of it comes into the ledger, so that a later retrieve is checked.
        """
        if self._world.covers(key):
            return
        try:
            there = await self.stat(key, end)
            if there is None and end:
                await self.call(key, 0, self._world.store.prove_absence)
                there = await self.stat(key, end)
        except StoreUnreachable:
            raise
        except StoreError as error:
            detail = f"it is not here, and the store cannot say whether it has it: {error.detail}"
            self._found(Finding(key=key, problem=Problem.UNCHECKED, detail=detail, alarm=False))
            return
        if await self._is_known(key):
            return  # while the store was asked
        if there is None:
            if end:
                detail = "index entries point into it, and it is neither here nor in the store"
                self._found(Finding(key=key, problem=Problem.LOST, detail=detail))
        elif there.size_bytes is not None:
            await self._take(key, there.digest, there.size_bytes, end)

    async def look_beyond(self, name: str) -> None:
        """What the store has of a namespace after its newest files here: of a frontend before this one,
        whose put came late. It is nobody's: a restore leaves it alone, and it is stored over in its turn.

        Only while the store is ours, and asked last: one that took it over stores nothing before its
        name is there, so what was seen before our name still was is none of its files.
        """
        world, found = self._world, dict[FileKey, bytes]()
        for make, kind in ((index_key, Kind.INDEX), (data_key, Kind.DATA)):
            numbers = await anyio.to_thread.run_sync(world.roots.numbers, kind, name)
            number = numbers[-1] + 1 if numbers else None
            while number is not None and len(found) < MOST_BEYOND:
                key = make(name, number)
                there = await self.stat(key, 0)
                stale = await world.stale(key)
                if there is None or there.digest == stale or await self._is_known(key):
                    break
                found[key] = there.digest
                number += 1
        if not found or world.undecided() or name in world.held or not await world.ours():
            return
        await world.disown(found)
        for key in found:
            detail = (
                "the store has it, and nobody here has made it: another frontend's put came late"
            )
            self._found(Finding(key=key, problem=Problem.FOREIGN, detail=f"{detail}; left alone"))

    async def _take(self, key: FileKey, digest: bytes, size_bytes: int, end: int) -> None:
        if size_bytes < end:
            detail = (
                f"it is not here, and the store has {size_bytes} bytes of it, but index entries"
                f" point as far as {end}"
            )
            self._found(Finding(key=key, problem=Problem.SHORT, detail=detail))
            return
        now = time.time()
        await self._world.note(
            [LedgerEntry(key=key, size_bytes=size_bytes, digest=digest, stored_at=now, sealed=True)]
        )
        self.noted += 1

    async def _is_known(self, key: FileKey) -> bool:
        world = self._world
        if world.covers(key) or await world.find(key) is not None:
            return True
        return await anyio.to_thread.run_sync(self._length, key) is not None

    # -- what differs ------------------------------------------------------------------------------

    async def _look_again(self, key: FileKey) -> None:
        world = self._world
        for _ in range(TRIES):
            entry = await world.find(key)
            if entry is None or world.covers(key):
                return  # its namespace was deleted, or it is being stored
            there = await self.stat(key, entry.size_bytes)
            if _same(entry, there):
                return
            if there is None:
                await self.call(key, 0, world.store.prove_absence)
                there = await self.stat(key, entry.size_bytes)
            if not world.covers(key) and await world.find(key) == entry:
                await self._judge(entry, there)
                return

    async def _judge(self, entry: LedgerEntry, there: Remote | None) -> None:
        """The store does not have what was proven."""
        key = entry.key
        size = await anyio.to_thread.run_sync(self._length, key)
        if there is not None and _same(entry, there):
            return
        here = size is not None and (size == entry.size_bytes or not entry.sealed)
        here = here and (size or 0) >= entry.size_bytes
        if there is not None:
            what = f"the store has other content than was proven ({_told(there)})"
            problem = Problem.STORE_DIFFERS
        else:
            what, problem = "the store does not have it any more", Problem.ABSENT
        over_sealed = there is not None and entry.sealed
        if here and not await self._is_proven(entry):
            self.lost.add(key)
            detail = f"{what}, and here it is something else, too; neither is overwritten"
            self._found(Finding(key=key, problem=problem, detail=detail))
        elif here:
            again = await self._again(entry)
            detail = f"{what}; {again}"
            # nothing of ours goes over a sealed file: somebody else did that, or it has rotted
            self._found(Finding(key=key, problem=problem, detail=detail, alarm=over_sealed))
        elif there is not None:
            detail = f"{what}; neither is overwritten"
            self._found(Finding(key=key, problem=problem, detail=detail))
        else:
            where = "it is not here" if size is None else f"only {size} bytes of it are here"
            detail = f"{what}, and {where}"
            self.lost.add(key)
            self._found(Finding(key=key, problem=Problem.LOST, detail=detail))

    async def _is_proven(self, entry: LedgerEntry) -> bool:
        """Whether the file here is, byte by byte, what was stored, or what zdb has appended to that.

        Of an index, which it rewrites in place, and of a descriptor the attempt asks more (`damage`).
        """
        key = entry.key
        if key.kind is not Kind.DATA:
            return True
        path, length = self._world.roots.path(key), entry.size_bytes
        digest = await anyio.to_thread.run_sync(prefix_digest, path, length, abandon_on_cancel=True)
        return digest == entry.digest

    async def _again(self, entry: LedgerEntry) -> str:
        """Have it stored again; says what was done."""
        key, world = entry.key, self._world
        if key.namespace in world.skip or key.namespace in world.held:
            return "its namespace takes no stores now"
        index = key.kind is Kind.INDEX
        await world.queue(
            Job(
                key=key,
                since=time.time(),
                sealed=entry.sealed,
                freeze=not entry.sealed,
                needs=key.number if index else None,
                ask_first=True,
            )
        )
        self.queued.append(key)
        if not world.repairs:
            return "it is here: the daemon stores it again when it runs"
        return "it is here and stored again"

    def _length(self, key: FileKey) -> int | None:
        try:
            return self._world.roots.length(key)
        except PathRefused:
            return None

    # -- the store ---------------------------------------------------------------------------------

    async def stat(self, key: FileKey, size_bytes: int) -> Remote | None:
        """`Store.stat`, bounded and with patience."""
        return await self.call(key, size_bytes, lambda: self._world.store.stat(key))

    async def call(self, key: FileKey, size_bytes: int, ask: Callable[[], Awaitable[T]]) -> T:
        """One question. Raises what the store raises; StoreUnreachable for no answer."""
        pauses: Sequence[float] = self._world.patience_s
        for pause_s in (*pauses, None):
            await self._world.turn()
            limit_s = self._world.time_limit_s(size_bytes)
            try:
                with anyio.fail_after(limit_s):
                    return await ask()
            except TimeoutError:
                error = StoreUnreachable("audit", key, f"no answer within {limit_s:.0f} s")
            except StoreUnreachable as unreachable:
                error = unreachable
            if pause_s is None:
                raise error
            await anyio.sleep(pause_s)
        raise AssertionError("the last pause is None")


def _same(entry: LedgerEntry, there: Remote | None) -> bool:
    return (
        there is not None
        and there.digest == entry.digest
        and there.size_bytes in (None, entry.size_bytes)
    )


def _told(there: Remote) -> str:
    size = "" if there.size_bytes is None else f"{there.size_bytes} bytes, "
    return f"{size}{there.digest.hex()}"
