"""What is durable: events, jobs and the ledger, in SQLite."""

from hookd.journal.connection import connect
from hookd.journal.journal import Journal
from hookd.journal.records import (
    OPEN_STATES,
    EventRow,
    Job,
    JobState,
    LedgerEntry,
    Outcome,
)

__all__ = [
    "OPEN_STATES",
    "EventRow",
    "Job",
    "JobState",
    "Journal",
    "LedgerEntry",
    "Outcome",
    "connect",
]
