"""Scheduler: the four rules of its docstring, one class each, and what holds under load."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hookd.files import FileKey, data_key, index_key, namespace_key
from hookd.journal.records import Job, JobState
from hookd.order import NOWHERE
from hookd.scheduler import SUPERSEDE_WITHIN_S, Scheduler


class Line:
    """A scheduler with a clock; ids ascend as the journal gives them."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.now = 1000.0
        self._id = 0

    def job(self, key: FileKey, **fields: Any) -> Job:
        """A job that was committed and is not in line yet."""
        self._id += 1
        values: dict[str, Any] = {"key": key, "id": self._id, "turn": self._id, "since": self.now}
        return Job(**values | fields)

    def add(self, key: FileKey, **fields: Any) -> Job:
        """A committed job joins."""
        job = self.job(key, **fields)
        self.gone = self.scheduler.add(job, self.now)
        return job

    def data(self, number: int, **fields: Any) -> Job:
        """A sealed data file of `ns` joins."""
        return self.add(data_key("ns", number), sealed=True, size_bytes=100, **fields)

    def index(self, number: int, **fields: Any) -> Job:
        """A snapshot of an index file of `ns` joins."""
        fields = {"staged": f"run-{self._id + 1}/i{number}", "size_bytes": 50} | fields
        return self.add(index_key("ns", number), **fields)

    def take(self) -> Job | None:
        """What is next now."""
        return self.scheduler.take(self.now)

    def take_all(self) -> list[Job]:
        """All that may run now, in order."""
        return list(iter(self.take, None))

    def settle(self, job: Job) -> None:
        """`job` was stored and proven."""
        job.state = JobState.SETTLED
        self.scheduler.remote(job.key, job.size_bytes or 0)
        self.scheduler.finished(job)

    def drain(self) -> Iterator[Job]:
        """Store one after the other until nothing more may run."""
        while (job := self.take()) is not None:
            self.settle(job)
            yield job


@pytest.fixture
def line() -> Line:
    return Line()


class TestOneAtATime:
    """Rule 1."""

    def test_behind(self, line: Line) -> None:
        """While a job of a file runs, a newer one waits behind it, and then runs."""
        first = line.index(0)
        assert line.take() is first
        second = line.index(0)
        assert line.gone == []
        assert line.take() is None
        assert second.place == "behind"
        line.settle(first)
        assert line.take() is second

    def test_other_files_are_not_behind(self, line: Line) -> None:
        """A running job holds up its own file only: not d3 for i3, not i3 of another namespace."""
        first = line.index(3)
        assert line.take() is first
        others = [line.data(3), line.add(index_key("other", 3)), line.add(namespace_key("ns"))]
        assert line.take_all() == others

    def test_in_the_order_of_acknowledgement(self, line: Line) -> None:
        """A file's contents reach the store in the order in which they were acknowledged."""
        line.index(0)
        running = line.take()
        assert running is not None
        line.index(0)
        newest = line.index(0)
        line.settle(running)
        assert [job.id for job in line.drain()] == [newest.id]


