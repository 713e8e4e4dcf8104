"""Stage recovery point: up to which moment is everything in the store, and what is only here?

Computed from what is owed (open jobs), what is proven remote (the ledger, as the scheduler knows it)
and the data files on disk. The headers of zdb 2.0.7 hold no times any more, but every change of a
namespace, a deletion too, appends an entry with its time to the active data file (0-db libzdb/data.c).
So: the moment is when the oldest entry that is not in the store was written. With nothing owed it is
the moment of looking.

Pure but for the `Disk` that it is given; nothing is remembered, so a restart changes nothing.

Weaknesses: what zdbfs still has in its cache is in no file yet; a client that gives SET a time of its
own moves the moment; index files that were rewritten while the daemon was away count from when the
spool was read.
"""

from __future__ import annotations

import math
import os
import struct
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hookd.files import FileKey, Kind, Roots, data_key, index_key
from hookd.journal.records import Job
from hookd.scheduler import Scheduler

DATA_HEADER_BYTES = 28
"""A data file without entries (0-db libzdb/data.h, version 3)."""

INDEX_HEADER_BYTES = 29
"""An index file without entries (0-db libzdb/index.h, version 4)."""

_TIME_AT = 14
"""In an entry: after idlength, datalength, previous, integrity, flags (0-db libzdb/data.h)."""

_TIME = struct.Struct("<I")


@dataclass(slots=True)
class Owed:
    """The open jobs of one namespace."""

    files: int = 0
    bytes: int = 0
    lowest: int | None = None
    """The lowest number of a data file, or of an index that is not remote in any version."""
    since: float | None = None
    """Unix seconds of the oldest other content: rewritten indexes, the descriptor."""
    data: set[int] = field(default_factory=set)
    indexes: set[int] = field(default_factory=set)
    """Numbers of the files that have a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacePoint:
    """One namespace."""

    until: float | None
    """Unix seconds: everything written before is in the store. None: not known."""
    files: int
    """Files whose content is only here, in part or whole."""
    bytes: int
    active_dirty: bool
    """Whether its active data file has entries that the store has not."""
    gaps: tuple[FileKey, ...] = ()
    """Closed files that no job stands for and that are not remote: their hook never came."""
    given_up: tuple[FileKey, ...] = ()
    """Closed files that are not remote because somebody decided so: nothing will bring them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPoint:
    """All that is stored."""

    looked_at: float
    spaces: dict[str, SpacePoint] = field(default_factory=dict)

    @property
    def until(self) -> float | None:
        """The oldest of the namespaces' moments; `looked_at` if there are none."""
        found = [space.until for space in self.spaces.values()]
        return (
            None
            if None in found
            else min((u for u in found if u is not None), default=self.looked_at)
        )

    @property
    def files(self) -> int:
        """Files whose content is only here."""
        return sum(space.files for space in self.spaces.values())

    @property
    def bytes(self) -> int:
        """Their bytes."""
        return sum(space.bytes for space in self.spaces.values())


class Disk(Protocol):
    """What is looked up in zdb's folders; blocking."""

    def namespaces(self) -> Collection[str]:
        """Those on disk."""
        ...

    def numbers(self, kind: Kind, namespace: str) -> list[int]:
        """Of the index or data files, ascending."""
        ...

    def size(self, key: FileKey) -> int:
        """Bytes of a file, 0 if it is not there."""
        ...

    def longer(self, namespace: str, numbers: list[int], remote: Mapping[int, int]) -> list[int]:
        """Which of these closed data files are longer than what is remote of them."""
        ...

    def written_at(self, key: FileKey, offset: int) -> float | None:
        """When the entry at `offset` of a data file was written; None if there is none."""
        ...


