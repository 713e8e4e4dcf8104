"""Uploads to an rclone store: put there, proven, moved into place; and the end of those given up.

In: a source that was read and the place of its object; out: the object as the remote describes it.

Rule 3 of the contract rests on three things. A put that is cancelled cancels rclone's upload, and
the next put of its key waits until rclone says that it has ended, or is dead. rclone never outlives
this process. And what rclone has given up is not made a file by the remote: uploads are whole or
nothing at their end (S3), or go under another name and are moved (folders, SFTP, WebDAV).

Weakness: a remote that has all bytes of a cancelled upload may still make a file of it a moment
after the connection was cut, and no client can know; a later put of the key takes longer than that.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from hookd.digest import hasher
from hookd.errors import (
    RemoteMissing,
    SourceChanged,
    StoreError,
    StoreTemporary,
    StoreUnreachable,
)
from hookd.rclone.control import HungUp, Refused
from hookd.stores.directory_copy import fsync_folder
from hookd.stores.rclone_names import to_standard
from hookd.stores.rclone_plan import Plan
from hookd.stores.rclone_process import FS, Down, RcloneProcess
from hookd.stores.rclone_remote import TMP, RcloneRemote
from hookd.stores.rclone_source import Source, look
from hookd.stores.rclone_sums import Item

STOP_WITHIN_S = 15.0
"""How long a cancelled upload may take to end; then rclone is killed, which ends it for certain."""

_NOTHING = "uploaded, but the remote says it has nothing"

_COPY = {
    "IgnoreTimes": True,  # else an object of the same size and time is left as it is
    "IgnoreExisting": False,
    "IgnoreSize": False,
    "SizeOnly": False,
    "Immutable": False,
    "DryRun": False,
    "BackupDir": "",
    "Suffix": "",
    "CompareDest": [],
    "CopyDest": [],
}
"""Whatever an administrator's environment says for other uses of rclone."""


