"""Stage view: the running daemon into one plain, JSON-able picture.

Reads the stages' own state on the event loop and changes nothing; one pass over the queue, so
100,000 jobs cost some ten milliseconds. What has to be waited for (zdb, the ledger) is an argument.
The keys are the contract of docs/reference/stats-socket.md: sizes in bytes, ages in seconds, never
negative; times of day in Unix seconds; every text scrubbed of secrets.
"""

from __future__ import annotations

import heapq
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookd import __version__
from hookd.admin.health import health
from hookd.admin.safety import checkpoint_view, recovery_view
from hookd.admin.words import one_line
from hookd.files import FileKey
from hookd.journal.records import Job, JobState
from hookd.log import scrub

if TYPE_CHECKING:
    from hookd.parts import Parts
    from hookd.recovery_point import RecoveryPoint

View = dict[str, Any]

STATES = ("pending", "blocked", "running", "quarantined")
"""Of the queue; each job is counted under one of them."""

_PENDING, _RUNNING = JobState.PENDING, JobState.RUNNING  # a member's lookup is slow (3.11)
_BLOCKED = ("waiting", "short")
"""The scheduler's places of jobs that wait for another file to be stored."""

_NAME_CHARS = 80
"""Hook names come from outside: this much of one is kept."""


@dataclass(frozen=True, slots=True)
class LedgerAnswer:
    """What the journal said when it was asked for the ledger's totals."""

    files: int = 0
    bytes: int = 0
    error: str | None = None
    """Why it gave none."""
    broken: bool = False
    """Whether the error is damage of the database."""


def view(
    parts: Parts,
    *,
    zdb_alive: bool | None = None,
    ledger: LedgerAnswer | None = None,
    point: RecoveryPoint | None = None,
) -> View:
    """The picture; `zdb_alive`, `ledger` and `point` are None where nobody has asked yet."""
    now = time.time()
    picture: View = {
        "version": __version__,
        "pid": os.getpid(),
        "phase": parts.phase,
        "paused": parts.dispatcher.paused,
        "started_at": parts.started_at,
        "uptime_s": _age(now, parts.started_at),
        "zdb": {
            "address": parts.life.address,
            "running": zdb_alive,
            "started": parts.life.started,
            "closing": parts.life.closing,
            "closed": sorted(parts.life.closed),
        },
        "queue": _queue(parts.scheduler, now),
        "totals": _totals(parts),
        "errors": _errors(parts),
        "store": _store(parts),
        "staging": {
            "bytes": parts.staging.size_bytes,
            "max_bytes": parts.staging.max_bytes,
            "refused": _text(parts.staging.refused),
        },
        "room": {
            "free_bytes": parts.room.free_bytes,
            "keep_free_bytes": parts.room.keep_free_bytes,
            "shut": parts.room.shut,
            "problem": _text(parts.room.problem),
        },
        "spool": _spool(parts),
        "intake": _intake(parts),
        "journal": _journal(parts, ledger),
        "ledger": None if ledger is None or ledger.error else _amount(ledger.files, ledger.bytes),
        "recovery": recovery_view(point, now, unscanned=parts.checkpoints.unscanned),
        "checkpoint": checkpoint_view(parts),
        "fence": {
            "fenced": _text(parts.fence.fenced),
            "lineage": parts.fence.identity.lineage if parts.fence.identity else None,
            "sequence": parts.fence.identity.sequence if parts.fence.identity else None,
            "published_at": parts.fence.published_at,
            "unpublished": parts.fence.unpublished,
            "last_error": _text(parts.publisher.last_error),
        },
        "restore": {
            "waiting": _text(parts.survey.waiting),
            "progress": progress.line() if (progress := parts.survey.restorer.progress) else None,
        },
        "nameless": [scrub(name) for name in parts.leftovers.nameless],
        "held": {name: scrub(reason) for name, reason in sorted(parts.held.items())},
        "retrieve": {
            "running": len(parts.retriever.running),
            "done": parts.retriever.retrieved,
            "arriving": {
                str(key): {"bytes": here, "of": of}
                for key, (here, of) in sorted(parts.retriever.arriving().items(), key=str)
            },
            "failed": parts.retriever.failed,
            "last_error": _text(parts.retriever.last_error),
        },
        "audit": scrubbed(parts.auditor.view()),
        "drain": _drain(parts),
        "notices": [scrub(notice) for notice in parts.notices],
    }
    status, reasons = health(picture)
    picture["health"] = {"status": status, "reasons": reasons}
    return picture


def queue_view(parts: Parts, limit: int, state: str | None = None) -> View:
    """The `limit` jobs that are first in line, of one of STATES or of all."""
    now = time.time()
    chosen: Iterable[Job] = parts.scheduler
    if state is not None:
        chosen = [job for job in parts.scheduler if state_of(job) == state]
    total = len(parts.scheduler) if state is None else len(list(chosen))
    first = heapq.nsmallest(limit, chosen, key=lambda job: (job.turn, job.id))
    rows = [_row(parts, job, now) for job in first]
    return {"rows": rows, "shown": len(rows), "total": total, "state": state}


def state_of(job: Job) -> str:
    """One of STATES."""
    state = job.state
    if state is _PENDING:
        return "blocked" if job.place in _BLOCKED else "pending"
    return "running" if state is _RUNNING else "quarantined"


def _row(parts: Parts, job: Job, now: float) -> View:
    waits_for: FileKey | None = None
    if job.place in _BLOCKED:
        waits_for = parts.scheduler.waits_for(job)
    return {
        "id": job.id,
        "file": str(job.key),
        "state": state_of(job),
        "waits_for": None if waits_for is None else str(waits_for),
        "bytes": job.size_bytes,
        "age_s": _age(now, job.since),
        "attempts": job.attempts,
        "error_class": job.error_class,
        "error": _text(job.error),
        "source": "live" if job.staged is None else "snapshot",
    }


