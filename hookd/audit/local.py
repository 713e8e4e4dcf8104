"""Stage audit, the local half: one namespace's files against each other and against the ledger.

Finds what zdb never asks hookd for: an index file without a whole header, a gap in their numbers, a data
file that is shorter than what index entries point into, or than what is proven remote. Never writes;
every function blocks, so it is called in a thread. Entries are read before the data files are measured:
zdb appends a value before it writes the entry that points to it.

Sealed data is compared by length, and by content only if its ctime says that it was touched since it was
stored (nobody can set that back, but a clock that was set back hides a change until `--deep`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hookd.audit.finding import Finding, Problem
from hookd.damage import what_is_wrong
from hookd.entries import HEADER_BYTES, NotAnIndex, Reach, reach_of_file
from hookd.errors import PathRefused, StoreError
from hookd.files import FileKey, Kind, Roots, data_key, index_key
from hookd.journal import LedgerEntry
from hookd.snapshot import hash_live

BUSY_SHARE = 0.5
"""Most of a core that reading takes: the event loop has to answer hooks meanwhile."""

Identity = tuple[int, int, int, int]
"""Size, mtime, ctime, inode: of a file that nobody touched it stays."""


@dataclass(slots=True)
class Namespace:
    """What one namespace looks like here."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    """Data file number → bytes that index entries need of it."""
    data: set[int] = field(default_factory=set)
    """Numbers of the data files here."""
    newest: int = -1
    """Number of the active files; those below are sealed."""
    indexes: int = 0
    """How many index files are here."""

    def missing_data(self, known: Iterable[int]) -> list[FileKey]:
        """Sealed data files that are neither here nor in `known` (numbers that the ledger has).

        Each index file has its data file; a stray file with a huge number makes none.
        """
        wanted = {*range(self.indexes), *self.ends}
        absent = {number for number in wanted if number < self.newest} - self.data - set(known)
        return [data_key(self.name, number) for number in sorted(absent)]


class Unhurried:
    """Sleeps between pieces of work, so that they take BUSY_SHARE of the time."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def rest(self) -> None:
        """Call it after each piece."""
        took_s = time.monotonic() - self._began
        if took_s > 0.002:
            time.sleep(min(1.0, took_s / BUSY_SHARE - took_s))
            self._began = time.monotonic()


def look(roots: Roots, name: str) -> Namespace:
    """Read the index files of a namespace and measure its data files. Blocking."""
    found = Namespace(name)
    indexes = roots.numbers(Kind.INDEX, name)
    data = roots.numbers(Kind.DATA, name)
    found.newest, found.indexes = max(indexes[-1:] + data[-1:], default=-1), len(indexes)
    _gaps(found, indexes)
    reach, pause = Reach(), Unhurried()
    for number in indexes:
        _read(roots, index_key(name, number), reach, found.findings)
        pause.rest()
    found.ends = reach.ends
    found.data = set(roots.numbers(Kind.DATA, name))
    for number, end in sorted(reach.ends.items()):
        _measure(roots, found, number, end)
    return found


def _gaps(found: Namespace, indexes: Sequence[int]) -> None:
    """zdb loads index files up to the first number that is not there."""
    here = set(indexes)
    first = next(number for number in range(len(indexes) + 1) if number not in here)
    if indexes and first < indexes[-1]:
        detail = (
            f"it is absent here, and zdb would not load those after it (up to i{indexes[-1]});"
            " stop zdb and restore the namespace before it is started again"
        )
        key = index_key(found.name, first)
        found.findings.append(Finding(key=key, problem=Problem.GAP, detail=detail))


def _read(roots: Roots, key: FileKey, reach: Reach, findings: list[Finding]) -> None:
    try:
        size = roots.length(key)
        if size is None:
            return
        if size < HEADER_BYTES:
            detail = f"it has {size} bytes here, not even a header: zdb does not start with it"
            findings.append(Finding(key=key, problem=Problem.EMPTY, detail=f"{detail}; {_RESTORE}"))
            return
        found = reach_of_file(roots.path(key))
        reach.add(found)
        if fault := what_is_wrong(found):
            detail = f"{fault}: zdb would serve wrong records; {_RESTORE}"
            findings.append(Finding(key=key, problem=Problem.DAMAGED, detail=detail))
    except NotAnIndex:
        detail = f"it does not begin like an index file: zdb does not start with it; {_RESTORE}"
        findings.append(Finding(key=key, problem=Problem.DAMAGED, detail=detail))
    except (OSError, PathRefused) as error:
        findings.append(_unread(key, error))


