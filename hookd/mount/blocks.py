"""Stage repair, what a sparse file of the cache says of itself: which of its bytes were ever put there.

A byte that was never written reads as zero, and a block that nothing was written to is a hole
(lseek(2), SEEK_DATA). So outside of what a record knows,

    a byte that is not zero          was written, or fetched from the remote: it is *proven*
    a block of data that is all known, or zero beside what is known, says nothing of a further write
    any other zero in a block of data is *unclear*: written as zero, or never written

Ranges are (begin, end), end not included. Blocking.
"""

from __future__ import annotations

import bisect
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Range = tuple[int, int]

PIECE_BYTES = 4096
"""What is judged at once: all of it was written, or nobody can say how much."""


@dataclass(slots=True)
class Examined:
    """What the data outside of the known ranges is."""

    proven: list[Range] = field(default_factory=list)
    unclear: list[Range] = field(default_factory=list)


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Sorted, without empty ones, those that touch as one."""
    found: list[Range] = []
    for begin, end in sorted(each for each in ranges if each[0] < each[1]):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def without(ranges: Iterable[Range], known: list[Range]) -> Iterator[Range]:
    """What of `ranges` is not in `known`, which is `joined`."""
    for begin, end in ranges:
        at = begin
        for first, last in known[_first(known, begin) :]:
            if first >= end:
                break
            if at < first:
                yield at, first
            at = max(at, last)
        if at < end:
            yield at, end


def data(handle: int, size_bytes: int) -> Iterator[Range]:
    """The parts that are no holes. A file system that knows no holes says: all of it."""
    at = 0
    while at < size_bytes:
        try:
            begin = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        at = min(os.lseek(handle, begin, os.SEEK_HOLE), size_bytes)
        if begin < at:
            yield begin, at


def examine(handle: int, size_bytes: int, known: list[Range]) -> Examined:
    """Judge the data outside of `known`, which is `joined`. Reads all of it."""
    found = Examined()
    block = max(PIECE_BYTES, os.fstat(handle).st_blksize)
    for begin, end in without(data(handle, size_bytes), known):
        for at, to in _pieces(begin, end):
            content = os.pread(handle, to - at, at)
            zeros = content.count(0)
            if not zeros:
                found.proven.append((at, to))
            elif zeros < len(content) or not _touches(known, at // block * block, block):
                found.unclear.append((at, to))
    found.proven, found.unclear = joined(found.proven), joined(found.unclear)
    return found


def is_whole(handle: int, size_bytes: int) -> bool:
    """Whether a file of which nothing is known was certainly written from its first byte to its last.

    A first write into a file of the remote may fill every block and still be a part of it: it leaves
    zeros before or behind itself.
    """
    if not size_bytes:
        return True
    if list(data(handle, size_bytes)) != [(0, size_bytes)]:
        return False
    return b"\0" not in os.pread(handle, 1, 0) + os.pread(handle, 1, size_bytes - 1)


def _first(known: list[Range], at: int) -> int:
    """Index of the first range that may reach beyond `at`."""
    return max(0, bisect.bisect_right(known, (at, at)) - 1)


def _touches(known: list[Range], begin: int, length: int) -> bool:
    for first, last in known[_first(known, begin) :]:
        if first >= begin + length:
            break
        if last > begin:
            return True
    return False


def _pieces(begin: int, end: int) -> Iterator[Range]:
    """Along the borders of the pieces."""
    while begin < end:
        to = min(end, (begin // PIECE_BYTES + 1) * PIECE_BYTES)
        yield begin, to
        begin = to
