"""Stage restore, fetching: what a restore brings, into a folder beside its places, each proven.

In: keys, what the store says of them; out: files in that folder, whole. The invariant: a file of that
name there is what the store had when it was asked; killed at any point, the next run goes on with it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio.to_thread

from hookd import faults
from hookd.errors import ChecksumMismatch, RemoteMissing, StoreTemporary
from hookd.files import FileKey, Roots
from hookd.journal import Job
from hookd.log import get
from hookd.restore import remote
from hookd.restore.growth import Growth
from hookd.restore.local import WORK
from hookd.restore.place import check, make_folder
from hookd.restore.progress import Progress
from hookd.restore.remote import There
from hookd.stores.base import Store

log = get("restore")

SAY_EVERY_S = 10.0


class Fetches:
    """Of one namespace after the other."""

    def __init__(
        self,
        store: Store,
        roots: Roots,
        *,
        snapshot: Callable[[FileKey], tuple[Path, Job] | None],
        say: Callable[[Progress], None],
    ) -> None:
        """See `Restorer`."""
        self._store = store
        self._roots = roots
        self._snapshot = snapshot
        self.say = say
        self.folder = WORK
        """The name of the folder in the namespace's own."""
        self.progress: Progress | None = None
        """Of the restore that runs now."""
        self._said = 0.0
        self._growth = Growth(self._tell)

    def begin(self, namespace: str) -> None:
        """A restore begins."""
        self.progress = Progress(namespace, arriving=self._growth.bytes)
        self.say(self.progress)

    def end(self) -> None:
        """It has ended, one way or the other."""
        self.progress = None

    def says(self, what: str) -> None:
        """What is done now, for whoever looks on."""
        if self.progress is not None:
            self.progress.doing = what
            self.say(self.progress)

    def path(self, key: FileKey) -> Path:
        """Where a fetched file waits."""
        return self._roots.path(key).parent / self.folder / key.name

    def make_folders(self, namespace: str) -> None:
        """That folder, and what it lies in. Blocking."""
        for root in (self._roots.index, self._roots.data):
            root.mkdir(parents=True, exist_ok=True)
            make_folder(root / namespace, root)
            make_folder(root / namespace / self.folder, root / namespace)

    async def fetch(self, keys: Sequence[FileKey], there: There) -> dict[FileKey, int]:
        """Every one of them into the folder, proven; their lengths."""
        progress = self.progress
        assert progress is not None
        progress.files_total += len(keys)
        progress.doing = ""
        progress.bytes_total += sum(there.all[key].size_bytes or 0 for key in keys)
        self.say(progress)

        async def one(key: FileKey) -> int:
            size = await self._one(key, there)
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
        self.say(progress)

    async def _one(self, key: FileKey, there: There) -> int:
        target = self.path(key)
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
