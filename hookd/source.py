"""Stage source: one job into the file that is put, with the size and digest that are to be proven.

In: a job that runs; out: its snapshot, or the live file; frozen now where it could not be at its event.
The invariants: what zdb rewrites is put from a copy only; what is frozen late waits for what it points to
by then; nothing live is read for a namespace whose files are not to be trusted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread

from hookd import faults
from hookd.entries import HEADER_BYTES
from hookd.errors import NamespaceHeld, NoRoom, PathRefused, SourceGone
from hookd.files import FileKey, Kind, Roots, index_key
from hookd.journal import Job, Journal
from hookd.needs import points_to
from hookd.scheduler import Scheduler
from hookd.snapshot import Staging, hash_live
from hookd.thaw import Thaw


class Postponed(Exception):
    """The snapshot just made points into data that is not remote yet."""


class Sources:
    """Finds, freezes and hashes what jobs are about."""

    def __init__(
        self,
        *,
        journal: Journal,
        scheduler: Scheduler,
        staging: Staging,
        roots: Roots,
        held: Callable[[str], str | None],
        proves_copies: bool,
    ) -> None:
        """`held` tells why a namespace takes no stores; `proves_copies`: the store does."""
        self._journal = journal
        self._scheduler = scheduler
        self._staging = staging
        self._roots = roots
        self._held = held
        self._proves_copies = proves_copies
        self._thaw = Thaw(
            journal=journal, scheduler=scheduler, staging=staging, roots=roots, held=held
        )

    def exists(self, key: FileKey) -> bool:
        """Whether anything is at the place of a live file."""
        return os.path.lexists(self._roots.path(key))

    def length(self, key: FileKey) -> int:
        """Bytes of a live file; 0 where none can be read."""
        try:
            return self._roots.length(key) or 0
        except PathRefused:
            return 0

    async def find(self, job: Job, *, may_skip_hash: bool) -> Path:
        """The file to put, with the job's size and digest set.

        No digest where the store reads the file anyway and proves what it wrote: a sealed file that
        nothing is compared with before is read and hashed once, not twice.
        """
        live = self._roots.path(job.key)
        if job.staged is None and (reason := self._held(job.key.namespace)):
            raise NamespaceHeld("store", job.key, reason)
        if job.staged is None and job.sealed and not job.freeze and self._is_active(job.key):
            # The one that was announced is gone with its namespace, and this is its successor's: final
            # under this name would be what is only its beginning.
            job.sealed, job.freeze = False, True
        if job.staged is None and job.freeze:
            try:
                await self._freeze(job, live)
            except NoRoom as error:
                # Data is appended to only, so it can be read in place; an index that can go takes the
                # room of those that cannot. Else a staging folder full of indexes that wait for this
                # very file would never empty.
                if job.key.kind is not Kind.DATA:
                    if not await self._thaw.make_room(
                        job, error.size_bytes or self.length(job.key)
                    ):
                        raise
                    await self._freeze(job, live)
        if job.staged is not None:
            staged = self._staging.path(job.staged)
            if not await anyio.to_thread.run_sync(staged.exists, abandon_on_cancel=True):
                raise SourceGone("read", job.key, f"its snapshot {staged} is gone")
            return staged
        job.begun = self._journal.begin()
        if may_skip_hash and self._proves_copies and job.sealed and not job.ask_first:
            job.digest, job.size_bytes = None, self._roots.length(job.key)
            if job.size_bytes is None:
                raise SourceGone("read", job.key, "the file is gone")
            if not is_blank(job):
                return live
        job.digest, job.size_bytes = await anyio.to_thread.run_sync(
            hash_live, live, abandon_on_cancel=True
        )
        if not job.size_bytes:
            raise SourceGone("read", job.key, "zdb is making it: it is empty")
        return live

    def _is_active(self, key: FileKey) -> bool:
        """Whether zdb may still append to a data file: its index is the newest."""
        name, number = key.namespace, key.number
        if not self.exists(index_key(name, number)) or self.exists(index_key(name, number + 1)):
            return False
        numbers = (*self._roots.numbers(Kind.INDEX, name), *self._roots.numbers(Kind.DATA, name))
        return max(numbers, default=-1) == number

    async def _freeze(self, job: Job, live: Path) -> None:
        """Freeze now what could not be frozen at the event."""
        [made] = await anyio.to_thread.run_sync(
            self._staging.freeze, [live], abandon_on_cancel=True
        )
        if made is None:
            raise SourceGone("freeze", job.key, "the file is gone")
        job.staged, job.begun, job.content = made.staged, made.begun, made.content
        job.size_bytes, job.digest = made.size_bytes, made.digest
        if job.needs is not None:  # it may point further by now than it did then
            job.needs, job.needs_bytes = await anyio.to_thread.run_sync(
                points_to, self._roots, job, made.content or self._staging.path(made.staged)
            )
        await self._journal.save(job)
        faults.point("job-frozen")
        if self._scheduler.waits_for(job) is not None:
            raise Postponed


def is_blank(job: Job) -> bool:
    """Whether the content is no more than a header (0-db: index 29 bytes, data 28 bytes)."""
    return job.key.kind is not Kind.NAMESPACE and (job.size_bytes or 0) <= HEADER_BYTES
