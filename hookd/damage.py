"""Stage attempt, one question of it: is this file, as it is here, worse than the one in the store?

In: the file to put, the store's own; out: nothing, or Conflict. The invariant: neither an index file that
zdb cannot have written goes over one that is sound for longer, nor one with older entries over newer
ones. A machine that crashes leaves zeros where its file system had not written yet, or what was there
before, in a file of the right length; zdb loads what it finds, so nothing else would notice.

The store's file is fetched only if ours is seen to be damaged, or if no hook announced it (`scan` found
that it differs): which of the two is better, the digest does not tell.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import anyio
import anyio.to_thread

from hookd.entries import NotAnIndex, Reach, has_password, older_at, reach_of
from hookd.errors import Conflict
from hookd.files import FileKey
from hookd.restore.place import check
from hookd.snapshot import RETRIEVES
from hookd.stores.base import Store

ADVICE = (
    "stop zdb, move this file away and start zdb again: it is brought back from the store"
    " (docs/how-to/quarantine.md)"
)


def what_is_wrong(reach: Reach | None) -> str | None:
    """One line about a damaged index file (None: no index at all), or None if it is sound."""
    if reach is None:
        return "it does not begin like an index file"
    if reach.damaged_at is None:
        return None
    return f"what it has at byte {reach.damaged_at} is no entry"


async def refuse_worse(
    key: FileKey, source: Path, store: Store, private: Path, *, unannounced: bool
) -> None:
    """Raise Conflict if `source` is damaged and the store's `key` is not, or later in the file; if
    `unannounced`, also if an entry is older here.

    `private` is a folder for what is fetched. Raises StoreError, OSError.
    """
    content, here = await anyio.to_thread.run_sync(_read, source, abandon_on_cancel=True)
    fault = what_is_wrong(here)
    if fault is None and not unannounced:
        return
    found = await _stored(key, store, private)
    if found is None:
        return  # damaged as it is, it is the only one
    other, there = found
    if there is None:
        return
    if fault is not None:
        if what_is_wrong(there) is None or there.sound > (here.sound if here else 0):
            detail = f"{fault}: it was damaged here, and the store's is sound for {there.sound}"
            raise Conflict("store", key, f"{detail} entries; {ADVICE}")
    elif what_is_wrong(there) is None:
        position = await anyio.to_thread.run_sync(older_at, content, other)
        if position is not None:
            detail = f"its entry at byte {position} is older here than in the store"
            raise Conflict("store", key, f"{detail}; {ADVICE}")


async def refuse_public(key: FileKey, source: Path, store: Store, private: Path) -> None:
    """Raise Conflict if the descriptor `source`, which no hook announced, has no password and the stored
    one has: zdb makes a public one where it finds none (0-db libzdb/namespace.c).

    `private` is a folder for what is fetched. Raises StoreError, OSError.
    """
    if has_password(await anyio.to_thread.run_sync(source.read_bytes)):
        return
    found = await _stored(key, store, private)
    if found is not None and has_password(found[0]):
        raise Conflict("store", key, f"it has no password, but the stored one has; {ADVICE}")


async def _stored(key: FileKey, store: Store, private: Path) -> tuple[bytes, Reach | None] | None:
    """The content that the store has, and what it points to if it is an index; None without any."""
    remote = await store.stat(key)
    if remote is None:
        return None
    folder = Path(await anyio.to_thread.run_sync(_folder_in, private))
    try:
        target = folder / key.name
        await store.get(key, target)
        await anyio.to_thread.run_sync(check, key, target, remote.digest)
        return await anyio.to_thread.run_sync(_read, target)
    finally:
        # not awaited in a cancelled scope: a leftover is removed at the next start
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> tuple[bytes, Reach | None]:
    content = path.read_bytes()
    try:
        return content, reach_of(content)
    except NotAnIndex:
        return content, None


def _folder_in(private: Path) -> str:
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=RETRIEVES, dir=private)
