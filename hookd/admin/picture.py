"""The newest view, and what has to be waited for to make one: zdb and the ledger.

However many ask, looking costs the event loop a bounded share of its time: what was found is used
again while it is younger than a multiple of what it cost.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread

from hookd.admin.view import LedgerAnswer, View, view
from hookd.errors import JournalCorrupt, JournalError
from hookd.recovery_point import Files, RecoveryPoint, look, owed

if TYPE_CHECKING:
    from hookd.parts import Parts

CHEAP_S = 0.005
"""A view that cost less is never used again: whoever asks hears what holds now."""

VIEW_SHARE = 0.1
"""At most this part of the event loop's time goes into those that cost more."""

LEDGER_SHARE = 0.002
"""At most this part of it goes into counting the ledger (20 ms for 100,000 files)."""

POINT_SHARE = 0.05
"""At most this part of all time goes into the recovery point (0.5 s for 100,000 files, of which 40 ms are
the event loop's)."""

ZDB_EVERY_S = 2.0
ANSWER_WITHIN_S = 2.0
"""A journal (or a /proc) that does not answer by then is reported so, not waited for."""


class AsksZdb(Protocol):
    """The daemon, as far as it is needed here."""

    async def zdb_runs(self) -> bool:
        """Whether zdb runs, as far as can be seen."""
        ...


class Picture:
    """Makes views on the event loop; single flight."""

    def __init__(self, parts: Parts, daemon: AsksZdb) -> None:
        self._parts = parts
        self._daemon = daemon
        self._lock = anyio.Lock()
        self._view: View | None = None
        self._view_until = 0.0
        self._zdb: bool | None = None
        self._zdb_until = 0.0
        self._ledger: LedgerAnswer | None = None
        self._ledger_until = 0.0
        self._files = Files(parts.roots)
        self._point: RecoveryPoint | None = None
        self._point_until = 0.0
        self._ledger_of = -1
        """How many files were settled when the ledger was counted."""

    async def look(self) -> View:
        """The view of now, or of a moment ago where the queue is long."""
        async with self._lock:
            if self._view is not None and time.monotonic() < self._view_until:
                return self._view
            await self._ask_zdb()
            await self._ask_ledger()
            await self._ask_point()
            began = time.monotonic()
            self._view = view(
                self._parts, zdb_alive=self._zdb, ledger=self._ledger, point=self._point
            )
            ended = time.monotonic()
            if (cost_s := ended - began) > CHEAP_S:
                self._view_until = ended + cost_s / VIEW_SHARE
            return self._view

    def forget(self) -> None:
        """Something was changed: the next look is a new one."""
        self._view_until = self._point_until = 0.0

    async def _ask_zdb(self) -> None:
        if time.monotonic() < self._zdb_until:
            return
        self._zdb = None
        with anyio.move_on_after(ANSWER_WITHIN_S):
            self._zdb = await self._daemon.zdb_runs()
            await self._parts.leftovers.look()
        self._zdb_until = time.monotonic() + ZDB_EVERY_S

    async def _ask_ledger(self) -> None:
        settled = self._parts.dispatcher.counts.settled_files
        began = time.monotonic()
        if began < self._ledger_until or (settled == self._ledger_of and not self._unsure()):
            return
        answer = LedgerAnswer(error=f"no answer within {ANSWER_WITHIN_S:g} s")
        try:
            with anyio.move_on_after(ANSWER_WITHIN_S):
                answer = LedgerAnswer(*await self._parts.journal.ledger_totals())
        except JournalError as error:
            answer = LedgerAnswer(error=str(error), broken=isinstance(error, JournalCorrupt))
        self._ledger, self._ledger_of = answer, settled
        ended = time.monotonic()
        self._ledger_until = ended + (ended - began) / LEDGER_SHARE

    async def _ask_point(self) -> None:
        """The pass over the queue is made here, the looking into folders in a thread."""
        began = time.monotonic()
        if began < self._point_until:
            return
        parts, now = self._parts, time.time()
        skip, held = {*parts.config.zdb.skip_namespaces}, {*parts.held}
        known = owed(parts.scheduler, parts.scheduler, skip | held)
        work = partial(look, self._files, parts.scheduler, known, skip=skip, held=held, now=now)
        self._point = None
        with anyio.move_on_after(ANSWER_WITHIN_S):
            self._point = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        ended = time.monotonic()
        if (cost_s := ended - began) > CHEAP_S:
            self._point_until = ended + cost_s / POINT_SHARE

    def _unsure(self) -> bool:
        """Whether the journal failed lately, so that asking it again tells something new."""
        failed = self._ledger is not None and self._ledger.error is not None
        return failed or self._parts.journal.last_error is not None
