"""Scheduler against a model that looks through a plain list at every step.

The model knows the rules in the words of the docstring and nothing of heaps: what may run is found by
looking at all open jobs. Whatever the order of events, the scheduler must give the same job.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from hookd.files import FileKey, Kind, data_key, index_key, namespace_key
from hookd.journal.records import Job, JobState
from hookd.order import NOWHERE
from hookd.scheduler import Scheduler

WITHIN_S = 30.0
NEWEST = 3
numbers = st.integers(0, NEWEST)
namespaces = st.sampled_from(["a", "b"])
lengths = st.sampled_from([28, 50, 50, 50, 80])


@dataclass
class Model:
    """Open jobs in the order in which they came, and what is remote."""

    open: list[Job] = field(default_factory=list)
    due: dict[int, float] = field(default_factory=dict)
    remote: dict[FileKey, int] = field(default_factory=dict)
    sealed: set[FileKey] = field(default_factory=set)
    given_up: dict[FileKey, int] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    ran: dict[int, int] = field(default_factory=dict)
    """Job → the one of its file that ran when it came."""

    def line(self, key: FileKey) -> list[Job]:
        """In the order in which they were read; but what ran when another came stays before it."""
        line: list[Job] = []
        for job in self.open:
            if job.key == key:
                ran, at = self.ran.get(job.id), len(line)
                while at and line[at - 1].begun > job.begun and line[at - 1].id != ran:
                    at -= 1
                line.insert(at, job)
        return line

    def stands_for(self, new: Job) -> Job | None:
        """Rule 3, the other way round: content that was read later is in line already."""
        newer = [
            job
            for job in self.line(new.key)
            if job.begun > new.begun
            and job.state is not JobState.QUARANTINED
            and not self.has_more(new, job)
        ]
        return newer[-1] if newer else None

    def superseded_by(self, new: Job, now: float) -> list[Job]:
        """Rule 3."""
        line = [job for job in self.line(new.key) if job.state is not JobState.RUNNING]
        line = [job for job in line if job.begun <= new.begun and not self.has_more(job, new)]
        if not line:
            return []
        first = line[0]
        patient = first.state is JobState.PENDING and first.attempts == 0
        if (new.needs or 0) < (first.needs or 0) and self.waits_for_nobody(first):
            patient = False
        return line[1:] if patient and now - first.queued_at >= WITHIN_S else line

    @staticmethod
    def has_more(old: Job, new: Job) -> bool:
        if old.staged is None:
            return False
        if new.staged is None:
            return True
        if old.key.kind is Kind.NAMESPACE:
            return False
        assert old.size_bytes is not None
        assert new.size_bytes is not None
        return new.size_bytes < old.size_bytes

    def blocked(self, job: Job) -> bool:
        """Rule 2."""
        if job.needs is None:
            return False
        name, needs = job.key.namespace, job.needs
        data = [data_key(name, number) for number in range(needs + 1)]
        if any(self.line(key) for key in data) or self.is_short(job):
            return True
        if job.key.kind is not Kind.INDEX:
            return False
        if self.waits_for_newer(job):
            return True
        if self.has_to_look(job):
            return False
        return any(self.goes_first(older, job) for older in range(job.key.number))

    def goes_first(self, older: int, job: Job) -> bool:
        """Rule 2 for indexes that are new to the store: the older first, unless that waits for one."""
        key = index_key(job.key.namespace, older)
        if job.key.kind is not Kind.INDEX or job.key in self.remote or key in self.remote:
            return False
        line = self.line(key)
        return bool(line) and not self.waits_for_newer(line[0])

    def has_to_look(self, job: Job) -> bool:
        """Another one lacks data that nobody has announced, and this one may find it on disk."""
        assert job.needs is not None
        name = job.key.namespace
        return any(
            other.state is JobState.PENDING
            and other.key.namespace == name
            and other.needs is not None
            and self.checked.get(name, 0) <= other.needs < job.needs
            and self.line(other.key)[0] is other
            and other.id not in self.due
            and self.is_short(other)
            for other in self.open
        )

    def waits_for_newer(self, job: Job) -> bool:
        """Rule 2 for an index that was rewritten."""
        assert job.needs is not None
        newer = index_key(job.key.namespace, job.needs)
        if job.key.number == job.needs:
            return False
        return newer not in self.remote or any(each.turn < job.id for each in self.line(newer))

    def is_short(self, job: Job) -> bool:
        """It needs more of a data file than is remote, and nothing that was announced brings it."""
        name, needs = job.key.namespace, job.needs
        assert needs is not None
        if any(self.line(data_key(name, number)) for number in range(needs + 1)):
            return False
        key = data_key(name, needs)
        if key in self.sealed or self.given_up.get(key, -1) >= job.needs_bytes:
            return False
        return self.remote.get(key, 0) < job.needs_bytes

    def waits_for_nobody(self, job: Job) -> bool:
        """What holds it back is in no line."""
        if job.needs is None:
            return False
        name, needs = job.key.namespace, job.needs
        if any(self.line(data_key(name, number)) for number in range(needs + 1)):
            return False
        if self.is_short(job):
            return True
        newer = index_key(name, needs)
        return job.key.kind is Kind.INDEX and self.waits_for_newer(job) and not self.line(newer)

    def may_run(self, now: float) -> list[Job]:
        """Rules 1 and 2: everything that may run now."""
        return [
            job
            for job in self.open
            if job.state is JobState.PENDING
            and self.line(job.key)[0] is job
            and self.due.get(job.id, now) <= now
            and not self.blocked(job)
        ]


class SchedulerMachine(RuleBasedStateMachine):
    """Events in any order."""

    running = Bundle("running")
    quarantined = Bundle("quarantined")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(supersede_within_s=WITHIN_S)
        self.model = Model()
        self.now = 0.0
        self.slow = False
        self.added: dict[int, Job] = {}
        self.ended: set[int] = set()

    # -- what comes in -------------------------------------------------------------------------

    def _add(self, job: Job) -> None:
        newer = self.model.stands_for(job)
        assert self.scheduler.covered(job) is newer
        if newer is not None:
            assert newer.turn <= job.turn
            self.added[job.id] = job
            self.ended.add(job.id)
            return
        expected = self.model.superseded_by(job, self.now)
        for other in self.model.line(job.key):
            if other.state is JobState.RUNNING:
                self.model.ran[job.id] = other.id
        gone = self.scheduler.add(job, self.now)
        assert gone == expected
        self._leave(*gone)
        self.model.open.append(job)
        self.model.given_up.pop(job.key, None)
        self.added[job.id] = job
        if gone:
            assert job.turn <= min(old.turn for old in gone)

    def _new(self, key: FileKey, size: int, **fields: int) -> Job:
        number = len(self.added) + 1
        begun = 10 * number - (25 if self.slow and key.kind is not Kind.DATA else 0)
        staged = None if key.kind is Kind.DATA and size > 50 else f"run-{number}/{key.name}"
        return Job(
            key=key,
            id=number,
            turn=number,
            since=self.now,
            begun=begun,
            size_bytes=size,
            staged=staged,
            sealed=staged is None,
            needs=fields.get("needs"),
            needs_bytes=fields.get("needs_bytes", 0),
        )

    @rule()
    def next_ones_are_slow(self) -> None:
        """Their snapshots were begun before those of events that came before them; or not any more."""
        self.slow = not self.slow

    @rule(name=namespaces, number=numbers, size=lengths)
    def data(self, name: str, number: int, size: int) -> None:
        self._add(self._new(data_key(name, number), size))

    @rule(name=namespaces, number=numbers, further=numbers, size=lengths, length=lengths)
    def index(self, name: str, number: int, further: int, size: int, length: int) -> None:
        needs = min(NEWEST, number + further)
        self._add(self._new(index_key(name, number), size, needs=needs, needs_bytes=length))

    @rule(name=namespaces, size=lengths)
    def descriptor(self, name: str, size: int) -> None:
        self._add(self._new(namespace_key(name), size))

    @rule(name=namespaces, number=numbers, size=lengths)
    def found_remote(self, name: str, number: int, size: int) -> None:
        """The ledger at the start."""
        for key in (data_key(name, number), index_key(name, number)):
            if not self.model.line(key):
                self._prove(key, size)

    @rule(name=namespaces, deleted=st.booleans())
    def store_lost_it(self, name: str, deleted: bool) -> None:
        """Nothing is remote any more; what was given up is, until the namespace is deleted."""
        model = self.model
        if deleted:
            self.scheduler.retire(name)
            model.given_up = {k: n for k, n in model.given_up.items() if k.namespace != name}
        else:
            self.scheduler.forget(name)
        model.remote = {k: n for k, n in model.remote.items() if k.namespace != name}
        model.sealed = {key for key in model.sealed if key.namespace != name}
        model.checked.pop(name, None)

    def _prove(self, key: FileKey, size: int, *, sealed: bool = False) -> None:
        size = max(size, self.model.remote.get(key, 0))  # zdb's files only grow
        self.scheduler.remote(key, size, sealed=sealed)
        self.model.remote[key] = size
        if sealed:
            self.model.sealed.add(key)
        else:
            self.model.sealed.discard(key)

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # -- what goes out -------------------------------------------------------------------------

    @rule(target=running, count=st.integers(1, 4))
    def take(self, count: int) -> object:
        """As many workers as there may be."""
        taken = []
        for _ in range(count):
            expected = min(
                self.model.may_run(self.now), key=lambda job: (job.turn, job.id), default=None
            )
            job = self.scheduler.take(self.now)
            assert job is expected
            self.model.due = {k: due for k, due in self.model.due.items() if due > self.now}
            if job is None:
                break
            assert job.state is JobState.RUNNING
            taken.append(job)
        return multiple(*taken)

    # -- what became of it ---------------------------------------------------------------------

    def _leave(self, *jobs: Job) -> None:
        for job in jobs:
            assert job.id not in self.ended
            self.ended.add(job.id)
            self.model.open.remove(job)

    def _look(self, job: Job) -> bool:
        """As an attempt does before it puts an index: there was nothing on disk that nobody announced.
        False: it has to wait for another one now.
        """
        if job.key.kind is not Kind.INDEX:
            return True
        assert job.needs is not None
        self.scheduler.checked(job)
        name = job.key.namespace
        self.model.checked[name] = max(job.needs, self.model.checked.get(name, 0))
        if self.scheduler.waits_for(job) is None:
            return True
        job.state = JobState.PENDING
        self.scheduler.release(job)
        return False

    def _leaves_no_hole(self, job: Job) -> None:
        """All older indexes that are on their way are remote, but for those that wait for a newer one."""
        for number in range(job.key.number):
            older = index_key(job.key.namespace, number)
            line = self.model.line(older)
            if line and older not in self.model.remote and job.key not in self.model.remote:
                assert self.model.waits_for_newer(line[0])

    @rule(job=consumes(running))
    def settle(self, job: Job) -> None:
        if not self._look(job):
            return
        if job.key.kind is Kind.INDEX:
            self._leaves_no_hole(job)
        job.state = JobState.SETTLED
        self._leave(job)
        assert job.size_bytes is not None
        self._prove(job.key, job.size_bytes, sealed=job.sealed)
        older = [
            old
            for old in self.model.line(job.key)
            if old.begun < job.begun and not self.model.has_more(old, job)
        ]
        assert self.scheduler.outdated(job) == older
        self._leave(*older)
        self.scheduler.finished(job)

    @rule(job=consumes(running), wait_s=st.sampled_from([0.1, 5.0, 60.0]))
    def fail(self, job: Job, wait_s: float) -> None:
        job.attempts += 1
        newer = self.scheduler.retry_at(job, self.now + wait_s)
        self._given_way(job, newer)
        if newer is None:
            self.model.due[job.id] = self.now + wait_s

    @rule(job=consumes(running))
    def journal_away(self, job: Job) -> None:
        job.attempts += 1
        self.scheduler.again_at(job, self.now + 1.0)
        self.model.due[job.id] = self.now + 1.0

    @rule(target=quarantined, job=consumes(running))
    def refuse(self, job: Job) -> object:
        newer = self.scheduler.quarantine(job)
        self._given_way(job, newer)
        return multiple() if newer is not None else job

    def _given_way(self, job: Job, newer: Job | None) -> None:
        """Rule 3 for a job that failed. It does not give way to one that the store refused: both stay."""
        line = self.model.line(job.key)
        last = line[-1]
        if (
            last is job
            or last.state is JobState.QUARANTINED
            or any(Model.has_more(old, last) or old.begun > last.begun for old in line[:-1])
        ):
            assert newer is None
            return
        assert newer is last
        self._leave(*line[:-1])
        assert newer.turn == min(old.turn for old in line)

    @rule(job=consumes(quarantined))
    def release(self, job: Job) -> None:
        if job.id not in self.ended:
            self.scheduler.release(job)

    @rule(job=consumes(quarantined), size=st.one_of(lengths, st.just(NOWHERE)))
    def skip(self, job: Job, size: int) -> None:
        """Given up as long as it is on disk by then, unless a later job stands for it."""
        if job.id not in self.ended:
            self._leave(job)
            self.scheduler.finished(job)
            if not self.model.line(job.key):
                self.model.given_up[job.key] = size
                self.scheduler.give_up(job.key, size)

    @precondition(lambda self: self.model.due)
    @rule()
    def hurry(self) -> None:
        self.scheduler.hurry()
        self.model.due.clear()

    @precondition(lambda self: self.model.due)
    @rule(data=st.data())
    def release_one(self, data: st.DataObject) -> None:
        """An administrator's retry of one that backs off."""
        waiting = [job for job in self.model.open if job.id in self.model.due]
        if waiting:
            job = data.draw(st.sampled_from(waiting))
            self.scheduler.release(job)
            del self.model.due[job.id]

    # -- always --------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every job that was added is open or has ended, and is open once."""
        assert list(self.scheduler) == self.model.open
        assert {job.id for job in self.model.open} | self.ended == set(self.added)
        for job in self.model.open:
            assert self.scheduler.get(job.id) is job
            assert self.scheduler.covers(job.key)
            assert self.scheduler.of(job.key) == tuple(self.model.line(job.key))

    @invariant()
    def one_at_a_time(self) -> None:
        """No file is in two workers' hands."""
        running = [job.key for job in self.model.open if job.state is JobState.RUNNING]
        assert len(running) == len(set(running))

    @invariant()
    def says_what_blocks(self) -> None:
        """`waits_for` names something exactly where rule 2 holds back."""
        for job in self.model.open:
            assert (self.scheduler.waits_for(job) is not None) == self.model.blocked(job)

    @invariant()
    def nobody_waits_in_a_circle(self) -> None:
        """Whoever waits, waits in the end for one that runs, may run, backs off or needs a decision; or
        for what nobody has announced.
        """
        for job in self.model.open:
            seen = set[int]()
            while job.state is JobState.PENDING and job.id not in self.model.due:
                assert job.id not in seen
                seen.add(job.id)
                first = self.model.line(job.key)[0]
                if first is not job:
                    job = first
                    continue
                obstacle = self.scheduler.waits_for(job)
                if obstacle is None:
                    break
                line = self.model.line(obstacle)
                if not line:
                    break
                job = line[0]

    @invariant()
    def no_gap_that_can_be_helped(self) -> None:
        """An index that is new to the store does not begin while an older one goes before it, but to look
        for what that one lacks.
        """
        for job in self.model.open:
            if job.key.kind is Kind.INDEX and self.scheduler.waits_for(job) is None:
                name, number = job.key.namespace, job.key.number
                if job.key in self.model.remote or job.state is not JobState.PENDING:
                    continue
                for older in range(number):
                    line = self.model.line(index_key(name, older))
                    new = index_key(name, older) not in self.model.remote
                    if line and new and line[0].needs == older:
                        assert self.model.has_to_look(job)

    @invariant()
    def knows_when_it_is_stuck(self) -> None:
        """Stuck: nothing runs, backs off or may run."""
        alive = any(
            job.state is JobState.RUNNING or job.id in self.model.due for job in self.model.open
        )
        if not alive and not self.model.may_run(self.now):
            assert self.scheduler.take(self.now) is None
            assert self.scheduler.stuck()
        else:
            assert not self.scheduler.stuck()

    def teardown(self) -> None:
        """Once every store succeeds and what is missing is announced, nothing is left: no starvation."""
        for running in list(self.model.open):
            if running.state is JobState.RUNNING:
                self.settle(running)
        for _ in range(20 * (len(self.added) + 20)):
            self.now += 100.0
            job = self.scheduler.take(self.now)
            if job is not None:
                self.settle(job)
                continue
            if not self.model.open:
                return
            for waiting in list(self.model.open):
                if waiting.state is JobState.QUARANTINED:
                    self.scheduler.release(waiting)
                obstacle = self.scheduler.waits_for(waiting)
                if obstacle is not None and not self.model.line(obstacle):
                    self._prove(obstacle, 1000)
        assert self.model.open == []


SchedulerMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None
)
TestScheduler = SchedulerMachine.TestCase
