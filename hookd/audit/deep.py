"""Stage audit, deep: every file is retrieved into a private folder and hashed. No live file is touched.

In the order of keys as text, so that one that was interrupted goes on after the last file it named. A
file that was stored anew meanwhile is compared with what the ledger says then.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from hookd.audit.finding import Finding, Problem
from hookd.audit.remote import TRIES, Remotes
from hookd.audit.world import World
from hookd.digest import digest_fd
from hookd.errors import RemoteMissing, StoreError, StoreTemporary, StoreUnreachable
from hookd.journal import LedgerEntry
from hookd.snapshot import RETRIEVES

SPARE_BYTES = 64 << 20
"""Left free on the disk of the private folder: snapshots need it too."""

AGAIN_S = (0.5, 2.0)
"""Pauses before a file that the store cannot give is asked for again."""

NO_ROOM = "no-room"


class Deep:
    """Retrieves and hashes. `open` and `close` make and remove its folder."""

    def __init__(self, world: World, remotes: Remotes, found: Callable[[Finding], None]) -> None:
        self._world = world
        self._remotes = remotes
        self._found = found
        self._folder: Path | None = None
        self._serial = 0

    async def open(self) -> None:
        """Make the private folder; what is left of one after a kill goes at the next start."""
        self._folder = Path(await anyio.to_thread.run_sync(self._make))

    def close(self) -> None:
        """Remove it. Not awaited: it is called in cancelled scopes."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _make(self) -> str:
        self._world.private.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix=RETRIEVES, dir=self._world.private)

    async def compare_many(self, entries: Sequence[LedgerEntry]) -> None:
        """Some files, one after the other."""
        for entry in entries:
            await self.compare(entry)

    async def compare(self, entry: LedgerEntry) -> None:
        """One file. Raises StoreUnreachable once the world's patience is at an end."""
        key, world = entry.key, self._world
        try:
            for _ in range(TRIES):
                if world.covers(key):
                    return
                digest, size = await self._retrieve(entry)
                if digest == entry.digest:  # the ledger may have had to guess the length
                    return
                now = await world.find(key)
                if now == entry:
                    break
                if now is None:
                    return  # its namespace was deleted
                entry = now
            else:
                return  # stored anew all the time: left to the next one
        except RemoteMissing as error:
            await self._gave_nothing(entry, error)
            return
        except StoreUnreachable:
            raise
        except StoreError as error:
            alarm = error.error_class != NO_ROOM
            problem = Problem.ROTTEN if alarm else Problem.UNCHECKED
            detail = f"the store cannot give it: {error.detail}" if alarm else error.detail
            self._found(Finding(key=key, problem=problem, detail=detail, alarm=alarm))
            return
        if not world.covers(key):
            detail = (
                f"the store gave {size} bytes of {digest.hex()}, but {entry.size_bytes} of"
                f" {entry.digest.hex()} were stored"
            )
            self._found(Finding(key=key, problem=Problem.ROTTEN, detail=detail))

    async def _gave_nothing(self, entry: LedgerEntry, error: RemoteMissing) -> None:
        """The store had it when it was compared. What it lost since is told as that would; a store that
        has gone blind since ends the run. Raises StoreUnreachable.
        """
        key, world = entry.key, self._world
        if key in self._remotes.lost:
            return  # told already
        try:
            there = await self._remotes.stat(key, entry.size_bytes)
        except StoreUnreachable:
            raise
        except StoreError as failure:
            detail = f"the store cannot say what it has: {failure.detail}"
            self._found(Finding(key=key, problem=Problem.UNCHECKED, detail=detail, alarm=False))
            return
        if there is None:
            await self._remotes.compare(entry)
        elif not world.covers(key) and await world.find(key) == entry:
            detail = f"the store says that it has it, and gives nothing: {error.detail}"
            self._found(Finding(key=key, problem=Problem.ROTTEN, detail=detail))

    async def _retrieve(self, entry: LedgerEntry) -> tuple[bytes, int]:
        """(digest, size) of what the store gives."""
        assert self._folder is not None
        key, tries = entry.key, 0
        self._serial += 1
        place = self._folder / str(self._serial)
        await anyio.to_thread.run_sync(self._room, entry, place)

        async def get() -> None:
            nonlocal tries
            tries += 1
            folder = place / str(tries)  # one that was given up may still be written to
            folder.mkdir()
            await self._world.store.get(key, folder / key.name)

        try:
            for pause_s in (*AGAIN_S, None):
                try:
                    await self._remotes.call(key, entry.size_bytes, get)
                    break
                except StoreTemporary:
                    if pause_s is None:
                        raise
                    await anyio.sleep(pause_s)
            return await anyio.to_thread.run_sync(_hash, place / str(tries) / key.name)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _room(self, entry: LedgerEntry, place: Path) -> None:
        place.mkdir()
        free = shutil.disk_usage(place).free
        if free < entry.size_bytes + SPARE_BYTES:
            place.rmdir()
            failure = StoreTemporary(
                "get",
                entry.key,
                f"it was not retrieved: {self._world.private} has {free} bytes free,"
                f" {entry.size_bytes} and {SPARE_BYTES} to spare are needed",
            )
            failure.error_class = NO_ROOM
            raise failure


def _hash(path: Path) -> tuple[bytes, int]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return digest_fd(handle)
    finally:
        os.close(handle)
