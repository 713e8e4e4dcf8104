"""The recovery point: everything written before the moment is in the store, whatever is still owed."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookd.files import FileKey, Kind, Roots, data_key, index_key, namespace_key
from hookd.journal.records import Job
from hookd.order import NOWHERE
from hookd.recovery_point import DATA_HEADER_BYTES, Files, RecoveryPoint, dirty, look, owed
from hookd.scheduler import Scheduler
from tests.fakes.zdb_files import data_entry, header

NOW = 10_000.0
ENTRY_BYTES = 100
NS = "ns"


class FakeDisk:
    """Data files as lists of the times of their entries, each of ENTRY_BYTES."""

    def __init__(self) -> None:
        self.files: dict[int, list[int]] = {}
        self.gone: set[int] = set()

    def namespaces(self) -> Collection[str]:
        return [NS]

    def numbers(self, kind: Kind, namespace: str) -> list[int]:
        return sorted(self.files)

    def size(self, key: FileKey) -> int:
        if key.kind is not Kind.DATA or key.number in self.gone or key.number not in self.files:
            return 0
        return DATA_HEADER_BYTES + ENTRY_BYTES * len(self.files[key.number])

    def longer(self, namespace: str, numbers: list[int], remote: Mapping[int, int]) -> list[int]:
        return [n for n in numbers if self.size(data_key(NS, n)) > remote.get(n, 1 << 40)]

    def written_at(self, key: FileKey, offset: int) -> float | None:
        entries = [] if key.number in self.gone else self.files.get(key.number, [])
        number, rest = divmod(offset - DATA_HEADER_BYTES, ENTRY_BYTES)
        return float(entries[number]) if rest == 0 and 0 <= number < len(entries) else None


class Case:
    """A namespace, what of it is remote, and what is owed."""

    def __init__(self) -> None:
        self.disk = FakeDisk()
        self.scheduler = Scheduler()
        self._ids = 0

    def has(self, number: int, *times: int, remote: int | None = None) -> None:
        """dN with entries of these times, `remote` of them stored; iN too if all are."""
        self.disk.files[number] = list(times)
        if remote is not None:
            size = DATA_HEADER_BYTES + ENTRY_BYTES * remote
            self.scheduler.remote(data_key(NS, number), size)
            if remote == len(times):
                self.scheduler.remote(index_key(NS, number), 1)

    def owes(self, key: FileKey, since: float = NOW, size: int = 1000) -> None:
        self._ids += 1
        job = Job(key=key, id=self._ids, turn=self._ids, since=since, size_bytes=size)
        self.scheduler.add(job, 0.0)

    def look(self) -> RecoveryPoint:
        known = owed(self.scheduler, self.scheduler, ())
        return look(self.disk, self.scheduler, known, skip=(), now=NOW)


@pytest.fixture
def case() -> Case:
    return Case()


def test_nothing_owed_is_now(case: Case) -> None:
    """Blank active files are no news."""
    case.has(0, 10, 20, remote=2)
    case.has(1)
    point = case.look()
    assert (point.until, point.files, point.bytes) == (NOW, 0, 0)


def test_no_namespace_at_all_is_now() -> None:
    assert RecoveryPoint(looked_at=NOW).until == NOW


def test_the_first_entry_of_the_active_file(case: Case) -> None:
    """Not when the file was begun: it may have lain idle for days."""
    case.has(0, 10, 20, remote=2)
    case.has(1, 700, 800)
    point = case.look()
    assert (point.until, point.files, point.bytes) == (700, 1, DATA_HEADER_BYTES + 200)
    assert point.spaces[NS].active_dirty


def test_what_an_earlier_stop_stored_of_the_active_file_counts(case: Case) -> None:
    case.has(0, 10, 20, 900, remote=2)
    point = case.look()
    assert (point.until, point.bytes) == (900, 100)


def test_the_oldest_data_file_in_the_queue(case: Case) -> None:
    for number in range(4):
        case.has(number, number * 100 + 1, remote=1 if number == 0 else None)
    for number in (3, 2, 1):
        case.owes(data_key(NS, number))
    assert case.look().until == 101


def test_an_index_whose_data_is_there_already(case: Case) -> None:
    """Without its index a data file cannot be read."""
    case.has(0, 10, remote=1)
    case.has(1, 500)
    case.scheduler.remote(data_key(NS, 1), case.disk.size(data_key(NS, 1)))
    case.has(2)
    case.owes(index_key(NS, 1))
    assert case.look().until == 500


def test_a_rewritten_index_counts_from_the_file_that_was_active(case: Case) -> None:
    """It was announced at 350.5, when d3 was active; d4 began within that second."""
    for number in range(5):
        case.has(number, (0, 100, 200, 300, 350)[number], remote=1)
    case.owes(index_key(NS, 0), since=350.5)
    assert case.look().until == 300


def test_a_descriptor_of_a_namespace_without_content(case: Case) -> None:
    case.has(0)
    case.owes(namespace_key(NS), since=400)
    assert case.look().until == 400


def test_a_closed_file_that_nobody_announced(case: Case) -> None:
    """Its shim was killed: it is counted, and named."""
    case.has(0, 10, remote=1)
    case.has(1, 600)
    case.has(2)
    point = case.look()
    assert point.until == 600
    assert point.spaces[NS].gaps == (data_key(NS, 1), index_key(NS, 1))


def test_files_that_were_given_up(case: Case) -> None:
    """Nothing brings them, so they are no gaps: an index still counts as only here."""
    case.has(0, 10, remote=1)
    case.has(1, 600)
    case.has(2, 700, 701, remote=1)
    case.has(3)
    lengths = {number: case.disk.size(data_key(NS, number)) for number in range(4)}
    for number in (1, 2):
        case.scheduler.give_up(data_key(NS, number), lengths[number])
        case.scheduler.give_up(index_key(NS, number), NOWHERE)
    given_up = (*(data_key(NS, n) for n in (1, 2)), *(index_key(NS, n) for n in (1, 2)))
    space = case.look().spaces[NS]
    assert (space.gaps, space.given_up, space.files) == ((), given_up, 2)
    assert space.until == 600
    case.scheduler.remote(index_key(NS, 2), 1)  # in an older version
    assert case.look().spaces[NS].given_up == given_up[:3]
    case.disk.files[1].append(650)  # not what was given up
    space = case.look().spaces[NS]
    assert space.gaps == (data_key(NS, 1),)
    assert space.given_up == (data_key(NS, 2), index_key(NS, 1))


def test_a_file_closed_without_an_entry_costs_nothing(case: Case) -> None:
    case.has(0, 10, remote=1)
    case.has(1)
    case.has(2, 900)
    case.owes(data_key(NS, 1))
    assert case.look().until == 900


def test_what_cannot_be_read_is_not_guessed(case: Case) -> None:
    case.has(0, 10)
    case.has(1)
    case.owes(data_key(NS, 0))
    case.disk.gone.add(0)
    assert case.look().until is None


def test_an_entry_from_the_future_is_not_believed(case: Case) -> None:
    """A client may give SET any time."""
    case.has(0, 20_000)
    assert case.look().until == NOW


def test_what_is_held_is_only_here(case: Case) -> None:
    """Whatever the store has under its name: nothing is known, and all of it would be lost."""
    case.has(0, 7000, remote=1)
    case.has(1, 8000, 8001, remote=2)
    assert case.look().files == 0
    found = look(case.disk, case.scheduler, {}, skip=(), held={NS}, now=NOW)
    assert found.until is None
    assert (found.files, found.bytes) == (2, 2 * DATA_HEADER_BYTES + 3 * ENTRY_BYTES)
    case.disk.files = {0: []}
    blank = look(case.disk, case.scheduler, {}, skip=(), held={NS}, now=NOW)
    assert (blank.until, blank.files) == (NOW, 0), "nothing is here that could be lost"


def test_skipped_namespaces_do_not_count(case: Case) -> None:
    case.has(0, 10)
    case.owes(data_key(NS, 0))
    assert not owed(case.scheduler, case.scheduler, {NS})
    point = look(case.disk, case.scheduler, {}, skip={NS}, now=NOW)
    assert (point.until, point.files) == (NOW, 0)


@given(
    st.lists(st.lists(st.integers(1, 50), max_size=4), min_size=1, max_size=6),
    st.integers(0, 24),
    st.integers(0, 6),
)
def test_no_entry_before_the_moment_is_missing(
    gaps: list[list[int]], stored: int, announced: int
) -> None:
    """Whatever was stored so far, in zdb's order: the definition, checked entry by entry."""
    case, clock, times = Case(), 100, []
    for steps in gaps:
        times.append([clock := clock + step for step in steps])
    missing: list[int] = []
    left = stored
    for number, entries in enumerate(times):
        there = min(left, len(entries))
        left -= there
        case.has(number, *entries, remote=there if there or left else None)
        missing += entries[there:]
        sealed = number < len(times) - 1
        if sealed and there < len(entries) and number < announced:
            case.owes(data_key(NS, number))
    point = case.look()
    assert point.until is not None
    assert all(entry >= point.until for entry in missing)
    if missing:  # a file whose index is not remote counts as a whole
        first = next(entries for entries in times if missing[0] in entries)
        assert point.until >= first[0] and point.files
    else:
        assert point.until == NOW


