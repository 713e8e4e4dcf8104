"""Audits over the core of `rig`: the world of a daemon, without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hookd import scan
from hookd.audit.auditor import DaemonWorld
from hookd.audit.run import Progress, Run, Scope
from hookd.digest import digest_of
from hookd.files import FileKey
from hookd.journal import LedgerEntry
from tests.fakes.rig import Rig
from tests.fakes.zdb_files import Place, data_entry, header, index_entry

NOW = 1_700_000_000


def world(rig: Rig, *, active: bool = False, **changes: Any) -> DaemonWorld:
    """What the daemon gives its auditor, with short patience; `active`: zdb does not run."""

    async def look() -> Sequence[FileKey]:
        ledger = {entry.key: entry for entry in await rig.journal.ledger()}
        jobs = scan.unannounced(
            rig.roots, ledger, rig.scheduler, skip={*rig.skip, *rig.held}, with_active=active
        )
        await rig.journal.add_jobs(jobs)
        rig.dispatcher.enqueue(jobs)
        return [job.key for job in jobs]

    async def hear() -> None:
        pass

    parts: dict[str, Any] = {
        "roots": rig.roots,
        "store": rig.store,
        "journal": rig.journal,
        "scheduler": rig.scheduler,
        "dispatcher": rig.dispatcher,
        "skip": rig.skip,
        "held": rig.held,
        "private": rig.staging.folder,
        "limit_s": lambda size: 5.0,
        "is_undecided": lambda: False,
        "is_ours": rig.fence.still_ours,
        "look": look,
        "retrieving": lambda: False,
        "hear": hear,
        "patience_s": (0.001,),
    }
    return DaemonWorld(**(parts | changes))


async def audit(rig: Rig, *, deep: bool = False, active: bool = False, **scope: Any) -> Progress:
    """One audit to its end."""
    run = Run(world(rig, active=active), Scope(deep=deep, **scope))
    await run.execute()
    return run.progress


def told(progress: Progress) -> list[tuple[str, str, bool]]:
    """(file, problem, whether an alarm), sorted."""
    return sorted((str(f.key), f.problem.value, f.alarm) for f in progress.findings)


async def proven(
    rig: Rig, key: FileKey, content: bytes, *, sealed: bool | None = None, here: bool = True
) -> LedgerEntry:
    """A file that is in the store and in the ledger, and here unless told not."""
    if here:
        rig.write(key, content)
    rig.store.content[key] = content
    if sealed is None:
        sealed = key.root == "data"
    entry = LedgerEntry(
        key=key,
        size_bytes=len(content),
        digest=digest_of(content),
        stored_at=4e9,  # no file here was touched since
        sealed=sealed,
    )
    await rig.journal.note_found([entry])
    rig.scheduler.remote(key, entry.size_bytes)
    return entry


def data_bytes(number: int, values: int = 3) -> bytes:
    """A data file as zdb makes it."""
    return header("data", number, NOW) + b"".join(
        data_entry(b"key%d" % each, b"value%d" % each, NOW) for each in range(values)
    )


def index_bytes(number: int, *, values: int = 3, data: int | None = None) -> bytes:
    """Its index file; `data`: the data file that all entries point into (its own)."""
    found, offset = header("index", number, NOW), len(header("data", number, NOW))
    for each in range(values):
        key, value = b"key%d" % each, b"value%d" % each
        place = Place(number, 0, number if data is None else data, offset, len(value))
        found += index_entry(place, key, value, NOW, 0)
        offset += len(data_entry(key, value, NOW))
    return found
