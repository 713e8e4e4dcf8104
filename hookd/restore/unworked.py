"""Giving up jobs where nobody works on them (`hookd restore` without a daemon): see `Departures`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hookd.journal import Job, JobState, Journal
from hookd.log import get
from hookd.scheduler import Scheduler

log = get("survey")


@dataclass(frozen=True, slots=True)
class Unworked:
    """Jobs that no dispatcher has."""

    journal: Journal
    scheduler: Scheduler

    async def disown(self, namespace: str, reason: str) -> None:
        """All of a namespace. Raises JournalError."""
        jobs = [job for job in self.scheduler if job.key.namespace == namespace]
        await self._withdraw(jobs, reason)

    async def forsake(self, reason: str, spare: Collection[str]) -> None:
        """All that have a frozen copy, but for those of `spare`. Raises JournalError."""
        jobs = [
            job
            for job in self.scheduler
            if job.staged is not None and job.key.namespace not in spare
        ]
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
