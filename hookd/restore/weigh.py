"""Older than what is stored, or another history? By content, where neither lengths nor a manifest tell.

In: a namespace here and there; out: lengths of what is there, and what speaks against storing over it.
A store may not know lengths (zstor), a manifest may be behind or absent (hook.sh). zdb only appends to a
data file, and to an index, whose entries it rewrites in place towards newer values (`entries.age_of`): a
file whose checksum differs is fetched beside everything live, and compared.

Weakness: of the data files only the oldest and the newest that both have are compared: two histories
differ in their first values, forks of one in their last.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from hookd.digest import digest_of
from hookd.entries import DATA_HEADER_BYTES, HEADER_BYTES, Age, NotAnIndex, age_of, has_password
from hookd.errors import RemoteMissing, StoreTemporary
from hookd.files import FileKey, Kind, Roots, data_key
from hookd.journal import Journal
from hookd.log import get
from hookd.manifest import Manifest
from hookd.restore import remote
from hookd.restore.compare import prefix_digest
from hookd.restore.local import Local
from hookd.restore.place import check
from hookd.restore.remote import There
from hookd.restore.table import Here
from hookd.snapshot import RETRIEVES
from hookd.stores.base import Remote, Store

log = get("survey")

T = TypeVar("T")

UNKNOWN_BYTES = max(HEADER_BYTES, DATA_HEADER_BYTES) + 1
"""Length taken for a stored file that cannot be told: it may have content."""


@dataclass(slots=True)
class Weighed:
    """What came of it."""

    lengths: dict[FileKey, int] = field(default_factory=dict)
    """Of every stored file that was asked for."""
    proven: dict[FileKey, bytes] = field(default_factory=dict)
    """What our ledger says was stored, with its digest."""
    apart: Here | None = None
    """OLDER or FOREIGN where something speaks against what is here."""
    why: str = ""

    def against(self, here: Here, why: str) -> None:
        """The first reason stands, but another history outweighs an older one."""
        if self.apart is None or (here is Here.FOREIGN and self.apart is Here.OLDER):
            self.apart, self.why = here, why


@dataclass(frozen=True, slots=True)
class Scales:
    """Compares what is here with what `store` has; fetches into folders of its own in `private`."""

    store: Store
    roots: Roots
    private: Path
    journal: Journal

    async def weigh(self, local: Local, there: There, manifest: Manifest | None) -> Weighed:
        """Adds the data files that are compared to `there`. Raises StoreError, OSError (no room)."""
        ours = await self.journal.ledger()
        found = Weighed(
            proven={e.key: e.digest for e in ours if e.key.namespace == local.namespace}
        )
        data = self._data(local)
        await remote.look_for_data(self.store, there, [key.number for key in data], manifest)
        indexes = [] if local.blank else self._indexes(local)
        for key in sorted(there.files, key=lambda key: (key.kind is Kind.DATA, key.number)):
            stored = there.files[key]
            found.lengths[key] = UNKNOWN_BYTES if stored.size_bytes is None else stored.size_bytes
            if key in data or key in indexes:
                await self._compare(key, local, stored, found)
            elif key.kind is Kind.NAMESPACE and key in local.lengths and indexes:
                await self._compare_passwords(key, stored, found)
        return found

    def _indexes(self, local: Local) -> list[FileKey]:
        """All of them; but zdb's own, made beside a restore that it did not wait for, are no history."""
        return [
            key
            for key, length in local.lengths.items()
            if key.kind is Kind.INDEX and not (local.interrupted and length <= HEADER_BYTES)
        ]

    def _data(self, local: Local) -> list[FileKey]:
        """The data files to compare: the oldest and the newest with content."""
        numbers = [
            number
            for number in local.data
            if local.lengths[data_key(local.namespace, number)] > DATA_HEADER_BYTES
        ]
        return [
            data_key(local.namespace, number) for number in sorted({*numbers[:1], *numbers[-1:]})
        ]

    async def _compare(self, key: FileKey, local: Local, stored: Remote, found: Weighed) -> None:
        path, length = self.roots.path(key), local.lengths[key]
        digest = await _off(lambda: prefix_digest(path, length))
        if digest == stored.digest:
            found.lengths[key] = length
            return
        # As we had it stored: what is there now was put over it, and the audit puts ours back. That may
        # be what zdb made of ours since, elsewhere: older stays older.
        ours = digest is not None and found.proven.get(key) == digest
        size = stored.size_bytes
        if key.kind is Kind.DATA and size is not None:
            if length < size:
                why = f"{key.name} has {length} bytes here, but {size} are in the store"
                found.against(Here.OLDER, why)
            elif not ours and await _off(lambda: prefix_digest(path, size)) != stored.digest:
                found.against(Here.FOREIGN, f"{key.name} has other content here than in the store")
            return
        found.lengths[key], age = await self._beside(
            key, stored, lambda fetched: _age(key, path, fetched)
        )
        if age is Age.OLDER:
            found.against(Here.OLDER, f"{key.name} is older here than in the store")
        elif age is Age.APART and not ours:
            found.against(Here.FOREIGN, f"{key.name} has other content here than in the store")

    async def _compare_passwords(self, key: FileKey, stored: Remote, found: Weighed) -> None:
        """zdb makes a lost descriptor anew, public: no newer version of one with a password."""
        path = self.roots.path(key)
        here = await _off(path.read_bytes)
        if has_password(here) or digest_of(here) == stored.digest:
            return
        length, there = await self._beside(key, stored, lambda fetched: fetched.read_bytes())
        found.lengths[key] = length
        if has_password(there):
            why = f"{key.name} has no password here, and has one in the store"
            found.against(Here.FOREIGN, why)

    async def _beside(
        self, key: FileKey, stored: Remote, look: Callable[[Path], T]
    ) -> tuple[int, T]:
        """Fetch a file into a folder of its own, and look at it; its length, and what was seen."""
        log.info("comparing what differs", file=str(key))
        folder = Path(await _off(self._folder))
        try:
            fetched = folder / key.name
            try:
                await self.store.get(key, fetched)
            except RemoteMissing as error:
                detail = f"it was there a moment ago: {error.detail}"
                raise StoreTemporary("get", key, detail) from error
            length = await _off(lambda: check(key, fetched, stored.digest))
            return length, await _off(lambda: look(fetched))
        finally:
            # not awaited in a cancelled scope: what is left goes at the next start
            shutil.rmtree(folder, ignore_errors=True)

    def _folder(self) -> str:
        self.private.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.mkdtemp(prefix=RETRIEVES, dir=self.private)


async def _off(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work)


def _age(key: FileKey, here: Path, there: Path) -> Age:
    """Blocking. What is no index is compared as what it is: bytes that only grow."""
    if key.kind is Kind.INDEX:
        try:
            return age_of(here.read_bytes(), there.read_bytes())
        except NotAnIndex:
            pass
    shorter = min(here.stat().st_size, there.stat().st_size)
    if prefix_digest(here, shorter) != prefix_digest(there, shorter):
        return Age.APART
    return Age.OLDER if here.stat().st_size < there.stat().st_size else Age.NEWER
