"""Rows of the journal as typed values; states with their meaning."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hookd.files import FileKey


class JobState(enum.StrEnum):
    """Where one file's way into the store stands."""

    PENDING = "pending"
    """Waits for its turn, its data files, a retry or the store."""
    RUNNING = "running"
    """A worker has it. After a crash: pending again."""
    SETTLED = "settled"
    """Stored, and the store's own checksum was the same as ours."""
    SUPERSEDED = "superseded"
    """A newer snapshot of the same file took its place."""
    QUARANTINED = "quarantined"
    """No retry helps until somebody acts: `hookd retry` or `hookd skip`."""
    WITHDRAWN = "withdrawn"
    """zdb removed the namespace, or the administrator skipped it, and the row says which."""


OPEN_STATES = (JobState.PENDING, JobState.RUNNING, JobState.QUARANTINED)
"""The states in which a promise is still owed."""


class Outcome(enum.StrEnum):
    """What became of an event as such; its files have jobs of their own."""

    ACCEPTED = "accepted"
    """Understood; what it causes is in the jobs of the same transaction."""
    UNKNOWN = "unknown"
    """A hook that this version does not know: kept, answered 0."""
    HELD = "held"
    """Its namespace takes no stores (its local files were judged bogus): kept, visible."""
    REFUSED = "refused"
    """A path outside the roots or arguments zdb never sends: kept, answered 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One hook call as it is kept."""

    event_id: bytes
    """16 random bytes from the shim: the same call is never done twice."""
    argv: tuple[str, ...]
    cwd: str
    received_at: float
    """Unix seconds, for people; nothing is ordered by it."""
    origin: str
    """`socket` or `spool`."""
    outcome: Outcome
    note: str = ""
    """Why it was refused."""
    answer: int | None = None
    """The exit code given, or None while a blocking event is being worked on."""


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One file content on its way into the store. Only the journal's owner changes one."""

    key: FileKey
    id: int = 0
    """Row id, ascending in the order of acknowledgement; 0 before the commit."""
    event: int = 0
    """The event's row, 0 for a job that a scan made."""
    turn: int = 0
    """Its place in the line: the id, or that of the oldest job it superseded."""
    since: float = 0.0
    """Unix seconds of the oldest unstored content it stands for, for people."""
    state: JobState = JobState.PENDING
    staged: str | None = None
    """Snapshot, relative to the staging folder; None: the live file."""
    freeze: bool = False
    """Whether the live file must be frozen before it is stored (no room at the time)."""
    begun: int = 0
    """When the reading of its content began, on the journal's count (`Journal.begin`); before that: when
    it was owed. Of two contents of one file that with the higher number is newer. 0 before the commit."""
    size_bytes: int | None = None
    digest: bytes | None = None
    """BLAKE2b-128 of the snapshot; None until the live file was read."""
    sealed: bool = False
    needs: int | None = None
    """Data files of the namespace up to this number go first."""
    needs_bytes: int = 0
    """The length of data file `needs` when the snapshot was made."""
    ask_first: bool = False
    """Whether the store may have it already (a scan's job): compare before uploading."""
    attempts: int = 0
    error_class: str | None = None
    error: str | None = None
    content: bytes | None = None
    """A small snapshot's bytes, until the journal has taken them."""
    place: str = ""
    """Not durable: which of the scheduler's lists holds it."""
    queued_at: float = 0.0
    """Not durable: monotonic seconds of `since`, or of the start."""
    due: float = 0.0
    """Not durable: the end of its backoff, monotonic seconds, while `place` is `later`."""
    refusals: int = 0
    """Not durable: permanent errors in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One file that is proven remote."""

    key: FileKey
    size_bytes: int
    digest: bytes
    stored_at: float
    """Unix seconds."""
    sealed: bool
    job: int = 0
    """The job that proved it."""
    begun: int = 0
    """`Job.begun` of that content; a job with a lower one holds older content. 0: nobody here read it."""
