"""Stage order: what must be in the store before a job may go; rule 2 of the scheduler. Pure.

In: what is remote, what is open, of one namespace; out: the file that holds a job back, the jobs that may
be looked at again. The invariant: a job that is held back is found again by whatever frees it: the lowest
open data file moves, or the very file that it waits for was stored or has left the line.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hookd.files import FileKey, Kind
from hookd.journal.records import Job

Lines = Mapping[FileKey, list[Job]]
"""The open jobs of each file, oldest first."""


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
    given_up: set[int] = field(default_factory=set)
    """Numbers of data files that somebody decided not to store."""

    # -- what is remote ------------------------------------------------------------------------

    def proven(self, key: FileKey, size_bytes: int) -> None:
        """`key` is remote with this length."""
        if key.kind is Kind.DATA:
            self.remote[key.number] = size_bytes
        elif key.kind is Kind.INDEX:
            self.indexes.add(key.number)
            self.newest_index = max(self.newest_index or 0, key.number)

    def retire(self) -> None:
        """What is remote says nothing about files to come."""
        self.remote.clear()
        self.indexes.clear()
        self.newest_index = None
        self.indexes_up_to = 0
        self.checked = 0
        self.given_up.clear()

    def is_remote(self, key: FileKey) -> bool:
        """Whether a data or index file is remote in some version."""
        return key.number in (self.remote if key.kind is Kind.DATA else self.indexes)

    def not_remote(self, kind: Kind, numbers: Iterable[int]) -> list[int]:
        """Which of these data or index files are not remote in any version, nor given up."""
        if kind is Kind.INDEX:
            return [number for number in numbers if number not in self.indexes]
        known, given_up = self.remote, self.given_up
        return [n for n in numbers if n not in known and n not in given_up]

    def unchecked(self, needs: int) -> list[tuple[FileKey, int]]:
        """(data file, proven remote length or 0) of those before `needs` that nobody has compared."""
        return [
            (FileKey(Kind.DATA, self.name, number), self.remote.get(number, 0))
            for number in range(self.checked, needs)
            if number not in self.given_up
        ]

    def indexes_before(self, number: int) -> list[FileKey]:
        """Index files below `number` that are not remote in any version."""
        while self.indexes_up_to in self.indexes:
            self.indexes_up_to += 1
        return [
            FileKey(Kind.INDEX, self.name, each)
            for each in range(self.indexes_up_to, number)
            if each not in self.indexes
        ]

    # -- who waits for what --------------------------------------------------------------------

    def obstacle(self, job: Job, lines: Lines) -> FileKey | None:
        """The data file, or the newer index, that holds a job back, or None."""
        if job.needs is None:
            return None
        lowest = self._lowest_open()
        if lowest is not None and lowest <= job.needs:
            return FileKey(Kind.DATA, self.name, lowest)
        if self.remote.get(job.needs, 0) < job.needs_bytes:
            return FileKey(Kind.DATA, self.name, job.needs)
        if job.key.kind is Kind.INDEX and job.key.number < job.needs:
            newest = FileKey(Kind.INDEX, self.name, job.needs)
            if job.needs not in self.indexes:
                return newest
            if any(other.turn < job.id for other in lines.get(newest, ())):
                return newest
        return None

    def hold(self, job: Job, obstacle: FileKey) -> None:
        """Keep the job until the obstacle may be gone."""
        assert job.needs is not None
        if obstacle.kind is Kind.DATA and obstacle.number in self.open_data:
            job.place = "waiting"
            heapq.heappush(self.waiting, (job.needs, job.id, job))
        else:
            job.place = "short"
            self.short.setdefault(obstacle, []).append(job)

    def waiting_for(self, key: FileKey) -> Iterator[Job]:
        """Those that waited for this very file, and are not held any more."""
        for job in self.short.pop(key, ()):
            if job.place == "short":
                yield job

    def opened(self, number: int) -> None:
        """A job for a data file joins."""
        if number not in self.open_data:
            heapq.heappush(self.lowest, number)
        self.open_data[number] = self.open_data.get(number, 0) + 1
        self.given_up.discard(number)

    def closed(self, number: int) -> Iterator[Job]:
        """A job for a data file has left; those that no data file holds any more."""
        self.open_data[number] -= 1
        if self.open_data[number]:
            return
        del self.open_data[number]
        lowest = self._lowest_open()
        while self.waiting and (lowest is None or self.waiting[0][0] < lowest):
            job = heapq.heappop(self.waiting)[-1]
            if job.place == "waiting":
                yield job

    def _lowest_open(self) -> int | None:
        while self.lowest and self.lowest[0] not in self.open_data:
            heapq.heappop(self.lowest)
        return self.lowest[0] if self.lowest else None