class Uploads:
    """All uploads of one store."""

    def __init__(self, process: RcloneProcess, remote: RcloneRemote, *, verify: str) -> None:
        self._process = process
        self._remote = remote
        self._verify = verify
        self._ending: dict[str, asyncio.Future[None]] = {}
        """Path → the end of an upload to it that was given up."""
        self._synced: set[Path] = set()

    def close(self) -> None:
        """Wait for no end any more: rclone is gone, and with it every upload."""
        for ending in list(self._ending.values()):
            ending.cancel()

    async def replace(
        self, operation: str, key: object, source: Path, read_source: Source, place: str, plan: Plan
    ) -> Item:
        """Upload, prove, and have it at `place`; how the remote describes it there."""
        target = (
            f"{TMP}/{place.rpartition('/')[2]}.{secrets.token_hex(8)}" if plan.staged else place
        )
        config = {**_COPY, "Inplace": plan.staged}
        if plan.staged:
            # a name that nobody else has, and proven below before it is moved
            config |= {"NoCheckDest": True, "IgnoreChecksum": True}
        async with self._tracked(place, target if plan.staged else None) as group:
            try:
                await self._remote.ask(
                    operation,
                    key,
                    "operations/copyfile",
                    srcFs=str(source.parent),
                    srcRemote=to_standard(source.name),
                    dstFs=FS,
                    dstRemote=target,
                    _group=group,
                    _config=config,
                )
            except RemoteMissing as error:
                await run_sync(look, key, source)  # SourceGone
                raise StoreTemporary(operation, key, error.detail) from error
            item = await self._prove(operation, key, source, read_source, target, plan)
            if plan.path is not None:
                await run_sync(_fsync, plan.path / target, key)
        if plan.staged:
            item = await self._move(operation, key, target, place, item, plan)
        if plan.path is not None:
            await self._sync_folders(plan.path, place, key)
        return item

    async def _prove(
        self, operation: str, key: object, source: Path, ours: Source, target: str, plan: Plan
    ) -> Item:
        """What lies at `target` is what was read from `source`, or it raises."""
        if plan.staged and plan.hash_name is None and self._verify != "size":
            # What is read back says all; how the remote describes it is asked after the move.
            try:
                digest, size = await self.digest_of(operation, key, target)
            except RemoteMissing:
                raise StoreTemporary(operation, key, _NOTHING) from None
            item = Item(size_bytes=size, modified="", id="", hash="")
            same = (digest, size) == (ours.digest, ours.size_bytes)
        else:
            item, same = await self._compare(operation, key, source, ours, target, plan)
        if same:
            return item
        if await run_sync(look, key, source) != ours.identity:
            raise SourceChanged(operation, key, f"{source} changed while it was stored")
        raise StoreTemporary(
            operation, key, f"the remote has {item.size_bytes} bytes that differ from {source}"
        )

    async def _compare(
        self, operation: str, key: object, source: Path, ours: Source, target: str, plan: Plan
    ) -> tuple[Item, bool]:
        """What lies there, as the remote describes it, and whether it is the source."""
        item = await self._remote.item(operation, key, target, plan.hash_name)
        if item is None:
            raise StoreTemporary(operation, key, _NOTHING)
        if item.size_bytes != ours.size_bytes:
            return item, False
        if item.hash:
            return item, item.hash == await self._hash_of(operation, key, source, ours, plan)
        if self._verify == "size":
            return item, await run_sync(look, key, source) == ours.identity
        digest, size = await self.digest_of(operation, key, target)
        return item, (digest, size) == (ours.digest, ours.size_bytes)

    async def _hash_of(
        self, operation: str, key: object, source: Path, ours: Source, plan: Plan
    ) -> str:
        """The remote's kind of hash for the source, which is what it was when it was read."""
        if ours.hash is not None:
            return ours.hash
        said = await self._remote.ask(
            operation,
            key,
            "operations/hashsumfile",
            fs=str(source.parent),
            remote=to_standard(source.name),
            hashType=plan.hash_name,
        )
        if await run_sync(look, key, source) != ours.identity:
            raise SourceChanged(operation, key, f"{source} changed while it was stored")
        return str(said.get("hash") or "").lower()

    async def _move(
        self, operation: str, key: object, target: str, place: str, item: Item, plan: Plan
    ) -> Item:
        """Put the proven upload in its place, over what is there.

        Given up, it is left to happen: whoever comes next waits for it (`_tracked`).
        """
        async with self._tracked(place, None, stop=False) as group:
            # NoCheckDest: else rclone removes what is there first, and for a moment there is nothing
            await self._remote.ask(
                operation,
                key,
                "operations/movefile",
                srcFs=FS,
                srcRemote=target,
                dstFs=FS,
                dstRemote=place,
                _group=group,
                _config={**_COPY, "NoCheckDest": True},
            )
        moved = await self._remote.item(operation, key, place)
        if moved is None or moved.size_bytes != item.size_bytes:
            raise StoreTemporary(operation, key, "moved into place, but it is not there")
        return Item(moved.size_bytes, moved.modified, moved.id, item.hash)

    @asynccontextmanager
    async def _tracked(
        self, place: str, target: str | None, *, stop: bool = True
    ) -> AsyncIterator[str]:
        """A group for rclone's jobs on `place`. Whatever ends them early, the next one waits."""
        while (ending := self._ending.get(place)) is not None:
            await asyncio.wait([ending])
        group = f"hookd-{secrets.token_hex(8)}"
        try:
            yield group
        except BaseException as error:
            # an error that rclone answered has ended its job already
            if not isinstance(error, StoreError) or isinstance(error, StoreUnreachable) or target:
                task = asyncio.ensure_future(self._end(group, target, stop=stop))
                self._ending[place] = task
                task.add_done_callback(lambda _: self._ending.pop(place, None))
            raise

    async def _end(self, group: str, target: str | None, *, stop: bool) -> None:
        """Until no job of `group` runs, or no rclone; then `target` is rubbish."""
        quiet = 0
        try:
            with anyio.fail_after(STOP_WITHIN_S):
                # twice: the request may have been on its way to rclone the first time
                while self._process.pid is not None and quiet < 2:
                    async with self._process.control() as control:
                        mine = [job for job, owner in await control.running() if owner == group]
                        for job in mine if stop else ():
                            with suppress(Refused):
                                await control.call("job/stop", jobid=job)
                    quiet = 0 if mine else quiet + 1
                    await anyio.sleep(0.02)
        except TimeoutError:
            self._process.kill("an upload that was given up does not end")
        except (Refused, HungUp, Down):
            pass  # there is no rclone any more
        if target is not None:
            with suppress(StoreError, TimeoutError):
                with anyio.fail_after(STOP_WITHIN_S):
                    if self._process.pid is not None:  # else the next start sweeps
                        await self._remote.remove("put", target, target)

    async def digest_of(self, operation: str, key: object, path: str) -> tuple[bytes, int]:
        """BLAKE2b-128 and size of an object, read whole."""
        state, size = hasher(), 0
        async with self._remote.read(operation, key, path) as content:
            async for chunk in content.chunks:
                await run_sync(state.update, chunk)
                size += len(chunk)
        return state.digest(), size

    async def _sync_folders(self, root: Path, place: str, key: object) -> None:
        """The names that lead to `place`, durable: rclone makes folders and syncs none."""
        folder = (root / place).parent
        await run_sync(_fsync_folder, folder, key)
        for above in (folder.parent, root, root.parent):
            if above not in self._synced or folder not in self._synced:
                await run_sync(_fsync_folder, above, key)
        self._synced |= {folder, folder.parent, root, root.parent}


def _fsync(path: Path, key: object) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StoreUnreachable("put", key, f"{path}: {error.strerror}") from error


def _fsync_folder(path: Path, key: object) -> None:
    try:
        fsync_folder(path)
    except OSError as error:
        raise StoreUnreachable("put", key, f"{path}: {error.strerror}") from error
