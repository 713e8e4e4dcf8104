"""Stage dispatcher: runs what the scheduler gives (`attempt`), and makes the outcome durable.

The invariants:

- a job is settled only with what `Attempts.store` has proven, in one transaction with the ledger;
- whatever fails stays in the journal with its error: pending, or quarantined;
- while the store as a whole is down, one job at a time tries, each time another one, with backoff.

The last rule is a circuit breaker whose probe is real work. The probing job changes each time, so a
file that brings the store down cannot keep the others from proving that it is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from hookd import faults
from hookd.attempt import Attempts, Outdated, Postponed, Unannounced
from hookd.backoff import Backoff
from hookd.errors import (
    Conflict,
    JournalError,
    NamespaceHeld,
    SourceGone,
    StoreError,
    StoreUnreachable,
)
from hookd.files import FileKey, Kind, Roots
from hookd.journal import Job, JobState, Journal, LedgerEntry
from hookd.log import get
from hookd.scheduler import Scheduler
from hookd.snapshot import Staging
from hookd.stores.base import Store

log = get("dispatcher")

QUARANTINE_AFTER = 3
"""Permanent errors in a row: zdb may be between unlinking and naming a namespace's files."""

PROBE_GAP_S = 0.1
"""The job that failed as the store went down comes later than the next probe, so that is another's."""

JOURNAL_AGAIN_S = 1.0
"""How long until a journal that could not be written is tried again."""

HURRY_UP_TO_ATTEMPTS = 3
"""Jobs that failed more often keep their own backoff when the store comes back."""


@dataclass(slots=True)
class StoreState:
    """What is known of the store as a whole."""

    down_since: float | None = None
    """Unix seconds, None while it works."""
    failures: int = 0
    """Failed tries in a row since then."""
    next_try: float = 0.0
    """Monotonic seconds."""
    last_error: str | None = None
    last_success: float | None = None
    """Unix seconds."""


@dataclass(slots=True)
class Counts:
    """Since the start of this process."""

    settled_files: int = 0
    settled_bytes: int = 0
    failed: int = 0
    superseded: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    last_error: dict[str, str] = field(default_factory=dict)
    """Error class → newest text."""


@dataclass(frozen=True, slots=True)
class _Disowned:
    """Why a running job is given up, and who wants to know when it has ended."""

    reason: str
    ended: Callable[[], None]


