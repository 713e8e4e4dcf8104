"""Stage order: what must be in the store before a job may go; rule 2 of the scheduler. Pure.

In: what is remote, what is open, of one namespace; out: the file that holds a job back, the jobs that may
be looked at again. The invariants:

- a job that is held back is found again by whatever frees it: the lowest open data file moves, or the
  very file that it waits for is stored, leaves the line, or is held back itself;
- nobody waits in a circle: data files wait for nothing, whoever waits for a newer index is waited for by
  none, and so whoever waits for an older one comes to ever older ones, and to data.
"""

from __future__ import annotations

import heapq
import sys
from bisect import bisect_left
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from hookd.files import FileKey, Kind, data_key, index_key
from hookd.journal.records import Job

Lines = Mapping[FileKey, list[Job]]
"""The open jobs of each file, oldest first."""

NOWHERE = sys.maxsize
"""Length of a file that was given up where there is none: whatever points into it gets nothing."""


@dataclass(slots=True)
class Order:
    """What rule 2 knows of one namespace."""

    name: str
    open_data: dict[int, int] = field(default_factory=dict)
    """Data file number → open jobs for it."""
    lowest: list[int] = field(default_factory=list)
    """Heap over `open_data`'s keys; closed ones are dropped when they surface."""
    remote: dict[int, int] = field(default_factory=dict)
    """Data file number → proven remote length in bytes."""
    sealed: set[int] = field(default_factory=set)
    """Numbers of data files that are remote as long as they will ever be."""
    indexes: set[int] = field(default_factory=set)
    """Numbers of the index files that are remote in some version."""
    newest_index: int | None = None
    """The highest of them."""
    waiting: list[tuple[int, int, Job]] = field(default_factory=list)
    """Heap of (needs, id, job) that an open data file holds back."""
    short: dict[FileKey, list[Job]] = field(default_factory=dict)
    """File → jobs that wait for it: for a data file to be remote in full, for an index to be."""
    checked: int = 0
    """Every data file below this number was found to be remote as long as it is here."""
    indexes_up_to: int = 0
    """Every index file below this number is remote in some version."""
    given_up: dict[int, int] = field(default_factory=dict)
    """Data file number → its length when somebody decided not to store it, or NOWHERE."""
    given_up_indexes: set[int] = field(default_factory=set)
    """Numbers of index files that somebody decided not to store."""
    going: list[int] = field(default_factory=list)
    """Numbers of index files that are not remote in any version and go before newer ones, ascending."""
    lacking: list[int] = field(default_factory=list)
    """Numbers of data files that jobs wait for and nobody has announced, ascending."""
    furthest: int = 0
    """The highest `needs` of all that was ever held back by an index."""
    following: dict[int, set[int]] = field(default_factory=dict)
    """Index file number → those of older ones that wait for it."""

    # -- what is remote ------------------------------------------------------------------------

    def proven(self, key: FileKey, size_bytes: int, *, sealed: bool = False) -> None:
        """`key` is remote with this length; `sealed`: a data file that will never be longer."""
        if key.kind is Kind.DATA:
            self.remote[key.number] = size_bytes
            if sealed:
                self.sealed.add(key.number)
            else:
                self.sealed.discard(key.number)
        elif key.kind is Kind.INDEX:
            self.indexes.add(key.number)
            self.newest_index = max(self.newest_index or 0, key.number)
            _remove(self.going, key.number)

    def reconsider(self) -> None:
        """What was given up says nothing about files to come."""
        self.given_up.clear()
        self.given_up_indexes.clear()

    def forget(self) -> None:
        """Nothing is remote; what was given up stays so."""
        self.remote.clear()
        self.sealed.clear()
        self.indexes.clear()
        self.newest_index = None
        self.indexes_up_to = 0
        self.checked = 0

    def give_up(self, key: FileKey, size_bytes: int) -> None:
        """Somebody decided that the file is not stored as it is now."""
        if key.kind is Kind.DATA:
            self.given_up[key.number] = size_bytes
        elif key.kind is Kind.INDEX:
            self.given_up_indexes.add(key.number)

    def is_remote(self, key: FileKey) -> bool:
        """Whether a data or index file is remote in some version."""
        return key.number in (self.remote if key.kind is Kind.DATA else self.indexes)

    def not_remote(self, kind: Kind, numbers: Iterable[int]) -> list[int]:
        """Which of these data or index files are not remote in any version, nor given up."""
        known: Container[int] = self.remote
        given_up: Container[int] = self.given_up
        if kind is Kind.INDEX:
            known, given_up = self.indexes, self.given_up_indexes
        return [n for n in numbers if n not in known and n not in given_up]

    def unchecked(self, needs: int) -> list[tuple[FileKey, int]]:
        """(data file, length that is proven remote or was given up, or 0) of those before `needs` that
        nobody has compared, and of `needs` itself where it is remote as long as it will ever be.
        """
        remote, given_up = self.remote, self.given_up
        own = (needs,) if needs in self.sealed else ()
        return [
            (data_key(self.name, number), max(remote.get(number, 0), given_up.get(number, 0)))
            for number in (*range(self.checked, needs), *own)
        ]

    def indexes_before(self, number: int) -> list[FileKey]:
        """Index files below `number` that are not remote in any version, nor given up."""
        while self.indexes_up_to in self.indexes:
            self.indexes_up_to += 1
        return [
            FileKey(Kind.INDEX, self.name, each)
            for each in range(self.indexes_up_to, number)
            if each not in self.indexes and each not in self.given_up_indexes
        ]

    # -- who waits for what --------------------------------------------------------------------

    def obstacle(self, job: Job, lines: Lines) -> FileKey | None:
        """The file that holds a job back, or None: data first, then the newer index that it points to,
        then the newest of the older indexes.
        """
        if job.needs is None:
            return None
        if (found := self._data(job) or self._newer(job, lines)) is not None:
            return found
        return self._older(job) if job.key.kind is Kind.INDEX else None

    def _data(self, job: Job) -> FileKey | None:
        """The data file that is not remote as far as the job needs it."""
        assert job.needs is not None
        lowest = self._lowest_open()
        if lowest is not None and lowest <= job.needs:
            return data_key(self.name, lowest)
        if job.needs in self.sealed or job.needs_bytes <= self.given_up.get(job.needs, -1):
            return None  # what is missing there was lost (`Attempts` says so), or somebody decided
        if self.remote.get(job.needs, 0) < job.needs_bytes:
            return data_key(self.name, job.needs)
        return None

    def _newer(self, job: Job, lines: Lines) -> FileKey | None:
        """The index of its own jump, for one that zdb rewrote to point there."""
        if job.key.kind is not Kind.INDEX or job.needs is None or job.key.number >= job.needs:
            return None
        newest = index_key(self.name, job.needs)
        if job.needs not in self.indexes:
            return newest
        ahead = any(other.turn < job.id for other in lines.get(newest, ()))
        return newest if ahead else None

    def _older(self, job: Job) -> FileKey | None:
        """The newest of the indexes before it that go first: else the store would have a gap, and a
        restore be refused, for as long as they take. What is remote in some version makes none.

        What waits for a newer index does not go first. If that one is older than this job, that does, and
        once it is stored the other waits no more, and goes first in its turn.
        """
        number = job.key.number
        at = 0 if number in self.indexes else bisect_left(self.going, number)
        if not at or self._has_to_look(job):
            return None
        return index_key(self.name, self.going[at - 1])

    def _has_to_look(self, job: Job) -> bool:
        """Whether others lack data that nobody has announced, and this job would find that on disk, and
        announce it: before it is put (`unchecked`), and it is not put before the older ones either way.
        """
        assert job.needs is not None
        at = bisect_left(self.lacking, self.checked)
        while at < len(self.lacking) and (number := self.lacking[at]) < job.needs:
            if any(
                each.place == "short" for each in self.short.get(data_key(self.name, number), ())
            ):
                return True
            del self.lacking[at]  # whoever lacked it has left
        return False

    def weigh(self, number: int, lines: Lines) -> bool:
        """Whether an index goes before newer ones; to be asked whenever its first job is another one, or
        may wait for something else. True if it did so and does not any more.
        """
        line = lines.get(index_key(self.name, number))
        newer = self._newer(line[0], lines) if line else None
        if newer is not None:
            self.following.setdefault(newer.number, set()).add(number)
        if line and newer is None and number not in self.indexes:
            _insert(self.going, number)
            return False
        return _remove(self.going, number)

    def hold(self, job: Job, obstacle: FileKey) -> list[FileKey]:
        """Keep the job until the obstacle may be gone; index files of which those that wait for them may
        have to look for what it lacks.
        """
        assert job.needs is not None
        if obstacle.kind is Kind.DATA and obstacle.number in self.open_data:
            job.place = "waiting"
            heapq.heappush(self.waiting, (job.needs, job.id, job))
            return []
        job.place = "short"
        self.short.setdefault(obstacle, []).append(job)
        if obstacle.kind is Kind.INDEX:
            self.furthest = max(self.furthest, job.needs)
        elif _insert(self.lacking, obstacle.number) and obstacle.number < self.furthest:
            return [key for key in self.short if key.kind is Kind.INDEX]
        return []

    def waiting_for(self, key: FileKey, lines: Lines) -> list[Job]:
        """Those that waited for this very file, and are not held any more."""
        if key.kind is Kind.INDEX:
            for number in self.following.pop(key.number, ()):
                self.weigh(number, lines)
        elif key.kind is Kind.DATA:
            _remove(self.lacking, key.number)
        return [job for job in self.short.pop(key, ()) if job.place == "short"]

    def opened(self, key: FileKey) -> None:
        """A job for a file joins."""
        if key.kind is Kind.INDEX:
            self.given_up_indexes.discard(key.number)
        elif key.kind is Kind.DATA:
            self.given_up.pop(key.number, None)
            _remove(self.lacking, key.number)
            if key.number not in self.open_data:
                heapq.heappush(self.lowest, key.number)
            self.open_data[key.number] = self.open_data.get(key.number, 0) + 1

    def closed(self, key: FileKey) -> list[Job]:
        """A job for a data file has left; those that it does not hold back any more."""
        self.open_data[key.number] -= 1
        if self.open_data[key.number]:
            return []
        del self.open_data[key.number]
        lowest, free = self._lowest_open(), []
        while self.waiting and (lowest is None or self.waiting[0][0] < lowest):
            job = heapq.heappop(self.waiting)[-1]
            if job.place == "waiting":
                free.append(job)
        return free

    def _lowest_open(self) -> int | None:
        while self.lowest and self.lowest[0] not in self.open_data:
            heapq.heappop(self.lowest)
        return self.lowest[0] if self.lowest else None


def _insert(numbers: list[int], number: int) -> bool:
    """Into an ascending list, once; whether it was not there."""
    at = bisect_left(numbers, number)
    if at < len(numbers) and numbers[at] == number:
        return False
    numbers.insert(at, number)
    return True


def _remove(numbers: list[int], number: int) -> bool:
    """From an ascending list, if it is there; whether it was."""
    at = bisect_left(numbers, number)
    found = at < len(numbers) and numbers[at] == number
    if found:
        del numbers[at]
    return found
