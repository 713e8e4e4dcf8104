"""Stage departures: jobs that leave the line without having been stored.

In: jobs that a newer one stands for, that somebody gave up, or whose namespace was deleted; out: rows
that say so, snapshots removed. The invariants:

- a snapshot is removed only after the row says that it is not needed;
- a job that has left the line while the journal could not be told is known here (`unkept`, and to
  `disown`) until it can: a restart before that brings the job back;
- a running job of a deleted namespace ends first; what it stores counts as the deleted one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from hookd.errors import JournalError, JournalUnavailable
from hookd.files import FileKey, Kind, Roots
from hookd.journal import Job, JobState, Journal
from hookd.log import get
from hookd.needs import no_further, points_to
from hookd.scheduler import Scheduler
from hookd.skips import Skips, is_what, length_of
from hookd.snapshot import Staging

log = get("dispatcher")

JOURNAL_AGAIN_S = 1.0
"""How long until a journal that could not be written is tried again."""


@dataclass(frozen=True, slots=True)
class Disowned:
    """Why a running job is given up, and who wants to know when it has ended."""

    reason: str
    ended: Callable[[], None] = lambda: None
    deleted: bool = False
    """Whether its namespace was: what it stores is the deleted one's."""


class Departures:
    """Takes jobs out of the line, and out of the journal's open ones."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        journal: Journal,
        staging: Staging,
        roots: Roots,
        wake: Callable[[], None],
        superseded: Callable[[int], None],
    ) -> None:
        """`wake`: something else may be due; `superseded` is told how many others stand for now."""
        self._scheduler = scheduler
        self._journal = journal
        self._staging = staging
        self._roots = roots
        self._wake = wake
        self._superseded = superseded
        self._tasks: set[asyncio.Future[None]] = set()
        self._disowned: dict[int, Disowned] = {}
        """Running jobs whose namespace was deleted, and those that are forsaken."""
        self._forsaken: set[int] = set()
        """Jobs whose copies are kept for a person, in `orphaned/`, and not stored."""
        self.skips = Skips(journal, roots)
        self.scan: Callable[[], None] = lambda: None
        """Told when files may be here that no job stands for."""
        self._leaving: dict[int, Job] = {}
        """Jobs that have left the line while their rows are open still: a restart brings them back."""

    # -- a newer one stands for it -------------------------------------------------------------

    @property
    def unkept(self) -> int:
        """How often jobs left the line and the journal does not say so yet."""
        return len(self._tasks)

    def supersede(self, gone: list[Job], newer: Job) -> None:
        """`newer` stands for `gone`, which have left the line; made durable a moment later."""
        self._superseded(len(gone))
        self._leaving.update({job.id: job for job in gone})
        self._soon(self._supersede_soon(gone, newer))

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Nobody waits for it but the drain."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _supersede_soon(self, gone: list[Job], newer: Job) -> None:
        """`gone` have left the line. Their snapshots stay until that is durable: after a restart
        the rows are open again, and `Outdated` if `newer` was stored meanwhile.
        """
        try:
            await self._journal.supersede(gone, newer)
        except JournalError as error:
            log.error("superseding not kept", file=str(newer.key), error=str(error))
            ids = [job.id for job in gone]
            await self._move_later(ids, JobState.SUPERSEDED, f"by job {newer.id}")
        for job in gone:
            self._leaving.pop(job.id, None)
        for job in gone:
            await self.drop_snapshot(job)

    async def _move_later(self, ids: list[int], state: JobState, note: str) -> None:
        """Once the journal can be written again. A newer job may be settled by then: its row stays."""
        while True:
            await anyio.sleep(JOURNAL_AGAIN_S)
            with contextlib.suppress(JournalError):
                await self._journal.move(ids, state, note)
                return

    async def _keep(self, copies: Sequence[str]) -> None:
        """Before their rows say that nobody needs them: with them the journal drops what it has of small
        ones.
        """
        try:
            await anyio.to_thread.run_sync(self._staging.keep, copies)
        except OSError as error:
            raise JournalUnavailable(f"snapshots cannot be kept: {error}") from error

    async def outdated(self, job: Job) -> None:
        """What was read later than `job` is stored: it leaves."""
        self._scheduler.finished(job)
        self._superseded(1)
        await self._leaves(job, JobState.SUPERSEDED, "a newer one was stored")

    async def drop_snapshot(self, job: Job) -> None:
        """Its row does not need it any more."""
        self._forsaken.discard(job.id)
        if job.staged is not None:
            await anyio.to_thread.run_sync(self._staging.remove, [job.staged])

    # -- somebody gave it up -------------------------------------------------------------------

    async def withdraw(self, job: Job, reason: str) -> bool:
        """Somebody gave the job up for `reason`; the row says so. Whether the file is given up with it:
        not one that has changed since the job read it, of which nobody has decided anything.
        """
        mark = await self.skips.mark(job.key)
        if job.state is JobState.RUNNING or self._scheduler.get(job.id) is not job:
            return False
        job.state = JobState.WITHDRAWN
        self._scheduler.finished(job)
        log.warning("withdrawn", file=str(job.key), reason=reason)
        covered = self._scheduler.covers(job.key)  # a later snapshot of it is stored
        given_up = not covered and is_what(job, mark)
        try:
            if given_up:
                self._scheduler.give_up(job.key, length_of(mark))
                await self.skips.add(job.key, mark)
            elif not covered:
                self.scan()
        finally:
            await self._leaves(job, JobState.WITHDRAWN, reason)
            self._wake()
        return given_up

    def owed_again(self, keys: Iterable[FileKey]) -> None:
        """They are in line, or nobody's any more: whatever was decided about them is over."""
        if gone := [key for key in keys if key in self.skips]:
            self._soon(self._drop_soon(gone))

    async def _drop_soon(self, keys: list[FileKey]) -> None:
        with contextlib.suppress(
            JournalError
        ):  # after a restart it counts for the same content only
            await self.skips.drop(keys)

    async def disown(
        self,
        namespace: str,
        reason: str,
        *,
        retire: bool = False,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Every job of the namespace is given up. A running one ends first, and what it stores counts
        as of a deleted namespace; should we die before that, it is not begun again.

        `retire`: what is proven of the namespace is nobody's from the same moment on. `ended` is called
        after each of those: until then they stood for the files of their names.
        """
        jobs = [job for job in self._scheduler if job.key.namespace == namespace]
        # and those that nobody would stand for any more, should they come back
        leaving = [job for job in self._leaving.values() if job.key.namespace == namespace]
        ids = [job.id for job in (*jobs, *leaving)]
        for job in jobs:  # all at once: none of them may be begun meanwhile
            if job.state is JobState.RUNNING:
                self._disowned[job.id] = Disowned(reason, ended, deleted=True)
        idle = self._depart(jobs, reason)
        try:
            if retire:
                self.owed_again(key for key in self.skips if key.namespace == namespace)
                await self._journal.withdraw(namespace, ids, reason)
                self._scheduler.retire(namespace)
            else:
                await self._journal.move(ids, JobState.WITHDRAWN, reason)
        except JournalError:
            if idle:  # of those that left before, somebody is at it
                self._soon(self._departed_later(ids, idle, reason))
            raise
        await self._departed(idle)
        self._wake()

    async def forsake(self, reason: str, spare: Collection[str] = ()) -> None:
        """Every frozen copy that waits is given up, but for those of `spare`: what is stored is later. A
        running one stores nothing more. The copies are kept in `orphaned/`, before any row says that
        nobody needs them. Raises JournalError, also where they cannot be kept.
        """
        jobs = [j for j in self._scheduler if j.staged and j.key.namespace not in spare]
        leaving = [j for j in self._leaving.values() if j.staged and j.key.namespace not in spare]
        ids = [job.id for job in (*jobs, *leaving)]
        self._forsaken.update(job.id for job in jobs)
        # of those that leave anyway: what an earlier try could not keep
        keep = [j.staged for j in (*jobs, *leaving) if j.staged and j.id in self._forsaken]
        try:
            await self._keep(keep)
        except JournalError:  # nothing has left: whoever takes the store over has to ask again
            self._forsaken.difference_update(job.id for job in jobs)
            raise
        jobs = [job for job in jobs if self._scheduler.get(job.id) is job]
        for job in jobs:
            if job.state is JobState.RUNNING:
                self._disowned.setdefault(job.id, Disowned(reason))  # else it is not even ours
        idle = self._depart(jobs, reason)
        try:
            if ids:
                await self._journal.move(ids, JobState.WITHDRAWN, reason)
        except JournalError:
            if idle:  # of those that left before, somebody is at it
                self._soon(self._departed_later(ids, idle, reason))
            raise
        await self._departed(idle)
        self._wake()

    def _depart(self, jobs: Iterable[Job], reason: str) -> list[Job]:
        """Those that do not run leave the line at once; until their rows say so, a restart brings them
        back.
        """
        idle = [job for job in jobs if job.state is not JobState.RUNNING]
        for job in idle:
            job.state = JobState.WITHDRAWN
            self._scheduler.finished(job)
            self._leaving[job.id] = job
            log.warning("withdrawn", file=str(job.key), reason=reason)
        return idle

    async def _departed(self, idle: Iterable[Job]) -> None:
        """Their rows say so."""
        for job in idle:
            self._leaving.pop(job.id, None)
            await self.drop_snapshot(job)

    async def _departed_later(self, ids: list[int], idle: list[Job], reason: str) -> None:
        await self._move_later(ids, JobState.WITHDRAWN, reason)
        await self._departed(idle)

    def is_forsaken(self, job: Job) -> bool:
        """Whether a running job may not store what it has any more."""
        return job.id in self._forsaken

    async def give_up(self, job: Job, reason: str) -> None:
        """It leaves, and its row says why; whatever it was doing is over."""
        job.state = JobState.WITHDRAWN
        self._scheduler.finished(job)
        log.warning("withdrawn", file=str(job.key), reason=reason)
        try:
            await self._leaves(job, JobState.WITHDRAWN, reason)
        finally:
            self._wake()

    async def _leaves(self, job: Job, state: JobState, note: str) -> None:
        """It has left the line, and its row is to say so: now, or once the journal can be written again.
        Raises JournalError for the latter.
        """
        self._leaving[job.id] = job
        try:
            await self._journal.move([job.id], state, note)
        except JournalError:
            self._soon(self._leaves_later(job, state, note))
            raise
        self._leaving.pop(job.id, None)
        await self.drop_snapshot(job)

    async def _leaves_later(self, job: Job, state: JobState, note: str) -> None:
        await self._move_later([job.id], state, note)
        self._leaving.pop(job.id, None)
        await self.drop_snapshot(job)

    # -- running jobs that are given up --------------------------------------------------------

    def is_disowned(self, job: Job) -> bool:
        """Whether a running job was given up since it began."""
        return job.id in self._disowned

    def is_of_deleted(self, job: Job) -> bool:
        """Whether the namespace of a running job was deleted since it began."""
        disowned = self._disowned.get(job.id)
        return disowned is not None and disowned.deleted

    def why_disowned(self, job: Job) -> str | None:
        """Why a running job was given up, or None."""
        disowned = self._disowned.get(job.id)
        return None if disowned is None else disowned.reason

    def ended(self, job: Job) -> None:
        """A job that ran has left the line; whoever waited for that is told."""
        if (disowned := self._disowned.pop(job.id, None)) is not None:
            disowned.ended()

    async def look_again(self) -> None:
        """Indexes that wait for files which are neither in line nor on disk: what they need is measured
        anew.

        The file may have been a deleted namespace's; then its number may not come for long. Raises
        JournalError.
        """
        waiting = {
            job: obstacle
            for job in self._scheduler
            if (obstacle := self._scheduler.waits_for_nobody(job)) is not None
        }
        if not waiting:
            return
        found = await anyio.to_thread.run_sync(self._measure, waiting, abandon_on_cancel=True)
        for job, (needs, needs_bytes) in found.items():
            if self._scheduler.get(job.id) is job and job.state is JobState.PENDING:
                self._scheduler.needs_other(job, needs, needs_bytes)
                log.info("waits for an older file now", file=str(job.key), needs=needs)
                await self._journal.save(job)
        self._wake()

    def _measure(self, waiting: Mapping[Job, FileKey]) -> dict[Job, tuple[int, int]]:
        """What those need whose needs have changed. Blocking."""
        found = {}
        for job, obstacle in waiting.items():
            if os.path.lexists(self._roots.path(obstacle)):
                continue
            if job.staged is not None:
                needs = points_to(self._roots, job, self._staging.path(job.staged))
            else:
                needs = no_further(self._roots, job), 0
            if needs[0] != job.needs:
                found[job] = needs
        return found

    async def went_with_it(self, job: Job) -> bool:
        """Whether the file was of a namespace whose deletion was heard of before this event.

        Nobody has a file of such a number: zdb removes none but all at once, and a data file that was
        evicted has an index after it.
        """
        if not await self._journal.was_retired(job.key):
            return False
        return await anyio.to_thread.run_sync(self._is_beyond, job.key)

    def _is_beyond(self, key: FileKey) -> bool:
        """Whether the namespace on disk ends before this file. Blocking."""
        roots, name = self._roots, key.namespace
        here = [*roots.numbers(Kind.INDEX, name), *roots.numbers(Kind.DATA, name)]
        return all(number < key.number for number in here) or not here
