"""Looks for files that no hook announced, in the background and when asked; knows when a look is owed.

In: the roots, ledger and line; out: jobs in the journal and in line. The invariant: a scan that was asked
for is owed until one that began later has looked, and nothing of a zdb that still loads is taken in.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from hookd import scan, zdb
from hookd.errors import JournalError
from hookd.files import FileKey
from hookd.journal import Job
from hookd.log import get

if TYPE_CHECKING:
    from hookd.parts import Parts

log = get("daemon")

AGAIN_S = 5.0
"""Between two tries of a scan that failed: a disk or a journal may be away for a moment."""


class Scanner:
    """One for a daemon; `parts` are put in once they are assembled."""

    parts: Parts

    def __init__(self) -> None:
        self._wanted = anyio.Event()
        self._asked = self._met = 0
        """How many scans were asked for; up to which of these one has looked since."""

    def ask(self) -> None:
        """Look for unannounced files soon."""
        self._asked += 1
        self._wanted.set()

    def owed(self) -> bool:
        """Whether files may have changed of which no hook will come, and no scan has looked since."""
        return self._met < self._asked or self._starting

    @property
    def _starting(self) -> bool:
        """Whether zdb loads its files, and nobody has judged yet whether those may be stored."""
        return self.parts.life.started and self.parts.survey.undecided

    async def run(self) -> None:
        """Scan whenever it was asked for, until cancelled; one that fails is made again."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            try:
                await self.parts.leftovers.look()
                await self.scan(with_active=not await self.zdb_runs())
                self.parts.auditor.scanned()
            except (JournalError, OSError) as error:
                log.error("scan failed", error=str(error))
                with anyio.move_on_after(AGAIN_S):
                    await self._wanted.wait()
                self._wanted.set()

    async def zdb_runs(self) -> bool:
        """Whether zdb runs, as far as can be seen."""
        parts = self.parts
        return await anyio.to_thread.run_sync(
            zdb.runs, parts.life, (parts.roots.index, parts.roots.data), abandon_on_cancel=True
        )

    async def zdb_may_run(self) -> bool:
        """Whether zdb runs, or anybody listens where it did: files are not changed under it."""
        parts = self.parts
        return await anyio.to_thread.run_sync(
            zdb.may_run, parts.life, (parts.roots.index, parts.roots.data), abandon_on_cancel=True
        )

    async def for_audit(self) -> list[FileKey]:
        """Scan now; the files that nobody had announced. Raises JournalError, OSError."""
        return [job.key for job in await self.scan(with_active=not await self.zdb_runs())]

    async def count(self, with_active: bool) -> int:
        """As `scan`; how many files nobody had announced."""
        return len(await self.scan(with_active=with_active))

    async def scan(self, *, with_active: bool) -> list[Job]:
        """Jobs for files that no hook announced, put in line. Raises JournalError, OSError."""
        parts = self.parts
        if not with_active and self._starting:
            return []
        asked = self._asked
        newest = max((job.id for job in parts.scheduler), default=0)
        ledger = {entry.key: entry for entry in await parts.journal.ledger()}
        # A look that is given up goes on in its thread, and reads only.
        look = partial(
            scan.unannounced,
            parts.roots,
            ledger,
            parts.scheduler,
            skip={*parts.config.zdb.skip_namespaces, *parts.held},
            with_active=with_active,
        )
        skipped = parts.dispatcher.departures.skips.still
        jobs = await anyio.to_thread.run_sync(
            lambda: [job for job in look() if not skipped(job.key)], abandon_on_cancel=True
        )
        # What was announced while the scan looked stands for the file.
        jobs = [job for job in jobs if all(o.id <= newest for o in parts.scheduler.of(job.key))]
        if jobs:
            await parts.journal.add_jobs(jobs)
            log.warning("files that no hook announced", files=len(jobs))
            parts.dispatcher.enqueue(jobs)
        await parts.dispatcher.departures.look_again()
        self._met = max(self._met, asked)
        return jobs

    async def unstored(self, namespaces: Collection[str]) -> dict[str, int]:
        """See Leftovers."""
        ledger = {entry.key: entry for entry in await self.parts.journal.ledger()}
        work = partial(scan.unstored, self.parts.roots, ledger, namespaces)
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