class TestDataFirst:
    """Rule 2."""

    def test_waits_for_its_data_file(self, line: Line) -> None:
        """An index that was announced before its data file goes after it."""
        index, data = line.index(0, needs=0), line.data(0)
        assert line.scheduler.waits_for(index) == data.key
        assert line.take_all() == [data]
        line.settle(data)
        assert line.take() is index

    def test_waits_for_every_earlier_one(self, line: Line) -> None:
        """Any open data file up to the needed one holds it back; later ones do not."""
        for number in range(6):
            line.scheduler.remote(data_key("ns", number), 100)
        jobs = {number: line.data(number) for number in (5, 1, 3)}
        index = line.index(3, needs=3)
        assert set(line.take_all()) == set(jobs.values())
        line.settle(jobs[3])
        line.settle(jobs[5])
        assert line.take() is None
        assert line.scheduler.waits_for(index) == data_key("ns", 1)
        line.settle(jobs[1])
        assert line.take() is index

    def test_of_its_own_namespace(self, line: Line) -> None:
        """Data files of other namespaces hold nothing back."""
        line.add(data_key("other", 0))
        line.scheduler.remote(data_key("ns", 0), 0)
        index = line.index(0, needs=0)
        line.take()
        assert line.take() is index

    def test_announced_after_it_was_ready(self, line: Line) -> None:
        """A data file that is announced while the index is in line still goes first."""
        index = line.index(1, needs=1)
        data = line.data(0)
        assert index.place == "ready"
        assert line.take() is data
        assert line.take() is None
        line.settle(data)
        assert line.take() is index

    def test_long_enough(self, line: Line) -> None:
        """dN that is remote shorter than at the snapshot does not do; nor one that nobody stored."""
        index = line.index(2, needs=2, needs_bytes=100)
        assert line.take() is None
        assert line.scheduler.waits_for(index) == data_key("ns", 2)
        line.scheduler.remote(data_key("ns", 2), 99)
        assert line.take() is None
        line.scheduler.remote(data_key("ns", 1), 1000)
        assert line.take() is None
        line.scheduler.remote(data_key("ns", 2), 100)
        assert line.take() is index

    def test_stored_again_while_it_waits(self, line: Line) -> None:
        """An index waits for dN as active, then as sealed, and runs once, after both."""
        active = line.add(data_key("ns", 0), staged="run-1/d0", size_bytes=10)
        index = line.index(0, needs=0, needs_bytes=30)
        assert line.take() is active
        line.settle(active)
        assert index.place == "short"
        sealed = line.data(0)
        assert line.take_all() == [sealed]
        line.settle(sealed)
        assert line.take_all() == [index]

    def test_quarantined_data(self, line: Line) -> None:
        """A quarantined data file holds back what points into it, and nothing else, until released."""
        data, index, other = line.data(0), line.index(0, needs=0), line.add(namespace_key("ns"))
        assert line.take() is data
        line.scheduler.quarantine(data)
        assert line.take_all() == [other]
        line.settle(other)
        assert line.scheduler.stuck()
        line.scheduler.release(data)
        assert line.take() is data
        line.settle(data)
        assert line.take() is index

    def test_skipped_data(self, line: Line) -> None:
        """A data file that is given up no longer counts as open, but is not remote either."""
        data, index = line.data(0), line.index(0, needs=0, needs_bytes=5)
        line.scheduler.finished(data)
        assert line.take() is None
        assert line.scheduler.waits_for(index) == data.key
        assert not line.scheduler.covers(data.key)

    def test_deleted_namespace(self, line: Line) -> None:
        """What is remote of a deleted namespace proves nothing for one of the same name."""
        line.scheduler.remote(data_key("ns", 0), 1000)
        line.scheduler.remote(index_key("ns", 0), 1000)
        line.scheduler.retire("ns")
        line.index(0, needs=0, needs_bytes=10)
        assert line.take() is None

    def test_needs_grown_while_frozen(self, line: Line) -> None:
        """A job frozen late may need more than before: it goes back into the line."""
        line.scheduler.remote(data_key("ns", 0), 100)
        index = line.index(0, needs=0, needs_bytes=10)
        assert line.take() is index
        index.needs_bytes = 200
        index.state = JobState.PENDING
        line.scheduler.release(index)
        assert line.take() is None
        line.scheduler.remote(data_key("ns", 0), 200)
        assert line.take() is index


class TestOldIndexesLast:
    """Rule 2, for index files that zdb rewrote to point into dN."""

    def test_after_the_new_index(self, line: Line) -> None:
        """dN, then iN, then the older ones, however many may run at once."""
        new, old, data = line.index(3, needs=3), line.index(0, needs=3), line.data(3)
        assert line.take_all() == [data]
        line.settle(data)
        assert line.take_all() == [new]
        assert line.scheduler.waits_for(old) == new.key
        line.settle(new)
        assert line.take_all() == [old]

    def test_the_new_one_fails_for_now(self, line: Line) -> None:
        """The older ones do not overtake an iN that waits out its backoff."""
        line.scheduler.remote(data_key("ns", 3), 100)
        new, old = line.index(3, needs=3), line.index(0, needs=3)
        assert line.take() is new
        new.attempts = 1
        line.scheduler.retry_at(new, line.now + 10)
        assert line.take() is None
        line.now += 10
        assert line.take_all() == [new]
        line.settle(new)
        assert line.take() is old

    def test_an_unknown_new_one(self, line: Line) -> None:
        """An iN that nobody announced yet and that is not remote is waited for."""
        line.scheduler.remote(data_key("ns", 3), 100)
        old = line.index(0, needs=3)
        assert line.scheduler.waits_for(old) == index_key("ns", 3)
        line.scheduler.remote(index_key("ns", 3), 50)
        assert line.take() is old

    def test_a_later_version_of_the_new_one(self, line: Line) -> None:
        """iN that is remote and only acknowledged anew afterwards holds nothing up."""
        line.scheduler.remote(data_key("ns", 3), 100)
        line.scheduler.remote(index_key("ns", 3), 50)
        old = line.index(0, needs=3)
        new = line.index(3, needs=3)
        assert line.take_all() == [old, new]

    def test_a_new_one_that_inherited_its_turn(self, line: Line) -> None:
        """A newer snapshot of iN stands for the earlier one, so it is waited for like that."""
        line.scheduler.remote(data_key("ns", 3), 100)
        line.scheduler.remote(index_key("ns", 3), 10)
        line.index(3, needs=3)
        old = line.index(0, needs=3)
        newer = line.index(3, needs=3)
        assert line.take_all() == [newer]
        line.settle(newer)
        assert line.take() is old

    def test_all_of_a_long_list(self, line: Line) -> None:
        """Ten thousand rewritten files follow their jump in order, in a second or so."""
        line.index(10_000, needs=10_000)
        old = [line.index(number, needs=10_000) for number in range(10_000)]
        data = line.data(10_000)
        started = time.monotonic()
        done = list(line.drain())
        assert time.monotonic() - started < 5
        assert done[0] is data
        assert [job.key.number for job in done[1:]] == [10_000, *range(10_000)]
        assert done[2:] == old


