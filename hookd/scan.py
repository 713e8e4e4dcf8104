"""Stage scan: files on disk that no hook ever announced, because zdb or a shim died between two.

Runs at the start, after `ready`, and at the end of a drain. Sealed data files are compared with the
ledger by name only. Everything else is compared by content, sealed index files too: which of them it
has rewritten zdb remembers in memory, so a crash forgets it. A file that neither the ledger nor an
open job stands for becomes a job that asks the store first, so what is there already is not uploaded
again. A snapshot stands for the file only while that has not changed since.

What is sealed: dK once i(K+1) or d(K+1) exists, iK once i(K+1) exists. With zdb provably gone (a
crash sends no closing hooks) the active files count too.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

from hookd.entries import DATA_HEADER_BYTES, HEADER_BYTES
from hookd.errors import PathRefused, StoreError
from hookd.files import FileKey, Kind, Roots, data_key, index_key, namespace_key
from hookd.journal import Job, LedgerEntry
from hookd.scheduler import Scheduler
from hookd.snapshot import hash_live


def unannounced(
    roots: Roots,
    ledger: Mapping[FileKey, LedgerEntry],
    scheduler: Scheduler,
    *,
    skip: Collection[str],
    with_active: bool,
) -> list[Job]:
    """Jobs for the files that nobody stands for, data files first. Reads folders, blocking."""
    jobs: list[Job] = []
    for namespace in roots.namespaces():
        if namespace not in skip:
            jobs.extend(_of_namespace(roots, namespace, ledger, scheduler, with_active))
    return jobs


def unstored(
    roots: Roots, ledger: Mapping[FileKey, LedgerEntry], namespaces: Collection[str]
) -> dict[str, int]:
    """Namespace → how many files of it are not in the store as they are here; 0 is left out.

    Blank ones do not count: zdb makes them where it finds none. Reads folders, blocking.
    """
    found: dict[str, int] = {}
    for namespace in set(roots.namespaces()) & set(namespaces):
        jobs = _of_namespace(roots, namespace, ledger, Scheduler(), with_active=True)
        files = sum(
            not _is_blank(roots, job.key) and _differs(roots, job.key, ledger.get(job.key))
            for job in jobs
        )
        if files:
            found[namespace] = files
    return dict(sorted(found.items()))


def _of_namespace(
    roots: Roots,
    namespace: str,
    ledger: Mapping[FileKey, LedgerEntry],
    scheduler: Scheduler,
    with_active: bool,
) -> Iterable[Job]:
    indexes = roots.numbers(Kind.INDEX, namespace)
    data = roots.numbers(Kind.DATA, namespace)
    newest = max(indexes[-1:] + data[-1:], default=0)
    for number in data:
        key = data_key(namespace, number)
        entry = ledger.get(key)
        if _stands(roots, scheduler, key) or _is_empty(roots, key):
            continue
        if number < newest:
            if entry is None or not entry.sealed:
                yield _job(key, sealed=True)
        elif with_active and _differs(roots, key, entry):
            yield _job(key, freeze=True)
    for number in indexes:
        key = index_key(namespace, number)
        entry = ledger.get(key)
        if _stands(roots, scheduler, key) or _is_empty(roots, key):
            continue
        if (number < newest or with_active) and _differs(roots, key, entry):
            yield _job(key, freeze=True, needs=number)
    key = namespace_key(namespace)
    wanted = not _stands(roots, scheduler, key) and _differs(roots, key, ledger.get(key))
    if wanted and not _is_empty(roots, key):
        yield _job(key, freeze=True)


def _is_empty(roots: Roots, key: FileKey) -> bool:
    """Whether zdb is making the file right now (its own hook follows); empty it is worth nothing."""
    try:
        return roots.length(key) == 0
    except PathRefused:
        return False


def _is_blank(roots: Roots, key: FileKey) -> bool:
    """Whether it is no more than a header."""
    if key.kind is Kind.NAMESPACE:
        return False
    header = DATA_HEADER_BYTES if key.kind is Kind.DATA else HEADER_BYTES
    try:
        return (roots.length(key) or 0) <= header
    except PathRefused:
        return False


def _stands(roots: Roots, scheduler: Scheduler, key: FileKey) -> bool:
    """Whether an open job brings the file there as it is now: it reads it live, or froze this."""
    jobs = scheduler.of(key)
    return bool(jobs) and (jobs[-1].staged is None or not _differs(roots, key, jobs[-1]))


def _differs(roots: Roots, key: FileKey, known: LedgerEntry | Job | None) -> bool:
    """Whether a file is there whose content is not what is known of it."""
    path = roots.path(key)
    try:
        if known is not None and path.stat().st_size == known.size_bytes:
            return hash_live(path)[0] != known.digest
        return path.exists()
    except (OSError, StoreError):
        return False


def _job(
    key: FileKey, *, sealed: bool = False, freeze: bool = False, needs: int | None = None
) -> Job:
    return Job(
        key=key, since=time.time(), sealed=sealed, freeze=freeze, needs=needs, ask_first=True
    )