# -- the real files ----------------------------------------------------------------------------


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for root in ("index", "data"):
        (tmp_path / root / NS).mkdir(parents=True)
    return Roots(tmp_path / "index", tmp_path / "data")


def test_the_times_of_entries_as_zdb_writes_them(roots: Roots) -> None:
    key = data_key(NS, 0)
    first = header("data", 0, 0)
    assert len(first) == DATA_HEADER_BYTES
    entry = data_entry(b"key", b"value", 1234)
    roots.path(key).write_bytes(first + entry + data_entry(b"key", b"", 2345))
    disk = Files(roots)
    assert disk.written_at(key, DATA_HEADER_BYTES) == 1234
    assert disk.written_at(key, DATA_HEADER_BYTES + len(entry)) == 2345
    assert disk.written_at(key, disk.size(key)) is None
    assert disk.written_at(data_key(NS, 7), DATA_HEADER_BYTES) is None
    assert dirty(disk, Scheduler(), NS) == 0


def test_an_entry_is_not_younger_than_its_file(roots: Roots) -> None:
    key = data_key(NS, 0)
    raw = bytearray(header("data", 0, 0) + data_entry(b"key", b"value", 0))
    struct.pack_into("<I", raw, DATA_HEADER_BYTES + 14, 4_000_000_000)
    roots.path(key).write_bytes(raw)
    os.utime(roots.path(key), (500, 500))
    assert Files(roots).written_at(key, DATA_HEADER_BYTES) == 500


def test_dirty_is_what_the_store_has_not(roots: Roots) -> None:
    """A namespace as a stop left it, started again, is not dirty."""
    key, scheduler, disk = data_key(NS, 0), Scheduler(), Files(roots)
    assert dirty(disk, scheduler, NS) is None
    roots.path(key).write_bytes(header("data", 0, 0))
    assert dirty(disk, scheduler, NS) is None
    roots.path(key).write_bytes(header("data", 0, 0) + data_entry(b"key", b"value", 1))
    assert dirty(disk, scheduler, NS) == 0
    scheduler.remote(key, disk.size(key))
    assert dirty(disk, scheduler, NS) is None