class TestNoGap:
    """Rule 2, for index files that are new to the store: none without its predecessors."""

    def test_ascending(self, line: Line) -> None:
        """They go one after the other, whatever the order of their events."""
        for number in range(4):
            line.scheduler.remote(data_key("ns", number), 100)
        jobs = [line.index(number, needs=number) for number in (2, 0, 3, 1)]
        done = list(line.drain())
        assert [job.key.number for job in done] == [0, 1, 2, 3]
        assert set(done) == set(jobs)

    def test_one_that_fails_for_now(self, line: Line) -> None:
        """A predecessor that backs off, or runs, is waited for; the next one goes once it is stored."""
        for number in range(2):
            line.scheduler.remote(data_key("ns", number), 100)
        old, new = line.index(0, needs=0), line.index(1, needs=1)
        assert line.take_all() == [old]
        assert line.scheduler.waits_for(new) == old.key
        old.attempts = 1
        line.scheduler.retry_at(old, line.now + 10)
        assert line.take() is None
        assert not line.scheduler.stuck()
        line.now += 10
        assert line.take_all() == [old]
        line.settle(old)
        assert line.take_all() == [new]

    def test_quarantined(self, line: Line) -> None:
        """One that needs a decision holds the newer ones back, and says so; a skip lets them go."""
        for number in range(3):
            line.scheduler.remote(data_key("ns", number), 100)
        bad, next_one, newest = (line.index(number, needs=number) for number in range(3))
        assert line.take_all() == [bad]
        line.scheduler.quarantine(bad)
        assert line.scheduler.stuck()
        assert line.scheduler.waits_for(next_one) == bad.key
        assert line.scheduler.waits_for(newest) == next_one.key
        line.scheduler.give_up(bad.key, NOWHERE)
        line.scheduler.finished(bad)
        assert line.scheduler.indexes_before(next_one) == []
        assert list(line.drain()) == [next_one, newest]

    def test_an_event_that_comes_late(self, line: Line) -> None:
        """One that is ready goes after a predecessor that joins before it has begun."""
        for number in range(2):
            line.scheduler.remote(data_key("ns", number), 100)
        new = line.index(1, needs=1)
        assert new.place == "ready"
        old = line.index(0, needs=0)
        assert list(line.drain()) == [old, new]

    def test_there_already(self, line: Line) -> None:
        """A new version of one that is stored makes no gap, and waits for nobody."""
        for number in range(2):
            line.scheduler.remote(data_key("ns", number), 100)
        line.scheduler.remote(index_key("ns", 1), 50)
        line.index(0, needs=0)
        assert len([line.index(1, needs=1), *line.take_all()]) == 3

    def test_rewritten_before_it_was_stored(self, line: Line) -> None:
        """An older one that waits for the newer one is not waited for; one that points to an index in
        between goes after that, and before the newer one.
        """
        for number in range(3):
            line.scheduler.remote(data_key("ns", number), 100)
        new, between = line.index(2, needs=2), line.index(1, needs=1)
        first, last = line.index(0, needs=1), line.index(0, needs=2, size_bytes=60)
        assert first.place == ""
        assert list(line.drain()) == [between, new, last]
        line.scheduler.retire("ns")
        for number in range(3):
            line.scheduler.remote(data_key("ns", number), 100)
        new, between = line.index(2, needs=2), line.index(1, needs=1)
        last = line.index(0, needs=1)
        assert list(line.drain()) == [between, last, new]

    def test_rewritten_while_the_newer_one_waits(self, line: Line) -> None:
        """The older one turns to the newer one, which waits for it: that goes."""
        for number in range(2):
            line.scheduler.remote(data_key("ns", number), 100)
        old, new = line.index(0, needs=0), line.index(1, needs=1)
        assert line.take() is old
        assert line.take() is None
        line.scheduler.again_at(old, line.now)
        newer = line.index(0, needs=1, size_bytes=60)
        assert old.place == ""
        assert list(line.drain()) == [new, newer]

    def test_short_of_data_that_nobody_announced(self, line: Line) -> None:
        """It is not waited for: who stores the newer one sees that data on disk, and announces it."""
        line.scheduler.remote(data_key("ns", 1), 100)
        old, new = line.index(0, needs=0, needs_bytes=100), line.index(1, needs=1)
        assert line.take() is new
        line.scheduler.release(line.index(2, needs=1, staged=None))
        data = line.data(0)
        line.scheduler.again_at(new, line.now)
        assert line.take_all() == [data]
        line.settle(data)
        assert line.take_all() == [old]

    def test_short_of_data_that_is_nowhere(self, line: Line) -> None:
        """Once that was looked for, the newer ones wait: else the store would have a gap for good."""
        line.scheduler.remote(data_key("ns", 1), 100)
        old, new = line.index(0, needs=0, needs_bytes=100), line.index(1, needs=1)
        assert line.take() is new
        line.scheduler.checked(new)
        assert line.scheduler.waits_for(new) == old.key
        line.scheduler.again_at(new, line.now)
        assert line.take() is None
        assert line.scheduler.stuck()
        line.scheduler.remote(data_key("ns", 0), 100)
        assert list(line.drain()) == [old, new]

    def test_short_of_data_further_on(self, line: Line) -> None:
        """Whoever does not get to see it waits, and lets pass whoever does."""
        for number in (1, 3, 4):
            line.scheduler.remote(data_key("ns", number), 100)
        line.scheduler.remote(index_key("ns", 3), 50)
        middle, last = line.index(1, needs=1), line.index(4, needs=4)
        old = line.index(0, needs=3, needs_bytes=120)
        assert line.take() is last
        assert line.take() is None
        assert line.scheduler.waits_for(middle) == old.key
        line.scheduler.checked(last)
        assert line.scheduler.waits_for(last) == middle.key

    def test_short_of_data_that_has_left(self, line: Line) -> None:
        """Its job was given up by a deletion: it is looked for anew."""
        line.scheduler.remote(data_key("ns", 1), 100)
        old, data = line.index(0, needs=0, needs_bytes=100), line.data(0)
        new = line.index(1, needs=1)
        assert line.take() is data
        line.scheduler.finished(data)
        assert line.take() is new
        assert line.scheduler.waits_for(old) == data.key

    def test_lost_values(self, line: Line) -> None:
        """A sealed data file that is remote is all that there will be of it."""
        old, new = line.index(0, needs=0, needs_bytes=120), line.index(1, needs=1)
        data = line.data(0)
        assert line.take() is data
        data.state = JobState.SETTLED
        line.scheduler.remote(data.key, 100, sealed=True)
        line.scheduler.finished(data)
        assert list(line.drain()) == [old, new]

    def test_data_given_up(self, line: Line) -> None:
        """A data file that somebody gave up holds nobody back, its own index neither."""
        bad = line.data(0)
        old, new = line.index(0, needs=0, needs_bytes=120), line.index(1, needs=1)
        assert line.take() is bad
        line.scheduler.quarantine(bad)
        assert line.take() is None
        line.scheduler.give_up(bad.key, NOWHERE)
        line.scheduler.finished(bad)
        assert list(line.drain()) == [old, new]

    def test_given_up_that_is_in_no_line(self, line: Line) -> None:
        """Nor those that wait for one that was never announced."""
        old = line.index(0, needs=0, needs_bytes=120)
        assert line.take() is None
        line.scheduler.give_up(data_key("ns", 0), NOWHERE)
        assert line.take() is old

    def test_given_up_and_longer_by_now(self, line: Line) -> None:
        """What was given up has so many bytes: who needs more waits for the rest, which is on its way."""
        line.scheduler.remote(data_key("ns", 0), 50)
        line.scheduler.give_up(data_key("ns", 0), 100)
        old = line.index(0, needs=0, needs_bytes=100)
        new = line.index(0, needs=0, needs_bytes=900)
        assert line.scheduler.waits_for(old) is None
        assert line.take() is None
        assert line.scheduler.waits_for_nobody(new) == data_key("ns", 0)
        line.scheduler.remote(data_key("ns", 0), 900)
        assert line.take() is new

    def test_other_namespaces(self, line: Line) -> None:
        """They have nothing to do with it."""
        line.scheduler.remote(data_key("other", 1), 100)
        line.data(0)
        line.index(0, needs=0)
        other = line.add(index_key("other", 1), needs=1, size_bytes=50, staged="run-9/i1")
        assert other.place == "ready"

    def test_what_it_needs_is_measured_anew(self, line: Line) -> None:
        """It goes as soon as nothing of that holds it back."""
        for number in range(2):
            line.scheduler.remote(data_key("ns", number), 100)
        line.scheduler.remote(index_key("ns", 1), 50)
        old = line.index(0, needs=4)
        assert line.scheduler.waits_for_nobody(old) == index_key("ns", 4)
        line.scheduler.needs_other(old, 1, 100)
        assert line.take() is old