_RESTORE = "bring it back from the store before zdb is started again"


def _measure(roots: Roots, found: Namespace, number: int, end: int) -> None:
    """Whether dN has what entries point into."""
    key = data_key(found.name, number)
    try:
        size = roots.length(key)
    except PathRefused as error:
        found.findings.append(_unread(key, error))
        return
    if size is not None and size < end:
        detail = f"it has {size} bytes here, but index entries point as far as {end}"
        found.findings.append(
            Finding(key=key, problem=Problem.TRUNCATED, detail=f"{detail}; zdb does not ask for it")
        )
    elif size is None and number >= found.newest:
        detail = "the active data file is absent here: zdb would make it anew, empty"
        found.findings.append(Finding(key=key, problem=Problem.GAP, detail=detail))


class Against:
    """Compares local files with ledger entries; remembers what it hashed. Its methods block."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._hashed: dict[FileKey, tuple[Identity, bytes]] = {}
        """Sealed files that were touched since they were stored, and what they hashed to."""

    def compare(
        self, space: Namespace, entries: Sequence[LedgerEntry], contents: bool = False
    ) -> list[Finding]:
        """What is wrong with the local files of these entries; `contents`: hash all sealed ones."""
        findings: list[Finding] = []
        pause = Unhurried()
        for entry in entries:
            try:
                problem = self._problem(space, entry, contents)
            except (OSError, PathRefused, StoreError) as error:
                problem = _unread(entry.key, error)
            if problem is not None:
                findings.append(problem)
            pause.rest()
        return findings

    def _problem(self, space: Namespace, entry: LedgerEntry, contents: bool) -> Finding | None:
        key = entry.key
        size = self._roots.length(key)
        if size is None:
            return _short(space, entry)
        if key.kind is Kind.NAMESPACE:
            return None  # rewritten whole, and scan compares it
        if size < entry.size_bytes:
            detail = f"it has {size} bytes here, but {entry.size_bytes} are in the store"
            return Finding(key=key, problem=Problem.TRUNCATED, detail=detail)
        if not entry.sealed:
            return None
        # of another length only where the ledger had to guess that (a store that tells none)
        other_length = size != entry.size_bytes
        digest = self._digest(entry, contents or other_length)
        if digest == entry.digest or (digest is None and not other_length):
            return None
        detail = "it was sealed and stored, and has other content here now; nothing is overwritten"
        return Finding(key=key, problem=Problem.DIFFERS, detail=detail)

    def _digest(self, entry: LedgerEntry, contents: bool) -> bytes | None:
        """Of the local file, None where nothing says that it was touched since it was stored."""
        path = self._roots.path(entry.key)
        found = os.lstat(path)
        if not contents and found.st_ctime < entry.stored_at:
            self._hashed.pop(entry.key, None)
            return None
        identity = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        known = self._hashed.get(entry.key)
        if contents or known is None or known[0] != identity:
            known = self._hashed[entry.key] = (identity, hash_live(path)[0])
        return known[1]


def _short(space: Namespace, entry: LedgerEntry) -> Finding | None:
    """A data file that is only in the store has to be as long as entries need it."""
    end = space.ends.get(entry.key.number, 0) if entry.key.kind is Kind.DATA else 0
    if end <= entry.size_bytes:
        return None
    detail = (
        f"it is not here, and the store has {entry.size_bytes} bytes of it, but index entries point"
        f" as far as {end}"
    )
    return Finding(key=entry.key, problem=Problem.SHORT, detail=detail)


def _unread(key: FileKey, error: Exception) -> Finding:
    return Finding(
        key=key, problem=Problem.UNCHECKED, detail=f"it cannot be read here: {error}", alarm=False
    )
