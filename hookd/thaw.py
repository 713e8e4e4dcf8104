"""Stage thaw: room in the staging folder for a file that can go, from snapshots that cannot.

In: a job that found no room for its snapshot; out: whether there is some now. Snapshots hold room while
they wait for data files and newer indexes, and the index that they wait for may be the one that finds no
room: without this a full folder would stand still for good. With it, whatever holds room is on its way
into the store or lets go of it, so with a limit not smaller than the largest file a drain ends.

The invariants: only a copy is let go whose file is on disk, trusted, and as long at least (zdb's files
only grow, so that one has what the copy has, or newer); its job stays, and freezes the file again when
its turn comes; and none is let go unless that makes the room. A quarantined copy is what somebody has to
decide about: it goes last, and only if the file has the very same bytes.

Weakness: between the two the disk alone has that content.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread

from hookd.errors import PathRefused, StoreError
from hookd.files import Roots
from hookd.journal import Job, JobState, Journal
from hookd.log import get
from hookd.scheduler import HELD_BACK, Scheduler
from hookd.snapshot import Staging, hash_live

log = get("thaw")


class Thaw:
    """Lets go of snapshots that wait."""

    def __init__(
        self,
        *,
        journal: Journal,
        scheduler: Scheduler,
        staging: Staging,
        roots: Roots,
        held: Callable[[str], str | None],
    ) -> None:
        """`held` tells why the files of a namespace are not to be trusted."""
        self._journal = journal
        self._scheduler = scheduler
        self._staging = staging
        self._roots = roots
        self._held = held

    async def make_room(self, job: Job, size_bytes: int) -> bool:
        """Room for `size_bytes`, of the file of `job`, which could go if it were frozen.

        Raises JournalError, and then nothing was let go.
        """
        lacking = self._staging.lacks(size_bytes)
        chosen: list[Job] = []
        for waiting in self._scheduler.snapshots(HELD_BACK):
            if lacking <= 0:
                break
            if not self._held(waiting.key.namespace) and self._is_on_disk(waiting):
                chosen.append(waiting)
                lacking -= waiting.size_bytes or 0
        for refused in list(self._scheduler.snapshots(("quarantined",))) if lacking > 0 else ():
            if lacking <= 0:
                break
            if not self._held(refused.key.namespace) and await self._is_the_same(refused):
                chosen.append(refused)
                lacking -= refused.size_bytes or 0
        chosen = [each for each in chosen if each.staged and each.state is not JobState.RUNNING]
        if self._staging.lacks(size_bytes) > sum(each.size_bytes or 0 for each in chosen):
            return False
        if not chosen:
            return False
        copies = [each.staged for each in chosen if each.staged is not None]
        # The rows first: as long as they name the copies, these must be there.
        with anyio.CancelScope(shield=True):
            await self._journal.thaw(chosen)
        for each in chosen:
            log.warning(
                "gave its room away, will freeze again", file=str(each.key), to=str(job.key)
            )
        await anyio.to_thread.run_sync(self._staging.remove, copies)
        return True

    async def _is_the_same(self, job: Job) -> bool:
        if job.digest is None or not self._is_on_disk(job):
            return False
        try:
            found, _ = await anyio.to_thread.run_sync(
                hash_live, self._roots.path(job.key), abandon_on_cancel=True
            )
        except (OSError, StoreError):
            return False
        return found == job.digest

    def _is_on_disk(self, job: Job) -> bool:
        try:
            length = self._roots.length(job.key)
        except PathRefused:
            return False
        return length is not None and length >= (job.size_bytes or 0)