class TestUnchecked:
    """Data files before the needed one that nobody announced: whoever sees the disk compares them."""

    def numbers(self, line: Line, job: Job) -> dict[int, int]:
        """Number → proven length."""
        return {key.number: length for key, length in line.scheduler.unchecked(job)}

    def test_all_before_the_needed_one(self, line: Line) -> None:
        """Those before it, with what is proven remote of them; not the needed one (rule 2)."""
        line.scheduler.remote(data_key("ns", 1), 100)
        line.scheduler.remote(data_key("other", 0), 100)
        assert self.numbers(line, line.index(3, needs=3)) == {0: 0, 1: 100, 2: 0}
        assert self.numbers(line, line.index(0, needs=0)) == {}
        assert self.numbers(line, line.add(namespace_key("ns"))) == {}

    def test_the_needed_one(self, line: Line) -> None:
        """A sealed one is believed to be whole, so it must be as long here; each time."""
        line.scheduler.remote(data_key("ns", 1), 100, sealed=True)
        job = line.index(1, needs=1)
        line.scheduler.checked(job)
        assert self.numbers(line, job) == {1: 100}
        line.scheduler.give_up(data_key("ns", 1), 900)
        assert self.numbers(line, job) == {1: 900}

    def test_once(self, line: Line) -> None:
        """What was found in order is not looked at again, also by an index that needs less."""
        line.scheduler.checked(line.index(3, needs=3))
        assert self.numbers(line, line.index(4, needs=5)) == {3: 0, 4: 0}
        line.scheduler.checked(line.index(1, needs=1))
        assert self.numbers(line, line.index(4, needs=5)) == {3: 0, 4: 0}

    def test_given_up(self, line: Line) -> None:
        """A file that somebody decided not to store is not asked for, until it is owed again."""
        line.scheduler.give_up(data_key("ns", 0), NOWHERE)
        line.scheduler.give_up(index_key("ns", 1), NOWHERE)
        assert self.numbers(line, line.index(2, needs=2)) == {0: NOWHERE, 1: 0}
        line.scheduler.finished(line.data(0))
        assert self.numbers(line, line.index(2, needs=2)) == {0: 0, 1: 0}

    def test_given_up_at_a_length(self, line: Line) -> None:
        """What is longer by now than what was given up is asked for."""
        line.scheduler.remote(data_key("ns", 0), 50)
        line.scheduler.give_up(data_key("ns", 0), 100)
        assert self.numbers(line, line.index(1, needs=1)) == {0: 100}

    def test_deleted_namespace(self, line: Line) -> None:
        """The next namespace of that name is looked at anew."""
        line.scheduler.checked(line.index(3, needs=3))
        line.scheduler.give_up(data_key("ns", 1), NOWHERE)
        line.scheduler.retire("ns")
        assert self.numbers(line, line.index(2, needs=2)) == {0: 0, 1: 0}

    def test_the_store_has_lost_it(self, line: Line) -> None:
        """Nothing is remote then; what somebody gave up is not asked for all the same."""
        line.scheduler.remote(data_key("ns", 0), 100, sealed=True)
        line.scheduler.remote(index_key("ns", 0), 100)
        line.scheduler.give_up(data_key("ns", 1), NOWHERE)
        line.scheduler.forget("ns")
        assert self.numbers(line, line.index(2, needs=2)) == {0: 0, 1: NOWHERE}
        assert not line.scheduler.is_remote(index_key("ns", 0))
        assert not line.scheduler.is_sealed(data_key("ns", 0))
        own = line.index(1, needs=1, needs_bytes=900)
        assert line.scheduler.waits_for(own) is None


