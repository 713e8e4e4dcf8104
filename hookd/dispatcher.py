"""Stage dispatcher: runs what the scheduler gives (`attempt`), and makes the outcome durable.

The invariants:

- a job is settled only with what `Attempts.store` has proven, in one transaction with the ledger;
- whatever fails stays in the journal with its error: pending, or quarantined;
- while the store as a whole is down, one job at a time tries, each time another one, with backoff.

The last rule is a circuit breaker whose probe is real work. The probing job changes each time, so a
file that brings the store down cannot keep the others from proving that it is up.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.to_thread

from hookd import faults
from hookd.attempt import Attempts, Outdated, Unannounced
from hookd.backoff import Backoff
from hookd.departures import JOURNAL_AGAIN_S, Departures
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
from hookd.source import Postponed
from hookd.stores.base import Store

log = get("dispatcher")

QUARANTINE_AFTER = 3
"""Permanent errors in a row: zdb may be between unlinking and naming a namespace's files."""

PROBE_GAP_S = 0.1
"""The job that failed as the store went down comes later than the next probe, so that is another's."""

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

    def add_superseded(self, jobs: int) -> None:
        """So many jobs gave way to newer ones."""
        self.superseded += jobs


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
        chosen: Callable[[str], bool] = lambda namespace: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is monotonic seconds; for `time_limit_s`, `held`, `guard` and `chosen` see `Attempts`;
        `changed` is told when the ledger has changed.
        """
        self._scheduler = scheduler
        self._journal = journal
        self._store = store
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
            forsaken=lambda job: self.departures.is_forsaken(job),
            chosen=chosen,
        )
        self._backoff = backoff
        self._clock = clock
        self._changed = changed
        self._wake = anyio.Event()
        self.running = 0
        self.moved_at = clock()
        """When a job last started or ended."""
        self.looks_again_at = clock()
        """When the line is looked at again, at the latest."""
        self.paused = False
        self.store_state = StoreState()
        self.counts = Counts()
        self.departures = Departures(
            scheduler=scheduler,
            journal=journal,
            staging=staging,
            roots=roots,
            wake=self.wake,
            superseded=self.counts.add_superseded,
        )

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
                if not self.departures.is_disowned(job):  # else they are of its successor
                    await self._announce(error.keys)
                await self._not_yet(job)
            except Outdated:
                await self.departures.outdated(job)
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
            if self._scheduler.get(job.id) is not job:
                self.departures.ended(job)
            self.wake()

    def _run_again(self, job: Job) -> None:
        if self._scheduler.get(job.id) is job:  # else it has left the line already
            self._scheduler.again_at(job, self._clock() + JOURNAL_AGAIN_S)

    async def _not_yet(self, job: Job) -> None:
        """It has to wait for another file. For one of a deleted namespace nothing would ever come."""
        job.state = JobState.PENDING
        if (reason := self.departures.why_disowned(job)) is not None:
            await self.departures.give_up(job, reason)
        else:
            self._scheduler.release(job)

    # -- what became of it ---------------------------------------------------------------------

    async def _announce(self, keys: Sequence[FileKey]) -> None:
        """Jobs for files whose own event never came, or has not come yet."""
        await self.owe(keys)
        for key in keys:
            log.warning("no hook announced it", file=str(key))

    async def owe(self, keys: Sequence[FileKey]) -> None:
        """Jobs for what is on disk under these names. Raises JournalError."""
        jobs = [_unannounced(key) for key in keys]
        await self._journal.add_jobs(jobs)
        self.enqueue(jobs)

    async def _settled(self, job: Job, entry: LedgerEntry) -> None:
        job.error = job.error_class = None
        retired = self.departures.is_of_deleted(job)
        await self._journal.settle(job, entry, retired=retired)
        faults.point("settled")
        if self.departures.is_of_deleted(job) and not retired:  # while it was being committed
            await self._journal.retire_file(job.key)
        job.state = JobState.SETTLED
        if not self.departures.is_of_deleted(job):
            self._scheduler.remote(job.key, entry.size_bytes, sealed=entry.sealed)
            if older := self._scheduler.outdated(job):
                self.departures.supersede(older, job)
        self._scheduler.finished(job)
        self._changed()
        self.counts.settled_files += 1
        self.counts.settled_bytes += entry.size_bytes
        await self._store_answered()
        log.info("stored", file=str(job.key), bytes=entry.size_bytes, attempts=job.attempts)
        await self.departures.drop_snapshot(job)
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
        gone = quarantined and isinstance(error, SourceGone)
        gone = gone and await self.departures.went_with_it(job)
        # after that: its namespace may have been deleted meanwhile, and nothing of it waits in line then
        if (reason := self.departures.why_disowned(job)) is not None:
            job.state = JobState.PENDING
            await self.departures.give_up(job, reason)
            return
        if gone:
            job.state = JobState.PENDING
            await self.departures.give_up(job, "zdb deleted the namespace that had it")
            await self.departures.look_again()
            return
        if quarantined:
            newer = self._scheduler.quarantine(job)
        else:
            wait_s = self._backoff.after(job.attempts)
            if isinstance(error, StoreUnreachable):
                wait_s = max(wait_s, self.store_state.next_try - now + PROBE_GAP_S)
            newer = self._scheduler.retry_at(job, now + wait_s)
        if newer is not None:
            self.departures.supersede([job], newer)
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
            self.departures.owed_again([job.key])
            if newer := self._scheduler.covered(job):
                self.departures.supersede([job], newer)
            elif gone := self._scheduler.add(job, now):
                self.departures.supersede(gone, job)
        self.wake()

    async def retry(self, job: Job) -> None:
        """An administrator's retry: at once, attempts counted anew."""
        if job.state is JobState.RUNNING:
            return
        job.attempts = job.refusals = 0
        self._scheduler.release(job)
        await self._journal.save(job)
        self.store_state.next_try = self._clock()
        self.wake()


def _unannounced(key: FileKey) -> Job:
    """As `scan` would make it."""
    data = key.kind is Kind.DATA
    return Job(
        key=key,
        since=time.time(),
        sealed=data,
        freeze=not data,
        needs=key.number if key.kind is Kind.INDEX else None,
        ask_first=True,
    )