class Dispatcher:
    """Bounded workers over the scheduler's jobs."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        journal: Journal,
        store: Store,
        staging: Staging,
        roots: Roots,
        workers: int,
        time_limit_s: Callable[[int], float],
        backoff: Backoff,
        held: Callable[[str], str | None],
        guard: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is monotonic seconds; for `time_limit_s`, `held` and `guard` see `Attempts`; `changed`
        is told when the ledger has changed.
        """
        self._scheduler = scheduler
        self._journal = journal
        self._store = store
        self._staging = staging
        self._roots = roots
        # One more than the store takes at once: it reads and hashes the next file meanwhile.
        self._workers = min(workers, store.concurrency + (0 if store.proves_copies else 1))
        self._attempts = Attempts(
            journal=journal,
            scheduler=scheduler,
            store=store,
            staging=staging,
            roots=roots,
            time_limit_s=time_limit_s,
            held=held,
            guard=guard,
        )
        self._backoff = backoff
        self._clock = clock
        self._changed = changed
        self._wake = anyio.Event()
        self._tasks: set[asyncio.Future[None]] = set()
        self._disowned: dict[int, _Disowned] = {}
        """Running jobs whose namespace was deleted."""
        self._leaving: dict[int, Job] = {}
        """Jobs that have left the line while their rows are open still: a restart brings them back."""
        self.running = 0
        self.moved_at = clock()
        """When a job last started or ended."""
        self.looks_again_at = clock()
        """When the line is looked at again, at the latest."""
        self.paused = False
        self.store_state = StoreState()
        self.counts = Counts()

    @property
    def already_there(self) -> int:
        """Files that the store had before, since the start of this process."""
        return self._attempts.already_there

    # -- the loop ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may be due."""
        self._wake.set()

    def hurry(self) -> None:
        """A drain has begun: no long waits any more."""
        self._backoff.hurry()
        self.store_state.next_try = min(self.store_state.next_try, self._clock())
        self._scheduler.hurry()
        self.wake()

    async def run(self) -> None:
        """Work until cancelled. A cancelled job is pending again at the next start."""
        async with anyio.create_task_group() as group:
            while True:
                self._wake = anyio.Event()
                self._start_due(group)
                wait_s = self._sleep_s()
                self.looks_again_at = self._clock() + wait_s
                with anyio.move_on_after(wait_s):
                    await self._wake.wait()

    def _start_due(self, group: anyio.abc.TaskGroup) -> None:
        now = self._clock()
        while not self.paused and self.running < self._limit(now):
            job = self._scheduler.take(now)
            if job is None:
                return
            self.running += 1
            self.moved_at = now
            group.start_soon(self._work, job, name=f"store {job.key}")

    def _limit(self, now: float) -> int:
        """All workers, or the one probe that a store in trouble gets."""
        if self.store_state.down_since is None:
            return self._workers
        return 1 if now >= self.store_state.next_try else 0

    def _sleep_s(self) -> float:
        now = self._clock()
        if self.paused or 0 < self._limit(now) <= self.running:
            return 60.0  # woken by whoever resumes, or by the next job to end
        if self._limit(now) == 0:
            return max(0.005, self.store_state.next_try - now)
        due = self._scheduler.next_due()
        return 60.0 if due is None else max(0.005, due - now)

    async def _work(self, job: Job) -> None:
        try:
            try:
                job.attempts += 1
                await self._journal.save(job)
                faults.point("job-started")
                entry = await self._attempts.store(job)
            except Postponed:
                await self._not_yet(job)
            except Unannounced as error:
                if job.id not in self._disowned:  # else they are of another namespace of that name
                    await self._announce(error.keys)
                await self._not_yet(job)
            except Outdated:
                await self._outdated(job)
            except StoreError as error:
                await self._failed(job, error)
            else:
                await self._settled(job, entry)
        except JournalError as error:
            # Not durable: the job runs again. What is remote already is found by its checksum.
            log.error("journal unavailable", file=str(job.key), error=str(error))
            self._run_again(job)
        except Exception as error:
            # A fault of ours in one file must not take the others down with it.
            log.exception("internal error", file=str(job.key), exc_info=error)
            self._run_again(job)
        finally:
            self.running -= 1
            self.moved_at = self._clock()
            if self._scheduler.get(job.id) is not job and job.id in self._disowned:
                self._disowned.pop(job.id).ended()
            self.wake()

    def _run_again(self, job: Job) -> None:
        if self._scheduler.get(job.id) is job:  # else it has left the line already
            self._scheduler.again_at(job, self._clock() + JOURNAL_AGAIN_S)

    async def _not_yet(self, job: Job) -> None:
        """It has to wait for another file. For one of a deleted namespace nothing would ever come."""
        job.state = JobState.PENDING
        if (disowned := self._disowned.get(job.id)) is not None:
            await self._withdraw(job, disowned.reason)
        else:
            self._scheduler.release(job)

    # -- what became of it ---------------------------------------------------------------------

    async def _announce(self, keys: Sequence[FileKey]) -> None:
        """Jobs for files whose own event never came, or has not come yet."""
        jobs = [_unannounced(key) for key in keys]
        await self._journal.add_jobs(jobs)
        for key in keys:
            log.warning("no hook announced it", file=str(key))
        self.enqueue(jobs)

    async def _settled(self, job: Job, entry: LedgerEntry) -> None:
        job.error = job.error_class = None
        disowned = job.id in self._disowned
        await self._journal.settle(job, entry, retired=disowned)
        faults.point("settled")
        if job.id in self._disowned and not disowned:  # while it was being committed
            await self._journal.retire_file(job.key)
        job.state = JobState.SETTLED
        if job.id not in self._disowned:
            self._scheduler.remote(job.key, entry.size_bytes)
            if older := self._scheduler.outdated(job):
                self._supersede(older, job)
        self._scheduler.finished(job)
        self._changed()
        self.counts.settled_files += 1
        self.counts.settled_bytes += entry.size_bytes
        await self._store_answered()
        log.info("stored", file=str(job.key), bytes=entry.size_bytes, attempts=job.attempts)
        await self._drop_snapshot(job)
        faults.point("staged-removed")

    async def _store_answered(self) -> None:
        state = self.store_state
        state.last_success = time.time()
        if state.down_since is None:
            return
        log.warning("store is back", down_s=round(max(0.0, time.time() - state.down_since)))
        state.down_since, state.failures, state.last_error = None, 0, None
        for job in list(self._scheduler):
            if job.error_class == "unreachable" and job.attempts <= HURRY_UP_TO_ATTEMPTS:
                self._release_waiting(job)

    def _release_waiting(self, job: Job) -> None:
        if job.state is JobState.PENDING and job.place == "later":
            self._scheduler.release(job)

    async def _failed(self, job: Job, error: StoreError) -> None:
        job.error_class, job.error = error.error_class, str(error)
        counts = self.counts
        counts.failed += 1
        counts.errors[error.error_class] = counts.errors.get(error.error_class, 0) + 1
        counts.last_error[error.error_class] = str(error)
        now = self._clock()
        if isinstance(error, StoreUnreachable):
            self._store_down(error, now)
        job.refusals = job.refusals + 1 if error.permanent else 0
        quarantined = error.permanent and (
            job.refusals >= QUARANTINE_AFTER or isinstance(error, Conflict | NamespaceHeld)
        )
        if (disowned := self._disowned.get(job.id)) is not None:
            job.state = JobState.PENDING
            await self._withdraw(job, disowned.reason)
            return
        if quarantined and isinstance(error, SourceGone) and await self._went_with_it(job):
            job.state = JobState.PENDING
            await self._withdraw(job, "zdb deleted the namespace that had it")
            return
        if quarantined:
            newer = self._scheduler.quarantine(job)
        else:
            wait_s = self._backoff.after(job.attempts)
            if isinstance(error, StoreUnreachable):
                wait_s = max(wait_s, self.store_state.next_try - now + PROBE_GAP_S)
            newer = self._scheduler.retry_at(job, now + wait_s)
        if newer is not None:
            self._supersede([job], newer)
            return
        try:
            await self._journal.save(job)
        except JournalError as unkept:
            # Not raised: it is in line again, and may be running by now. Its row says it runs.
            log.error("journal unavailable", file=str(job.key), error=str(unkept))
        if quarantined:
            log.error("quarantined", file=str(job.key), error=str(error), attempts=job.attempts)
        elif not isinstance(error, StoreUnreachable):
            log.warning("will retry", file=str(job.key), error=str(error), attempts=job.attempts)

    async def _went_with_it(self, job: Job) -> bool:
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

    def _store_down(self, error: StoreUnreachable, now: float) -> None:
        state = self.store_state
        if state.down_since is None:
            state.down_since = time.time()
            log.warning("store is down", store=self._store.kind, error=str(error))
        state.failures += 1
        state.last_error = str(error)
        state.next_try = now + self._backoff.after(state.failures)

    # -- changes from outside ------------------------------------------------------------------

    def enqueue(self, jobs: Iterable[Job]) -> None:
        """Jobs that are committed join the line.

        That others are superseded is made durable a moment later: nobody waits for it, and after a
        crash in between the same jobs supersede each other again.
        """
        now = self._clock()
        for job in jobs:
            if newer := self._scheduler.covered(job):
                self._supersede([job], newer)
            elif gone := self._scheduler.add(job, now):
                self._supersede(gone, job)
        self.wake()

    @property
    def unkept(self) -> int:
        """How often jobs left the line and the journal does not say so yet."""
        return len(self._tasks)

    def _supersede(self, gone: list[Job], newer: Job) -> None:
        self.counts.superseded += len(gone)
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
            await self._drop_snapshot(job)

    async def _move_later(self, ids: list[int], state: JobState, note: str) -> None:
        """Once the journal can be written again. A newer job may be settled by then: its row stays."""
        while True:
            await anyio.sleep(JOURNAL_AGAIN_S)
            with contextlib.suppress(JournalError):
                await self._journal.move(ids, state, note)
                return

    async def _outdated(self, job: Job) -> None:
        self._scheduler.finished(job)
        self.counts.superseded += 1
        self._leaving[job.id] = job
        await self._journal.move([job.id], JobState.SUPERSEDED, "a newer one was stored")
        self._leaving.pop(job.id, None)
        await self._drop_snapshot(job)

    async def _drop_snapshot(self, job: Job) -> None:
        if job.staged is not None:
            await anyio.to_thread.run_sync(self._staging.remove, [job.staged])

    async def retry(self, job: Job) -> None:
        """An administrator's retry: at once, attempts counted anew."""
        if job.state is JobState.RUNNING:
            return
        job.attempts = job.refusals = 0
        self._scheduler.release(job)
        await self._journal.save(job)
        self.store_state.next_try = self._clock()
        self.wake()

    async def withdraw(self, job: Job, reason: str) -> None:
        """Somebody gave the job up for `reason`; the row says so."""
        if job.state is JobState.RUNNING:
            return
        self._scheduler.give_up(job.key)
        await self._withdraw(job, reason)

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
        idle = [job for job in jobs if job.state is not JobState.RUNNING]
        for job in jobs:  # all at once: none of them may be begun meanwhile
            if job.state is JobState.RUNNING:
                self._disowned[job.id] = _Disowned(reason, ended)
        for job in idle:
            job.state = JobState.WITHDRAWN
            self._scheduler.finished(job)
        # and those that nobody would stand for any more, should they come back
        leaving = [job for job in self._leaving.values() if job.key.namespace == namespace]
        ids = [job.id for job in (*jobs, *leaving)]
        for job in idle:
            log.warning("withdrawn", file=str(job.key), reason=reason)
        try:
            if retire:
                await self._journal.withdraw(namespace, ids, reason)
                self._scheduler.retire(namespace)
            else:
                await self._journal.move(ids, JobState.WITHDRAWN, reason)
        except JournalError:
            self._soon(self._disown_later(ids, idle, reason))
            raise
        for job in idle:
            await self._drop_snapshot(job)
        self.wake()

    async def _disown_later(self, ids: list[int], idle: list[Job], reason: str) -> None:
        await self._move_later(ids, JobState.WITHDRAWN, reason)
        for job in idle:
            await self._drop_snapshot(job)

    async def _withdraw(self, job: Job, reason: str) -> None:
        job.state = JobState.WITHDRAWN
        self._scheduler.finished(job)
        await self._journal.move([job.id], JobState.WITHDRAWN, reason)
        await self._drop_snapshot(job)
        log.warning("withdrawn", file=str(job.key), reason=reason)
        self.wake()


def _unannounced(key: FileKey) -> Job:
    """As `scan` would make it."""
    index = key.kind is Kind.INDEX
    return Job(
        key=key,
        since=time.time(),
        sealed=not index,
        freeze=index,
        needs=key.number if index else None,
        ask_first=True,
    )