class TestNewestWins:
    """Rule 3."""

    def test_waits_for_nobody(self, line: Line) -> None:
        """What waits for a number that may never come keeps no turn: the newer one goes in its place."""
        for number in range(2):
            line.scheduler.remote(data_key("ns", number), 100)
        line.scheduler.remote(index_key("ns", 1), 50)
        old = line.index(0, needs=4)
        line.now += SUPERSEDE_WITHIN_S + 1
        new = line.index(0, needs=1, size_bytes=60)
        assert line.gone == [old]
        assert line.take() is new

    def test_takes_the_place(self, line: Line) -> None:
        """A newer snapshot takes the turn and the age of the older one, which is handed back."""
        old = line.index(0, since=5.0)
        between = line.index(1)
        new = line.index(0, since=9.0)
        assert line.gone == [old]
        assert (new.turn, new.since) == (old.turn, 5.0)
        assert line.scheduler.of(old.key) == (new,)
        assert line.scheduler.get(old.id) is None
        assert line.take_all() == [new, between]

    def test_keeps_one_that_has_waited(self, line: Line) -> None:
        """One that waited and never failed keeps its turn; what comes later replaces the rest."""
        kept = line.index(0)
        line.now += SUPERSEDE_WITHIN_S
        second = line.index(0)
        assert line.gone == []
        third = line.index(0)
        assert line.gone == [second]
        line.now += 1000
        fourth = line.index(0)
        assert line.gone == [third]
        assert list(line.drain()) == [kept, fourth]

    def test_age_is_inherited(self, line: Line) -> None:
        """The wait counts from the oldest content that a job stands for, not from its own."""
        line.index(0)
        for _ in range(9):
            line.now += SUPERSEDE_WITHIN_S / 10
            newest = line.index(0)
        line.now += SUPERSEDE_WITHIN_S / 10
        line.index(0)
        assert line.gone == []
        assert line.take() is newest

    def test_one_that_failed_is_replaced(self, line: Line) -> None:
        """One that has waited because it failed has no claim."""
        failed = line.index(0, attempts=1)
        line.now += 1000
        new = line.index(0)
        assert line.gone == [failed]
        assert line.take_all() == [new]

    def test_quarantined_is_replaced(self, line: Line) -> None:
        """A newer snapshot is a new chance for a quarantined file."""
        bad = line.index(0)
        line.take()
        line.scheduler.quarantine(bad)
        new = line.index(0)
        assert line.gone == [bad]
        assert line.take() is new

    def test_running_is_not(self, line: Line) -> None:
        """What a worker has is never taken from it."""
        line.index(0)
        running = line.take()
        line.index(0)
        assert line.gone == []
        assert running in list(line.scheduler)

    def test_no_starvation(self, line: Line) -> None:
        """A file rewritten every 5 s, with a store that its data reaches only every 40 s, is stored."""
        stored = []
        line.scheduler.remote(data_key("ns", 0), 0)
        for step in range(200):
            line.now += 5
            line.index(0, needs=0, needs_bytes=step)
            if step % 8 == 0:
                line.scheduler.remote(data_key("ns", 0), step - 8)
            stored += list(line.drain())
        assert len(stored) >= 20
        assert [job.id for job in stored] == sorted(job.id for job in stored)

    def test_fails_with_a_newer_one_behind(self, line: Line) -> None:
        """A job that fails gives way to the newer one, which gets its turn."""
        first = line.index(0)
        assert line.take() is first
        line.index(1)
        newer = line.index(0)
        first.attempts = 1
        assert line.scheduler.retry_at(first, line.now + 10) is newer
        assert first not in line.scheduler
        assert newer.turn == first.turn
        assert line.take() is newer

    def test_quarantined_with_a_newer_one_behind(self, line: Line) -> None:
        """As above when it failed for good: nothing is quarantined that has a successor."""
        first = line.index(0)
        line.take()
        newer = line.index(0)
        assert line.scheduler.quarantine(first) is newer
        assert line.take() is newer

    def test_journal_away(self, line: Line) -> None:
        """When the journal cannot be told, the job runs again and the newer one stays behind it."""
        first = line.index(0, attempts=3)
        line.take()
        newer = line.index(0)
        line.scheduler.again_at(first, line.now + 1)
        assert line.take() is None
        line.now += 1
        assert line.take() is first
        line.settle(first)
        assert line.take() is newer

    @pytest.mark.parametrize(
        ("key", "size", "replaced"),
        [
            (index_key("ns", 0), 50, True),
            (index_key("ns", 0), 51, True),
            (index_key("ns", 0), 49, False),
            (data_key("ns", 0), 28, False),
            (namespace_key("ns"), 10, True),
        ],
    )
    def test_a_shorter_file(self, line: Line, key: FileKey, size: int, replaced: bool) -> None:
        """A snapshot is not given up for a shorter file: it may be the only copy there is."""
        old = line.add(key, staged="run-1/x", size_bytes=50)
        line.add(key, staged="run-2/x", size_bytes=size)
        assert (line.gone == [old]) is replaced

    def test_a_file_that_is_gone(self, line: Line) -> None:
        """Nor for a job that only found the file absent."""
        line.index(0)
        line.index(0, staged=None, size_bytes=None, freeze=True)
        assert line.gone == []

    def test_a_file_without_a_snapshot(self, line: Line) -> None:
        """Nor for a job that has no snapshot yet, however long the file is: the disk may lose it."""
        old = line.index(0, size_bytes=50)
        later = line.index(0, staged=None, size_bytes=90, freeze=True)
        assert line.gone == []
        assert list(line.drain()) == [old, later]

    def test_a_failing_one_without_a_newer_snapshot(self, line: Line) -> None:
        """Nor when it fails: the one behind it has nothing to offer yet."""
        old = line.index(0)
        assert line.take() is old
        line.index(0, staged=None, freeze=True)
        old.attempts = 1
        assert line.scheduler.retry_at(old, line.now + 1) is None
        assert line.scheduler.quarantine(old) is None

    def test_one_that_was_read_earlier(self, line: Line) -> None:
        """Acknowledged last, read first: the one in line stands for it, with its turn."""
        between = line.job(index_key("ns", 0), staged="run-1/i0", size_bytes=50, begun=7)
        newer = line.index(0, begun=8)
        assert line.scheduler.covered(between) is newer
        assert line.scheduler.covered(line.job(between.key, staged="run-9/i0", begun=9)) is None
        assert line.scheduler.covered(line.job(index_key("ns", 1), begun=1)) is None
        assert newer.turn == between.turn
        assert line.take_all() == [newer]

    def test_a_longer_one_that_was_read_earlier(self, line: Line) -> None:
        """It goes before: nothing in line has all that it has."""
        newer = line.index(0, begun=8, size_bytes=50)
        longer = line.job(newer.key, staged="run-1/i0", size_bytes=60, begun=7)
        assert line.scheduler.covered(longer) is None
        assert line.scheduler.add(longer, line.now) == []
        assert line.scheduler.of(newer.key) == (longer, newer)
        assert newer.place == "behind"
        assert list(line.drain()) == [longer, newer]

    def test_older_ones_of_a_stored_file(self, line: Line) -> None:
        """What was read before the content that is stored now leaves with it."""
        late = line.index(0, staged=None, size_bytes=None, freeze=True, begun=1)
        assert line.take() is late
        behind = line.index(0, begun=2)
        late.staged, late.size_bytes, late.begun = "run-3/i0", 50, 3  # frozen by its worker
        newer = line.job(late.key, staged="run-4/i0", size_bytes=50, begun=4)
        assert line.scheduler.add(newer, line.now) == [behind]
        last = line.job(late.key, staged="run-2/i0", size_bytes=50, begun=2)
        line.scheduler.add(last, line.now)
        assert line.scheduler.outdated(late) == [last]
        line.settle(late)
        assert line.take() is newer

    def test_shorter_ones_behind_a_failing_one(self, line: Line) -> None:
        """A longer snapshot that fails does not give way to a shorter one behind it."""
        long = line.index(0, size_bytes=50)
        assert line.take() is long
        short = line.index(0, size_bytes=29)
        long.attempts = 1
        assert line.scheduler.retry_at(long, line.now + 1) is None
        line.now += 1
        assert line.take() is long
        assert line.scheduler.quarantine(long) is None
        assert line.take() is None
        assert short.place == "behind"


