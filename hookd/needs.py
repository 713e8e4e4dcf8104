"""Which data file an index snapshot needs in the store before it, and how much of it.

Read from its entries. What is no index (a file that was cut off) is taken to need all that is there: too
late in the store is safe, too early is not.
"""

from __future__ import annotations

import os
from pathlib import Path

from hookd.entries import DATA_HEADER_BYTES, NotAnIndex, reach_of, reach_of_file
from hookd.errors import PathRefused
from hookd.files import Kind, Roots, data_key, index_key
from hookd.journal.records import Job
from hookd.log import get

log = get("needs")

_said: set[tuple[Path, int]] = set()
"""Data files, and their lengths, of which it was said that they end too early."""


def points_to(roots: Roots, job: Job, content: bytes | Path) -> tuple[int, int]:
    """(number, bytes) of the newest data file that must be remote before this snapshot. Blocking.

    iN needs dN in any case: without it zdb would make dN anew at its start. A data file that came after N
    counts only if an entry points into it. One that ends before its entries do has lost values: zdb
    appends a value before it writes the entry, so there will never be more, and none is waited for.
    """
    needs = no_further(roots, job)
    own = job.key.number if job.key.kind is Kind.INDEX else 0
    try:
        reach = reach_of(content) if isinstance(content, bytes) else reach_of_file(content)
    except (NotAnIndex, OSError):
        return roots.newest_data(job.key.namespace, needs)
    number, end = max(reach.last or (0, 0), (own, DATA_HEADER_BYTES))
    if reach.replaced:
        # The new entries lie in the index that is active, and nothing says in which: without them the
        # keys would be gone. Frozen in its own jump, that is the one being closed; frozen later, any up
        # to the newest with a value: zdb appends that before it flags an entry.
        number, end = max((number, end), _newest_with_values(roots, job.key.namespace, needs))
    return number, max(_there(roots, job, number, end), DATA_HEADER_BYTES)


def no_further(roots: Roots, job: Job) -> int:
    """The number of the index that was closing, or of the newest file on disk where that one is gone.

    Then the event is of a namespace that was deleted, and the files here are those of the next one: it
    has nothing of that number, and may not have for long. Blocking.
    """
    assert job.needs is not None
    name = job.key.namespace
    if os.path.lexists(roots.path(index_key(name, job.needs))):
        return job.needs
    own = job.key.number if job.key.kind is Kind.INDEX else 0
    here = (*roots.numbers(Kind.INDEX, name), *roots.numbers(Kind.DATA, name))
    return max(own, min(job.needs, max(here, default=job.needs)))


def say_lost(path: Path, length: int, end: int) -> None:
    """Once for each file: a data file ends before its entries do."""
    if (path, length) not in _said:
        _said.add((path, length))
        log.error("a data file has lost values at its end", file=str(path), bytes=length, needs=end)


def _there(roots: Roots, job: Job, number: int, end: int) -> int:
    """`end`, or where the data file ends if that comes before. What is in the store alone is whole."""
    key = data_key(job.key.namespace, number)
    try:
        length = roots.length(key)
    except PathRefused:
        return end
    if length is None or length >= end:
        return end
    say_lost(roots.path(key), length, end)
    return length


def _newest_with_values(roots: Roots, namespace: str, at_least: int) -> tuple[int, int]:
    """As `Roots.newest_data`, but a blank data file does not count: it is stored only once it is not, and
    who waited for it would wait for zdb's next value.
    """
    number, end = roots.newest_data(namespace, at_least)
    while end <= DATA_HEADER_BYTES and number > at_least and _is_here(roots, namespace, number):
        number -= 1
        end = _length(roots, namespace, number)
    return number, end


def _is_here(roots: Roots, namespace: str, number: int) -> bool:
    """What is in the store alone is sealed, and has values."""
    return roots.path(data_key(namespace, number)).exists()


def _length(roots: Roots, namespace: str, number: int) -> int:
    try:
        return roots.path(data_key(namespace, number)).stat().st_size
    except OSError:
        return 0