class Files:
    """`Disk` over zdb's two roots; keep it, for it remembers which closed files were compared."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._whole: dict[str, dict[int, int]] = {}

    def namespaces(self) -> Collection[str]:
        """Those on disk."""
        return self._roots.namespaces()

    def numbers(self, kind: Kind, namespace: str) -> list[int]:
        """Of the index or data files, ascending."""
        return self._roots.numbers(kind, namespace)

    def size(self, key: FileKey) -> int:
        """Bytes of a file, 0 if it is not there."""
        try:
            return os.stat(self._roots.text(key)).st_size
        except OSError:
            return 0

    def longer(self, namespace: str, numbers: list[int], remote: Mapping[int, int]) -> list[int]:
        """Which of these closed data files are longer than what is remote of them."""
        whole = self._whole.setdefault(namespace, {})
        found = []
        for number in numbers:
            there = remote.get(number)
            if there is None or whole.get(number) == there:
                continue
            if self.size(data_key(namespace, number)) > there:
                found.append(number)
            else:
                whole[number] = there
        return found

    def written_at(self, key: FileKey, offset: int) -> float | None:
        """The entry's own time, at most the file's: one that a client made up is not believed."""
        try:
            with open(self._roots.text(key), "rb", buffering=0) as file:
                changed_at = os.fstat(file.fileno()).st_mtime
                raw = os.pread(file.fileno(), _TIME.size, offset + _TIME_AT)
        except OSError:
            return None
        if len(raw) < _TIME.size:
            return None
        found: int = _TIME.unpack(raw)[0]
        return min(float(found), changed_at)


def owed(jobs: Iterable[Job], scheduler: Scheduler, skip: Collection[str]) -> dict[str, Owed]:
    """Namespace → what its open jobs owe. One pass, on the event loop: there may be 100,000."""
    found: dict[str, Owed] = {}
    data, index = Kind.DATA, Kind.INDEX
    for job in jobs:
        key = job.key
        space = found.get(key.namespace)
        if space is None:
            if key.namespace in skip:
                continue
            space = found[key.namespace] = Owed()
        space.files += 1
        space.bytes += job.size_bytes or 0
        if key.kind is data:
            space.data.add(key.number)
        elif key.kind is index:
            space.indexes.add(key.number)
        if key.kind is data or (key.kind is index and not scheduler.is_remote(key)):
            if space.lowest is None or key.number < space.lowest:
                space.lowest = key.number
        elif space.since is None or job.since < space.since:
            space.since = job.since
    return found


def look(
    disk: Disk,
    scheduler: Scheduler,
    owed_by: dict[str, Owed],
    *,
    skip: Collection[str],
    held: Collection[str] = (),
    now: float,
) -> RecoveryPoint:
    """The recovery point. Blocking: call it in a thread; `now` is taken before anything is read.

    `held`: those that take no stores before somebody decides. What the store has under their names may be
    something else: all of their files that hold anything count as only here.
    """
    here = {*disk.namespaces()} - {*skip}
    names = sorted({*here, *owed_by} - {*skip, *held})
    spaces = {name: _space(disk, scheduler, name, owed_by.get(name, Owed()), now) for name in names}
    for name in sorted(here & {*held}):
        if found := _held(disk, name):
            spaces[name] = found
    return RecoveryPoint(looked_at=now, spaces=spaces)


def _held(disk: Disk, name: str) -> SpacePoint | None:
    """Of a namespace that is held; None where nothing was ever written."""
    data = [disk.size(data_key(name, number)) for number in disk.numbers(Kind.DATA, name)]
    indexes = [disk.size(index_key(name, number)) for number in disk.numbers(Kind.INDEX, name)]
    sizes = [size for size in data if size > DATA_HEADER_BYTES]
    sizes += [size for size in indexes if size > INDEX_HEADER_BYTES]
    if not sizes:
        return None
    return SpacePoint(until=None, files=len(sizes), bytes=sum(sizes), active_dirty=True)


def dirty(disk: Disk, scheduler: Scheduler, namespace: str) -> int | None:
    """The number of the active data file if it has entries that the store has not, else None."""
    active = _active(disk, namespace)
    if active is None:
        return None
    key = data_key(namespace, active)
    size = disk.size(key)
    changed = size > DATA_HEADER_BYTES and size != scheduler.remote_bytes(key)
    return active if changed else None


def _active(disk: Disk, namespace: str) -> int | None:
    return max(
        (*disk.numbers(Kind.INDEX, namespace)[-1:], *disk.numbers(Kind.DATA, namespace)[-1:]),
        default=None,
    )


def _space(disk: Disk, scheduler: Scheduler, name: str, known: Owed, now: float) -> SpacePoint:
    indexes, data = disk.numbers(Kind.INDEX, name), disk.numbers(Kind.DATA, name)
    newest = max((*indexes[-1:], *data[-1:]), default=-1)
    gaps = _gaps(disk, scheduler, name, known, indexes, data, newest)
    given_up = _given_up(scheduler, name, known, newest, gaps)
    # without an index a restore ends there; without a data file it goes on, and names it
    missing = [*gaps, *(key for key in given_up if key.kind is Kind.INDEX)]
    files = known.files + len(missing)
    size = known.bytes + sum(disk.size(key) for key in missing)
    lowest = [
        number for number in (known.lowest, *(key.number for key in missing)) if number is not None
    ]
    moments: list[float | None] = []
    active = dirty(disk, scheduler, name)
    if active is not None:
        key = data_key(name, active)
        there = scheduler.remote_bytes(key)
        moments.append(_moment(disk, key, there))
        if not scheduler.covers(key):
            files += 1
            size += max(0, disk.size(key) - there)
    if lowest:
        moments.append(_first(disk, scheduler, name, data, min(lowest)))
    if known.since is not None:
        moments.append(_before(disk, name, data, known.since))
    until = None if None in moments else min((m for m in moments if m is not None), default=now)
    return SpacePoint(
        until=None if until is None else min(until, now),
        files=files,
        bytes=size,
        active_dirty=active is not None,
        gaps=gaps,
        given_up=given_up,
    )


def _given_up(
    scheduler: Scheduler, name: str, known: Owed, newest: int, gaps: Collection[FileKey]
) -> tuple[FileKey, ...]:
    """Of the closed files; an index only if the store has none of that number in any version."""
    lengths, numbers = scheduler.given_up(name)
    data = [data_key(name, n) for n in sorted(lengths) if n < newest and n not in known.data]
    data = [key for key in data if scheduler.remote_bytes(key) < lengths[key.number]]
    closed = [n for n in sorted(numbers) if n < newest and n not in known.indexes]
    index = [key for n in closed if not scheduler.is_remote(key := index_key(name, n))]
    return tuple(key for key in (*data, *index) if key not in gaps and not scheduler.covers(key))


def _gaps(
    disk: Disk,
    scheduler: Scheduler,
    name: str,
    known: Owed,
    indexes: list[int],
    data: list[int],
    newest: int,
) -> tuple[FileKey, ...]:
    """By numbers first, there may be 100,000; keys are made of the few that are left."""
    closed = [n for n in data if n < newest and n not in known.data]
    gaps = scheduler.not_remote(Kind.DATA, name, closed)
    # A data file may be remote as an earlier stop left it, shorter; or have been given up so.
    given_up, _ = scheduler.given_up(name)
    longer = disk.longer(name, closed, scheduler.remote_data(name))
    gaps += [number for number in longer if number not in given_up]
    given_up = {n: given_up[n] for n in given_up.keys() & set(closed)} if given_up else {}
    gaps += [n for n, size in given_up.items() if disk.size(data_key(name, n)) > size]
    closed = [n for n in indexes if n < newest and n not in known.indexes]
    keys = (
        *(data_key(name, number) for number in sorted(gaps)),
        *(index_key(name, n) for n in scheduler.not_remote(Kind.INDEX, name, closed)),
    )
    return tuple(key for key in keys if not scheduler.covers(key))


def _first(
    disk: Disk, scheduler: Scheduler, name: str, data: list[int], lowest: int
) -> float | None:
    """When the first entry was written that is not remote, in data file `lowest` or a later one."""
    if lowest not in data:
        return None
    for number in data[bisect_left(data, lowest) :]:
        key = data_key(name, number)
        new_index = not scheduler.is_remote(index_key(name, number))
        found = _moment(disk, key, 0 if new_index else scheduler.remote_bytes(key))
        if found != math.inf:
            return found
    return math.inf


def _moment(disk: Disk, key: FileKey, there: int) -> float | None:
    """When the first entry behind the `there` bytes that are remote was written; inf: none was."""
    if 0 < disk.size(key) <= DATA_HEADER_BYTES:
        return math.inf
    found = disk.written_at(key, max(DATA_HEADER_BYTES, there))
    # The file is remote as it is, its index is not.
    return found if found is not None else disk.written_at(key, DATA_HEADER_BYTES)


def _before(disk: Disk, name: str, data: list[int], since: float) -> float | None:
    """When the first entry of the data file was written that was active before `since`.

    An index that was announced then had been rewritten while that file was active. Times have whole
    seconds, so a file begun within that second is left out: too early a moment is none too late.
    """
    low, high = 0, len(data)
    while low < high:
        middle = (low + high) // 2
        begun = disk.written_at(data_key(name, data[middle]), DATA_HEADER_BYTES)
        if begun is not None and begun < int(since):
            low = middle + 1
        else:
            high = middle
    if not data:
        return since
    first = data_key(name, data[max(0, low - 1)])
    begun = disk.written_at(first, DATA_HEADER_BYTES)
    if begun is None:
        return since if disk.size(first) else None
    return min(begun, since)