class TestOldestFirst:
    """Rule 4."""

    def test_by_turn(self, line: Line) -> None:
        """Whatever the files, those acknowledged first go first."""
        jobs = [line.data(9), line.add(namespace_key("a")), line.index(3), line.data(1)]
        assert line.take_all() == jobs

    def test_backoff_holds_nobody_up(self, line: Line) -> None:
        """A failed job stands aside until it is due, then it is first again by its turn."""
        failed, other, third = line.data(0), line.data(1), line.data(2)
        assert line.take() is failed
        failed.attempts = 1
        assert line.scheduler.retry_at(failed, line.now + 10) is None
        assert line.scheduler.next_due() == line.now + 10
        assert line.take() is other
        line.now += 9.9
        line.now += 0.2
        assert line.take_all() == [failed, third]
        assert line.scheduler.next_due() is None

    def test_not_before_it_is_due(self, line: Line) -> None:
        """Not an instant too early."""
        job = line.data(0, attempts=1)
        line.take()
        line.scheduler.retry_at(job, line.now + 1)
        line.now += 0.999
        assert line.take() is None
        line.now += 0.001
        assert line.take() is job

    def test_hurry(self, line: Line) -> None:
        """Every backoff ends at once, in the order of turns."""
        jobs = [line.data(number, attempts=1) for number in range(3)]
        for job, wait in zip(line.take_all(), (30, 10, 20), strict=True):
            line.scheduler.retry_at(job, line.now + wait)
        assert line.take() is None
        line.scheduler.hurry()
        assert line.take_all() == jobs
        assert line.scheduler.next_due() is None

    def test_release(self, line: Line) -> None:
        """One job's backoff ends at once; released twice it still runs once."""
        job = line.data(0, attempts=1)
        line.take()
        line.scheduler.retry_at(job, line.now + 100)
        line.scheduler.release(job)
        line.scheduler.release(job)
        assert line.take_all() == [job]
        line.scheduler.release(job)
        assert job.state is JobState.RUNNING
        assert line.take() is None

    def test_released_and_failed_again(self, line: Line) -> None:
        """The end of an earlier backoff does not cut a later one short."""
        job, other = line.data(0, attempts=1), line.data(1, attempts=1)
        line.take_all()
        line.scheduler.retry_at(other, line.now + 5)
        line.scheduler.retry_at(job, line.now + 10)
        line.scheduler.release(job)
        assert line.take() is job
        line.scheduler.retry_at(job, line.now + 100)
        line.now += 50
        assert line.take_all() == [other]
        line.now += 50
        assert line.take() is job

    def test_finished_while_it_waits_aside(self, line: Line) -> None:
        """A job given up during its backoff is neither due nor run."""
        job = line.data(0, attempts=1)
        line.take()
        line.scheduler.retry_at(job, line.now + 1)
        line.scheduler.finished(job)
        assert line.scheduler.next_due() is None
        line.now += 2
        assert line.take() is None


