"""Giving up jobs where nobody works on them (`hookd restore` without a daemon): see `Departures`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from hookd.errors import JournalUnavailable
from hookd.journal import Job, JobState, Journal
from hookd.log import get
from hookd.orphans import keep_copies
from hookd.scheduler import Scheduler

log = get("survey")


@dataclass(frozen=True, slots=True)
class Unworked:
    """Jobs that no dispatcher has."""

    journal: Journal
    scheduler: Scheduler
    staging: Path

    async def disown(self, namespace: str, reason: str) -> None:
        """All of a namespace. Raises JournalError."""
        jobs = [job for job in self.scheduler if job.key.namespace == namespace]
        await self._withdraw(jobs, reason)

    async def forsake(self, reason: str, spare: Collection[str]) -> None:
        """All that have a frozen copy, but for those of `spare`; the copies are kept first. Raises
        JournalError, also where they cannot be kept.
        """
        jobs = [job for job in self.scheduler if job.staged and job.key.namespace not in spare]
        copies = [job.staged for job in jobs if job.staged]
        try:
            await anyio.to_thread.run_sync(keep_copies, self.staging, copies)
        except OSError as error:
            raise JournalUnavailable(f"snapshots cannot be kept: {error}") from error
        await self._withdraw(jobs, reason)

    async def _withdraw(self, jobs: Sequence[Job], reason: str) -> None:
        """Their copies lie in the staging folder until the next daemon looks through it."""
        if not jobs:
            return
        await self.journal.move([job.id for job in jobs], JobState.WITHDRAWN, reason)
        for job in jobs:
            job.state = JobState.WITHDRAWN
            self.scheduler.finished(job)
            log.warning("withdrawn", file=str(job.key), reason=reason)
