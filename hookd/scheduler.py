"""Stage scheduler: which file goes to the store next. Pure: no I/O, `now` is an argument.

The rules, in order of weight:

1. *One at a time*: of one file at most one job runs, in the order in which their contents were read
   (`Job.begun`); that is the order of acknowledgement but for events that are slow, and files that are
   frozen late.
2. *Data first, old indexes last*: a job that needs data file N runs only when no job for a data file
   ≤ N of its namespace is open, and dN is known to be remote with at least the length that its entries
   need; or as long as it will ever be (sealed), or somebody gave it up. An index older than N (zdb
   rewrote it to point into dN) also waits until iN is remote, as it was acknowledged before it. An index
   that is not remote in any version waits for the older ones of which that is true too, but for those
   that wait for a newer one (`order`).
3. *Newest wins*: a new snapshot takes the place (and the turn) of older ones of its file, except of
   one that has waited `supersede_within_s` and never failed. That one keeps its turn: else a file
   that is rewritten faster than the store drains would never be stored at all; unless it waits for
   what is in no line, and the new one needs less. A snapshot is never
   given up for a shorter file: zdb's files only grow, so that one is not a newer version; nor for a
   file that has no snapshot yet: until it has, or is stored, the disk may lose it.
4. *Oldest first*: what may run, runs by turn. A failed job waits out its backoff aside, so it holds
   up nobody but the indexes that rule 2 makes wait for it: those that point into it, and the newer ones.

Weakness: rule 2 counts a quarantined file as open, so its namespace's later indexes wait until somebody
retries or skips it. The alternative would publish an index that points at nothing, or one without its
predecessor, for which a restore is refused.

Costs: every call is O(log n) amortised; a job that rule 2 holds back is touched again only when the
lowest open data file of its namespace moves, or when the very file that it waits for was stored or is
held back itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping

from hookd.files import FileKey, Kind
from hookd.journal.records import Job, JobState
from hookd.order import Order
from hookd.succession import has_more, lacks_room, older_in, take_over

SUPERSEDE_WITHIN_S = 30.0

HELD_BACK = frozenset({"waiting", "short", "behind"})
"""Places of jobs that cannot go before another one is done."""


class Scheduler:
    """All open jobs, and which of them may run. `Job.place` names the list that holds one."""

    def __init__(self, *, supersede_within_s: float = SUPERSEDE_WITHIN_S) -> None:
        self._supersede_within_s = supersede_within_s
        self._jobs: dict[int, Job] = {}
        self._files: dict[FileKey, list[Job]] = {}
        self._orders: dict[str, Order] = {}
        self._stirred: set[FileKey] = set()
        """Index files that went first, and do not since those that wait for them were placed."""
        self._ready: list[tuple[int, int, Job]] = []
        self._later: list[tuple[float, int, int, Job]] = []

    # -- what comes in -------------------------------------------------------------------------

    def remote(self, key: FileKey, size_bytes: int, *, sealed: bool = False) -> None:
        """`key` is proven remote with this length (the ledger, at start, and each settling). `sealed`:
        it will never be longer.
        """
        self._order(key.namespace).proven(key, size_bytes, sealed=sealed)
        self._look_again(key)

    def retire(self, namespace: str) -> None:
        """The namespace was deleted: what is remote says nothing about files to come."""
        self._order(namespace).reconsider()
        self.forget(namespace)

    def forget(self, namespace: str) -> None:
        """The store has lost it: nothing of it is remote. What somebody gave up is not asked for."""
        self._order(namespace).forget()
        for key, line in self._files.items():
            if key.namespace == namespace and key.kind is Kind.INDEX:
                self._weigh(key)
                if line[0].place == "ready":  # it may lack what was remote
                    self._place(line[0])

    def add(self, job: Job, now: float) -> list[Job]:
        """A committed job joins; returns those it supersedes (rule 3), already forgotten here."""
        line = self._files.setdefault(job.key, [])
        gone = self._superseded(line, job, now)
        job.queued_at = now
        self._jobs[job.id] = job
        at = len(line)
        while at and line[at - 1].begun > job.begun and line[at - 1].state is not JobState.RUNNING:
            at -= 1
        line.insert(at, job)
        if at == 0 and len(line) > 1 and line[1].state is JobState.PENDING:
            line[1].place = "behind"
        self._order(job.key.namespace).opened(job.key)
        for old in gone:
            self._replace(old, job)
        self._place(job)
        return gone

    def _superseded(self, line: list[Job], job: Job, now: float) -> list[Job]:
        """Those in `line` that the new `job` takes the place of."""
        waiting = older_in(line, job)
        if not waiting or waiting[0].state is not JobState.PENDING or waiting[0].attempts:
            return waiting
        protected = now - waiting[0].queued_at >= self._supersede_within_s
        if protected and (job.needs or 0) < (waiting[0].needs or 0):
            # zdb points ever further: a deleted namespace's, whose numbers may not come for long
            protected = self.waits_for_nobody(waiting[0]) is None
        return waiting[1:] if protected else waiting

    def _replace(self, old: Job, new: Job) -> None:
        """`new` takes over the turn and the age of `old`, which leaves."""
        take_over(old, new)
        self._leave(old)

    def covered(self, job: Job) -> Job | None:
        """The job in line whose content was read later than that of `job`, which is committed and not in
        line yet: it stands for it from now on, and `job` need not join.
        """
        for newer in reversed(self._files.get(job.key, ())):
            if (
                newer.begun > job.begun
                and newer.state is not JobState.QUARANTINED
                and not has_more(job, newer)
            ):
                take_over(job, newer)
                if newer.place == "ready":
                    self._place(newer)  # by its new turn
                return newer
        return None

    # -- what goes out -------------------------------------------------------------------------

    def take(self, now: float) -> Job | None:
        """The job that is next, now RUNNING, or None if nothing may run."""
        while (due := self.next_due()) is not None and due <= now:
            self._place(heapq.heappop(self._later)[-1])
        self._settle_stirred()
        while self._ready:
            job = heapq.heappop(self._ready)[-1]
            if job.place != "ready":
                continue
            if self.waits_for(job) is not None:  # a data file was announced since
                self._place(job)
                self._settle_stirred()
                continue
            job.state = JobState.RUNNING
            job.place = "running"
            return job
        return None

    def next_due(self) -> float | None:
        """When the earliest backoff ends (the clock of `now`), or None."""
        while self._later:
            due, *_, job = self._later[0]
            if job.place == "later" and job.due == due:
                return due
            heapq.heappop(self._later)  # released since, and perhaps aside anew
        return None

    # -- what became of a job ------------------------------------------------------------------

    def outdated(self, job: Job) -> list[Job]:
        """Those of its file that hold older content than `job`, which is stored: they leave."""
        gone = [old for old in older_in(self._files[job.key], job) if old.begun < job.begun]
        for old in gone:
            self._leave(old)
        return gone

    def finished(self, job: Job) -> None:
        """Settled, skipped or withdrawn: it leaves, and what it held back may go."""
        self._leave(job)

    def give_up(self, key: FileKey, size_bytes: int) -> None:
        """Somebody decided that the file is not stored (`Skips.length`): indexes that need no more than
        so many bytes of it do not ask for it any more.
        """
        self._order(key.namespace).give_up(key, size_bytes)
        self._look_again(key)

    def checked(self, job: Job) -> None:
        """All of `unchecked(job)` was found to be remote as long as it is here."""
        assert job.needs is not None
        order = self._order(job.key.namespace)
        order.checked = max(order.checked, job.needs)

    def retry_at(self, job: Job, due: float) -> Job | None:
        """Failed for now: PENDING again and aside until `due`.

        Returns the newer job of the same file that takes its place instead, if there is one.
        """
        if job.attempts and (newer := self._newer(job)):
            return newer
        self.again_at(job, due)
        return None

    def again_at(self, job: Job, due: float) -> None:
        """No fault of its own: PENDING again, aside until `due`, and none takes its place.

        The journal cannot be written then, so it could not be told who stands for whom.
        """
        job.state = JobState.PENDING
        job.place = "later"
        job.due = due
        heapq.heappush(self._later, (due, job.turn, job.id, job))

    def quarantine(self, job: Job) -> Job | None:
        """Failed for good: it stays, visibly, and holds back what depends on it.

        Returns the newer job of the same file that takes its place instead, if there is one.
        """
        if newer := self._newer(job):
            return newer
        job.state = JobState.QUARANTINED
        job.place = "quarantined"
        return None

    def _newer(self, job: Job) -> Job | None:
        *older, newer = self._files[job.key]
        if newer is job or newer.state is not JobState.PENDING:
            return None
        if any(old.begun > newer.begun or has_more(old, newer) for old in older):
            return None
        for old in older:
            self._replace(old, newer)
        return newer

    def release(self, job: Job) -> None:
        """A quarantined or backing-off job may run at once."""
        if job.state is not JobState.RUNNING:
            job.state = JobState.PENDING
            self._place(job)

    def hurry(self) -> None:
        """End every backoff (the store is back, or a drain has begun)."""
        later, self._later = self._later, []
        for *_, job in later:
            if job.place == "later":
                self._place(job)

    def snapshots(self, places: Collection[str]) -> Iterator[Job]:
        """Jobs in these places that have a snapshot, the youngest first."""
        for job in reversed(self._jobs.values()):
            if job.staged is not None and job.place in places:
                yield job

    # -- what can be seen ----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, job_id: int) -> Job | None:
        """One open job."""
        return self._jobs.get(job_id)

    def of(self, key: FileKey) -> tuple[Job, ...]:
        """The open jobs of a file, oldest first."""
        return tuple(self._files.get(key, ()))

    def covers(self, key: FileKey) -> bool:
        """Whether any open job stands for the file."""
        return key in self._files

    def remote_bytes(self, key: FileKey) -> int:
        """The length that a data file is proven to have in the store, 0 if it is not there."""
        order = self._orders.get(key.namespace)
        return 0 if order is None else order.remote.get(key.number, 0)

    def is_remote(self, key: FileKey) -> bool:
        """Whether a data or index file is in the store in some version."""
        order = self._orders.get(key.namespace)
        return order is not None and order.is_remote(key)

    def is_sealed(self, key: FileKey) -> bool:
        """Whether a data file is proven remote as long as it will ever be."""
        order = self._orders.get(key.namespace)
        return order is not None and key.number in order.sealed

    def newest_remote_index(self, namespace: str) -> int | None:
        """The number of the newest index file that is in the store in some version."""
        order = self._orders.get(namespace)
        return None if order is None else order.newest_index

    def remote_data(self, namespace: str) -> Mapping[int, int]:
        """Data file number → length that is proven remote; not a copy."""
        order = self._orders.get(namespace)
        return {} if order is None else order.remote

    def not_remote(self, kind: Kind, namespace: str, numbers: Iterable[int]) -> list[int]:
        """Which of these data or index files are not remote in any version, nor given up."""
        order = self._orders.get(namespace)
        return list(numbers) if order is None else order.not_remote(kind, numbers)

    def given_up(self, namespace: str) -> tuple[Mapping[int, int], Collection[int]]:
        """Data file number → its length when it was given up; numbers of such index files. No copies."""
        order = self._orders.get(namespace)
        return ({}, ()) if order is None else (order.given_up, order.given_up_indexes)

    def waits_for(self, job: Job) -> FileKey | None:
        """The data file, the newer or the older index that holds a job back (rule 2), or None."""
        return self._order(job.key.namespace).obstacle(job, self._files)

    def waits_for_nobody(self, job: Job) -> FileKey | None:
        """The file that holds a job back and is in no line itself, or None."""
        obstacle = self.waits_for(job)
        return None if obstacle is None or obstacle in self._files else obstacle

    def needs_other(self, job: Job, needs: int, needs_bytes: int) -> None:
        """An index in line is found to point elsewhere."""
        job.needs, job.needs_bytes = needs, needs_bytes
        if job.place in ("waiting", "short"):
            self._place(job)

    def unchecked(self, job: Job) -> list[tuple[FileKey, int]]:
        """(data file, length that is proven remote or was given up, or 0) of those before the newest that
        an index needs, and of that where it is sealed.

        Rule 2 looks at what was announced. An announcement may have been lost with its shim, or
        still lie in the spool, so whoever can see the disk compares these lengths with it.
        """
        return [] if job.needs is None else self._order(job.key.namespace).unchecked(job.needs)

    def indexes_before(self, job: Job) -> list[FileKey]:
        """Index files older than the one of `job` that are not remote in any version."""
        return self._order(job.key.namespace).indexes_before(job.key.number)

    def stuck(self) -> bool:
        """Whether nothing runs, and nothing will without help from outside. What found no room for its
        snapshot is not counted where quarantined ones take it.
        """
        self._settle_stirred()
        full = any(self.snapshots(("quarantined",)))
        return not any(
            job.place in ("running", "ready")
            or (job.place == "later" and not (full and lacks_room(job)))
            for job in self
        )

    # -- inside --------------------------------------------------------------------------------

    def _order(self, namespace: str) -> Order:
        found = self._orders.get(namespace)
        if found is None:
            found = self._orders[namespace] = Order(namespace)
        return found

    def _place(self, job: Job) -> None:
        """Put a pending job where rules 1 and 2 say."""
        if job.state is not JobState.PENDING:
            return
        if self._files[job.key][0] is not job:
            job.place = "behind"
            return
        if job.key.kind is Kind.INDEX:
            self._weigh(job.key)
        obstacle = self.waits_for(job)
        if obstacle is None:
            job.place = "ready"
            heapq.heappush(self._ready, (job.turn, job.id, job))
            return
        self._stirred.update(self._order(job.key.namespace).hold(job, obstacle))

    def _weigh(self, key: FileKey) -> None:
        """Whoever waits for an index that waits for a newer one itself may have to go before it."""
        if self._order(key.namespace).weigh(key.number, self._files):
            self._stirred.add(key)

    def _look_again(self, key: FileKey) -> None:
        """Place those anew that waited for this very file."""
        for job in self._order(key.namespace).waiting_for(key, self._files):
            self._place(job)

    def _settle_stirred(self) -> None:
        """Place those anew that waited for an index that goes first no more."""
        while self._stirred:
            self._look_again(self._stirred.pop())

    def _leave(self, job: Job) -> None:
        key = job.key
        del self._jobs[job.id]
        line = self._files[key]
        line.remove(job)
        job.place = ""
        if not line:
            del self._files[key]
        elif line[0].place == "behind":
            self._place(line[0])
        if key.kind is Kind.DATA:
            for waiter in self._order(key.namespace).closed(key):
                self._place(waiter)
            self._look_again(key)
        elif key.kind is Kind.INDEX:
            self._weigh(key)
            self._look_again(key)