class TestStuck:
    def test_empty(self, line: Line) -> None:
        """Nothing to do is not to be stuck on something; the caller looks at the length."""
        assert line.scheduler.stuck()
        assert len(line.scheduler) == 0

    def test_while_something_may_happen(self, line: Line) -> None:
        """Ready, running and backing off are not stuck."""
        job = line.data(0)
        assert not line.scheduler.stuck()
        line.take()
        assert not line.scheduler.stuck()
        job.attempts = 1
        line.scheduler.retry_at(job, line.now + 100)
        assert not line.scheduler.stuck()

    def test_when_nothing_will(self, line: Line) -> None:
        """Quarantined jobs, and what waits for them or for an unknown data file, are."""
        data = line.data(0)
        line.take()
        line.scheduler.quarantine(data)
        line.index(0, needs=0)
        line.index(7, needs=7, needs_bytes=1)
        assert line.scheduler.stuck()
        assert len(line.scheduler) == 3


class TestLoaded:
    """What a start does: open jobs of the journal, in the order of their ids."""

    def test_two_of_a_file(self, line: Line) -> None:
        """After a crash between two commits of a supersede both are open: the newer one stands."""
        old, new = line.index(0), line.index(0)
        assert line.gone == [old]
        assert line.take_all() == [new]

    def test_turn_survives(self, line: Line) -> None:
        """A turn inherited before the restart counts after it."""
        first = line.job(index_key("ns", 1))
        inherited = line.job(index_key("ns", 0), turn=1)
        first.turn = 2
        for job in (first, inherited):
            line.scheduler.add(job, line.now)
        assert line.take_all() == [inherited, first]

    def test_quarantined_stays(self, line: Line) -> None:
        """A quarantined row is in line, visible, and does not run."""
        job = line.data(0, state=JobState.QUARANTINED)
        assert list(line.scheduler) == [job]
        assert line.take() is None
        assert line.scheduler.stuck()

    def test_the_new_index_after_the_old_one(self, line: Line) -> None:
        """An older index with the lower id waits for an iN that is loaded after it."""
        line.scheduler.remote(data_key("ns", 3), 100)
        line.scheduler.remote(index_key("ns", 3), 10)
        old, new = line.job(index_key("ns", 0), needs=3), line.job(index_key("ns", 3), needs=3)
        new.turn = 0
        line.scheduler.add(old, line.now)
        assert old.place == "ready"
        line.scheduler.add(new, line.now)
        assert line.take_all() == [new]
        line.settle(new)
        assert line.take_all() == [old]


def test_thousands(line: Line) -> None:
    """Twenty thousand files in random order: each stored once, data before what points at it."""
    rng = random.Random(7)
    numbers = list(range(5000))
    announced = [("data", n) for n in numbers] + [("index", n) for n in numbers]
    announced += [("old", n) for n in numbers[:-1]] * 2
    rng.shuffle(announced)
    for kind, number in announced:
        if kind == "data":
            line.data(number)
        else:
            needs = number if kind == "index" else rng.randrange(number, 5000)
            line.index(number, needs=needs, needs_bytes=100)
    started = time.monotonic()
    stored: set[FileKey] = set()
    order: list[Job] = []
    while batch := line.take_all():
        rng.shuffle(batch)
        for job in batch:
            if job.needs is not None:
                assert data_key("ns", job.needs) in stored
            line.settle(job)
            stored.add(job.key)
            order.append(job)
    assert len(line.scheduler) == 0
    assert len(order) == len(stored) == 10_000
    assert time.monotonic() - started < 10
