"""What an audit looks at and may do: the same run serves the daemon and a command without one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hookd.files import FileKey, Roots
from hookd.journal import Job, JobState, LedgerEntry
from hookd.scheduler import Scheduler
from hookd.stores.base import Store


class World(Protocol):
    """Made by `auditor` and by `offline`."""

    roots: Roots
    store: Store
    skip: Collection[str]
    """Namespaces of which nothing is stored."""
    held: Mapping[str, str]
    """Namespaces whose local files were judged bogus: not looked at here."""
    private: Path
    """Where a deep audit makes its private folder."""
    repairs: bool
    """Whether what it queues is really stored."""
    patience_s: Sequence[float]
    """Pauses between tries of a store that cannot be reached."""

    def time_limit_s(self, size_bytes: int) -> float:
        """Seconds that a store may take for a file of this size."""
        ...

    async def ours(self) -> bool:
        """Whether the store is ours now, and was compared with what is here. Raises StoreError."""
        ...

    def undecided(self) -> bool:
        """Whether local files are being made or restored, so that they say nothing yet."""
        ...

    def covers(self, key: FileKey) -> bool:
        """Whether an open job stands for the file: then neither ledger nor store is up to date."""
        ...

    def owed(self) -> int:
        """Files on their way to the store."""
        ...

    def quarantined(self) -> Sequence[tuple[FileKey, str]]:
        """(file, why) of those that are not stored before somebody decides."""
        ...

    async def heard(self) -> None:
        """Wait until all that zdb has announced so far is known."""
        ...

    async def scan(self) -> Sequence[FileKey]:
        """Look for files that nobody announced; returns those that were not stored. Those that the
        store turns out to have need not be among them."""
        ...

    async def totals(self) -> tuple[int, int]:
        """(files, bytes) of the ledger."""
        ...

    async def page(self, after: str, limit: int, prefix: str) -> list[LedgerEntry]:
        """Ledger entries whose key begins with `prefix` and comes after `after`, in the order of keys
        as text, at most `limit`. Raises JournalError."""
        ...

    async def find(self, key: FileKey) -> LedgerEntry | None:
        """One ledger entry, as it is now."""
        ...

    async def queue(self, job: Job) -> None:
        """Have the file stored."""
        ...

    async def note(self, entries: Sequence[LedgerEntry]) -> None:
        """Ledger entries for what the store has and the ledger does not know."""
        ...

    async def stale(self, key: FileKey) -> bytes | None:
        """The digest of what is known to be nobody's under that key in the store."""
        ...

    async def disown(self, found: Mapping[FileKey, bytes]) -> None:
        """What the store has under these keys, with these digests, is nobody's."""
        ...

    async def turn(self) -> None:
        """Wait until the store may be asked without being in anybody's way."""
        ...


def in_quarantine(scheduler: Scheduler) -> list[tuple[FileKey, str]]:
    """`World.quarantined` of a queue."""
    return [
        (job.key, job.error or "nobody knows why")
        for job in scheduler
        if job.state is JobState.QUARANTINED
    ]