def _queue(jobs: Iterable[Job], now: float) -> View:
    """Counts and bytes by state and by namespace, and the oldest, in one pass.

    Lists instead of records: this runs on the event loop, once for each of perhaps 100,000 jobs.
    """
    states: dict[str, list[int]] = {state: [0, 0] for state in STATES}
    spaces: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    oldest = math.inf
    for job in jobs:
        size, state = job.size_bytes or 0, state_of(job)
        amount, space = states[state], spaces[job.key.namespace]
        amount[0] += 1
        amount[1] += size
        space[0] += 1
        space[1] += size
        if state == "quarantined":
            space[2] += 1
        elif job.since < oldest:
            oldest = job.since
    return {
        **_amount(sum(n for n, _ in states.values()), sum(size for _, size in states.values())),
        "states": {state: _amount(*counted) for state, counted in states.items()},
        "oldest_age_s": None if oldest == math.inf else _age(now, oldest),
        "namespaces": {
            name: {**_amount(files, size), "quarantined": quarantined}
            for name, (files, size, quarantined) in sorted(spaces.items())
        },
    }


def _totals(parts: Parts) -> View:
    counts, tally = parts.dispatcher.counts, parts.admission.tally
    hooks: dict[str, int] = {}
    for name, amount in tally.by_hook.items():
        clean = name.encode("utf-8", "backslashreplace").decode()[:_NAME_CHARS]
        hooks[clean] = hooks.get(clean, 0) + amount
    return {
        "settled_files": counts.settled_files,
        "settled_bytes": counts.settled_bytes,
        "already_there": parts.dispatcher.already_there,
        "superseded": counts.superseded,
        "failed": counts.failed,
        "events": {
            "accepted": tally.accepted,
            "duplicate": tally.duplicate,
            "refused": tally.refused,
            "unknown": tally.unknown,
            "held": tally.held,
            "deferred": tally.deferred,
            "last_at": parts.admission.last_event_at,
            "by_hook": hooks,
        },
    }


def _errors(parts: Parts) -> View:
    counts = parts.dispatcher.counts
    return {
        name: {"count": amount, "last": _text(counts.last_error.get(name))}
        for name, amount in sorted(counts.errors.items())
    }


def _store(parts: Parts) -> View:
    known = parts.dispatcher.store_state
    down = known.down_since is not None
    state = "down" if down else "up" if known.last_success is not None else "unknown"
    return {
        "kind": parts.store.kind,
        "state": state,
        "down_since": known.down_since,
        "down_s": None if known.down_since is None else _age(time.time(), known.down_since),
        "failures": known.failures,
        "last_error": _text(known.last_error),
        "last_success": known.last_success,
        "next_try_in_s": max(0.0, known.next_try - time.monotonic()) if down else None,
        "blind": None if parts.blind is None else scrubbed(parts.blind.view()),
    }


def _spool(parts: Parts) -> View:
    waiting, problem = 0, None
    try:
        waiting = parts.spool.waiting()
    except OSError as error:  # the folder is gone; shims say 111 meanwhile, and log it
        problem = f"{parts.spool.folder}: {error.strerror}"
    return {
        "waiting": waiting,
        "bad": parts.spool.bad_files(),
        "taken": parts.spool.taken,
        "folder": str(parts.spool.folder),
        "problem": _text(problem),
        "elsewhere": {one_line(folder): n for folder, n in parts.leftovers.elsewhere.items()},
    }


def _intake(parts: Parts) -> View:
    counts = parts.intake.counts
    return {
        "connections": counts.accepted,
        "open": parts.intake.open,
        "refused_peer": counts.refused_peer,
        "bad_frame": counts.bad_frame,
        "slow": counts.slow,
        "vanished": counts.vanished,
    }


def _journal(parts: Parts, ledger: LedgerAnswer | None) -> View:
    """Its state, and the damaged databases that were moved aside and wait to be looked at."""
    path = parts.config.journal.path
    error = parts.journal.last_error or (ledger.error if ledger else None)
    broken = ledger is not None and ledger.broken
    try:
        beside = os.listdir(path.parent)
    except OSError:
        beside = []
    start = f"{path.name}.corrupt-"
    copies = {name for name in beside if name.startswith(start) and not name.endswith("-shm")}
    # a log that was left without its database is all there is of it
    damaged = {name for name in copies if name.removesuffix("-wal") not in copies - {name}}
    return {
        "path": str(path),
        "state": "broken" if broken else "error" if error else "ok",
        "last_error": _text(error),
        "damaged_copies": sorted(str(path.with_name(name)) for name in damaged),
    }


def _drain(parts: Parts) -> View | None:
    if parts.drain is None or (progress := parts.drain.progress) is None:
        return None
    return {
        "files_done": progress.files_done,
        "bytes_done": progress.bytes_done,
        "files_left": progress.files_left,
        "bytes_left": progress.bytes_left,
        "elapsed_s": progress.elapsed_s,
        "rate_bytes_s": progress.rate_bytes_s,
        "eta_s": progress.eta_s,
        "waiting_for": progress.waiting_for,
    }


def _amount(files: int, size: int) -> View:
    return {"files": files, "bytes": size}


def _age(now: float, then: float) -> float:
    """Seconds since then; the clock of the wall may have been set back."""
    return max(0.0, now - then)


def scrubbed(value: Any) -> Any:
    """Every text in it without secrets."""
    if isinstance(value, dict):
        return {name: scrubbed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [scrubbed(inner) for inner in value]
    return scrub(value) if isinstance(value, str) else value


def _text(text: str | None) -> str | None:
    return None if text is None else scrub(text)
