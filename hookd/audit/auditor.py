"""Stage audit in the daemon: when it runs, what was asked for, and the alarms that stay.

One audit at a time: one at the start (after the first scan), one each `interval_s` after the last, and
those that are asked for, which take the place of one that the timer began. One that could not be finished
(the store was away) is begun again after AGAIN_S.

Never in the way: it is one question to the store at a time and worker, none while zdb waits for a data
file, few while files are being stored, and none once a drain has begun.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from hookd.audit.finding import (
    Alarm,
    Covered,
    Problem,
    from_meta,
    merge,
    to_meta,
)
from hookd.audit.local import Against
from hookd.audit.run import Run, Scope
from hookd.audit.world import in_quarantine
from hookd.dispatcher import Dispatcher
from hookd.errors import JournalError
from hookd.files import FileKey, Roots
from hookd.journal import Job, Journal, LedgerEntry
from hookd.log import get
from hookd.scheduler import Scheduler
from hookd.stores.base import Store

log = get("audit")

AGAIN_S = 300.0
"""After one that could not be finished."""

KEPT_RUNS = 8
"""Whose outcome can still be asked for."""

MAX_WAITING = 8
SHOWN_ALARMS = 100
"""In status; `hookd verify` names the rest."""

PATIENCE_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses between tries of a store that cannot be reached: it may be no more than a restart of it."""

SERIAL_PAUSE_S = 0.02
"""Between two questions to a serial store while files are stored through it."""


class TooMany(Exception):
    """MAX_WAITING audits wait already."""


@dataclass(kw_only=True)
class DaemonWorld:
    """`World` over the daemon's stages."""

    roots: Roots
    store: Store
    journal: Journal
    scheduler: Scheduler
    dispatcher: Dispatcher
    skip: Collection[str]
    held: Mapping[str, str]
    private: Path
    limit_s: Callable[[int], float]
    is_undecided: Callable[[], bool]
    look: Callable[[], Awaitable[Sequence[FileKey]]]
    """Scans, and returns what it queued."""
    retrieving: Callable[[], bool]
    """Whether zdb waits for a data file."""
    is_ours: Callable[[], Awaitable[bool]]
    """Asks the store whether it is ours (`Fence.still_ours`)."""
    hear: Callable[[], Awaitable[None]]
    """Waits until all that zdb has announced is known."""
    noted: Callable[[], None] = lambda: None
    """Told that the ledger has entries that no job settled: the manifest has to name them."""
    patience_s: Sequence[float] = PATIENCE_S
    repairs: bool = True

    def time_limit_s(self, size_bytes: int) -> float:
        """See `World`."""
        return self.limit_s(size_bytes)

    async def ours(self) -> bool:
        """See `World`."""
        return await self.is_ours()

    def undecided(self) -> bool:
        """See `World`."""
        return self.is_undecided()

    def covers(self, key: FileKey) -> bool:
        """See `World`."""
        return self.scheduler.covers(key)

    def owed(self) -> int:
        """See `World`."""
        return len(self.scheduler)

    def quarantined(self) -> Sequence[tuple[FileKey, str]]:
        """See `World`."""
        return in_quarantine(self.scheduler)

    async def heard(self) -> None:
        """See `World`."""
        await self.hear()

    async def scan(self) -> Sequence[FileKey]:
        """See `World`."""
        return await self.look()

    async def totals(self) -> tuple[int, int]:
        """See `World`."""
        return await self.journal.ledger_totals()

    async def page(self, after: str, limit: int, prefix: str) -> list[LedgerEntry]:
        """See `World`."""
        return await self.journal.ledger_page(after, limit, prefix)

    async def find(self, key: FileKey) -> LedgerEntry | None:
        """See `World`."""
        return await self.journal.find_ledger(key)

    async def queue(self, job: Job) -> None:
        """See `World`."""
        await self.journal.add_jobs([job])
        self.dispatcher.enqueue([job])

    async def note(self, entries: Sequence[LedgerEntry]) -> None:
        """See `World`."""
        await self.journal.note_found(entries)
        for entry in entries:
            known = await self.journal.find_ledger(entry.key)
            if known == entry:
                self.scheduler.remote(entry.key, entry.size_bytes, sealed=entry.sealed)
        self.noted()

    async def stale(self, key: FileKey) -> bytes | None:
        """See `World`."""
        return (await self.journal.retired()).get(key)

    async def disown(self, found: Mapping[FileKey, bytes]) -> None:
        """See `World`."""
        await self.journal.disown(found)
        self.noted()

    async def turn(self) -> None:
        """See `World`."""
        while self.retrieving():  # noqa: ASYNC110 it ends by itself, and soon
            await anyio.sleep(0.01)
        if self.dispatcher.running and self.store.concurrency == 1:
            await anyio.sleep(SERIAL_PAUSE_S)


class Auditor:
    """Runs audits until cancelled. Made at the start with the journal's `meta`."""

    def __init__(
        self, world: DaemonWorld, *, interval_s: float | None, meta: Mapping[str, object]
    ) -> None:
        """`interval_s` None: only at the start and when asked."""
        self._world = world
        self._interval_s = interval_s
        self._against = Against(world.roots)
        self._scanned = anyio.Event()
        self._asked = anyio.Event()
        self._waiting: list[tuple[int, Scope]] = []
        self._also_at: list[float] = []
        """Moments of the monotonic clock at which one is due, beside the interval."""
        self._runs: dict[int, Run] = {}
        self._serial = 0
        self._current: int | None = None
        self._timed = False
        """Whether the current one was begun by the timer."""
        self._scope = anyio.CancelScope()
        self._stopped = False
        self.alarms: list[Alarm] = from_meta(meta)
        """What no audit has found mended."""
        complete = meta.get("audited_at")
        self.complete_at = float(complete) if isinstance(complete, int | float) else None
        """Unix seconds of the end of the last one that looked at everything."""
        self.counts = {"done": 0, "incomplete": 0, "cancelled": 0}

    # -- what others ask for -----------------------------------------------------------------------

    def scanned(self) -> None:
        """The first scan is done: the audit of the start may begin. Idempotent."""
        self._scanned.set()

    def also_in(self, seconds: float) -> None:
        """Have one run so long from now, whatever the interval."""
        self._also_at.append(time.monotonic() + seconds)
        self._asked.set()

    def request(self, scope: Scope) -> int:
        """Have one run soon; returns its number. Raises TooMany.

        One that waits already and looks at the same serves both; one that runs may have passed what was
        mended since.
        """
        for number, waiting in self._waiting:
            if waiting == scope:
                return number
        if len(self._waiting) >= MAX_WAITING or self._stopped:
            raise TooMany
        self._serial += 1
        self._waiting.append((self._serial, scope))
        self._asked.set()
        if self._timed:
            self._scope.cancel()
        return self._serial

    def cancel(self, number: int) -> bool:
        """Give one up; whether it was waiting or running."""
        for waiting in self._waiting:
            if waiting[0] == number:
                self._waiting.remove(waiting)
                return True
        if self._current == number:
            self._scope.cancel()
            return True
        return False

    def stop(self) -> None:
        """A drain has begun: what waits, and what runs, is given up."""
        self._stopped = True
        self._waiting.clear()
        self._scope.cancel()

    def report(self, number: int) -> dict[str, Any] | None:
        """How far one is and what it found, None for one that is not known."""
        run = self._runs.get(number)
        if run is None:
            waits = any(waiting[0] == number for waiting in self._waiting)
            return {"run": number, "state": "waiting"} if waits else None
        rows = [
            {
                "file": str(each.key),
                "problem": each.problem.value,
                "detail": each.detail,
                "alarm": each.alarm,
            }
            for each in run.progress.findings
        ]
        return {
            "run": number,
            "namespace": run.scope.namespace,
            "deep": run.scope.deep,
            **run.progress.view(),
            "findings": rows,
        }

    def view(self) -> dict[str, Any]:
        """For status: plain data."""
        run = self._runs.get(self._current) if self._current is not None else None
        problems: dict[str, int] = {each.value: 0 for each in Problem}
        for alarm in self.alarms:
            problems[alarm.finding.problem.value] += 1
        rows = [
            {
                "file": str(alarm.finding.key),
                "problem": alarm.finding.problem.value,
                "detail": alarm.finding.detail,
                "since": alarm.since,
            }
            for alarm in self.alarms[:SHOWN_ALARMS]
        ]
        return {
            "running": None if run is None else run.progress.view(),
            "complete_at": self.complete_at,
            "runs": dict(self.counts),
            "alarms": rows,
            "alarm_files": len(self.alarms),
            "problems": {name: amount for name, amount in problems.items() if amount},
        }

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        await self._scanned.wait()
        next_at: float | None = time.monotonic()
        scope = Scope(scan=False)
        while True:
            self._asked = anyio.Event()
            due = [at for at in (next_at, *self._also_at) if at is not None]
            due_at = min(due, default=None)
            if not self._waiting and (due_at is None or time.monotonic() < due_at):
                wait_s = 86_400.0 if due_at is None else due_at - time.monotonic()
                with anyio.move_on_after(max(0.0, wait_s)):
                    await self._asked.wait()
                continue
            timed = not self._waiting
            if timed:
                self._serial += 1
                number, chosen = self._serial, scope
            else:
                number, chosen = self._waiting.pop(0)
            began = time.monotonic()
            state = await self._execute(number, chosen, timed=timed)
            if state == "done":
                self._also_at = [at for at in self._also_at if at > began]
            whole = chosen.namespace is None and state == "done"
            if timed or whole:
                scope = Scope()
                pause_s = self._interval_s if whole else min(AGAIN_S, self._interval_s or AGAIN_S)
                next_at = None if pause_s is None else time.monotonic() + pause_s

    async def _execute(self, number: int, scope: Scope, *, timed: bool) -> str:
        """One audit; how it ended."""
        run = Run(self._world, scope, against=self._against)
        self._runs[number] = run
        for old in sorted(self._runs)[:-KEPT_RUNS]:
            del self._runs[old]
        self._current, self._timed = number, timed
        progress = run.progress
        try:
            with anyio.CancelScope() as self._scope:
                if self._stopped:
                    self._scope.cancel()
                await run.execute()
        except OSError as error:  # a disk that errs for a moment: looked at again
            log.error("audit failed", error=str(error))
            progress.state, progress.error = "incomplete", str(error)
        except Exception as error:  # a fault of ours in one audit must not end the daemon
            log.exception("internal error", exc_info=error)
            progress.state, progress.error = "incomplete", f"internal error: {error!r}"
        finally:
            self._current, self._timed = None, False
        if self._scope.cancelled_caught:
            progress.state = "cancelled"
        self.counts[progress.state] += 1
        log.info(
            "audited",
            state=progress.state,
            deep=scope.deep,
            files=progress.files_done,
            wrong=progress.wrong,
            queued=progress.queued,
            noted=progress.noted,
            seconds=round(max(0.0, (progress.ended or time.time()) - progress.began), 3),
            error=progress.error,
        )
        await self._keep(run)
        return progress.state

    async def _keep(self, run: Run) -> None:
        """Alarms and when: in the journal, so that they survive a restart."""
        progress, now = run.progress, time.time()
        covered = progress.covered
        if progress.wrong > len(progress.findings):
            covered = Covered()  # what is not listed cannot be told from what is mended
        anew = {
            alarm.finding.key
            for alarm in self.alarms
            if alarm.finding.problem is Problem.ROTTEN and await self._stored_since(alarm)
        }
        self.alarms, new, mended = merge(
            self.alarms, progress.findings, covered, now, stored_since=anew
        )
        for alarm in new:
            finding = alarm.finding
            log.error(
                "alarm",
                file=str(finding.key),
                problem=finding.problem.value,
                detail=finding.detail,
            )
        for alarm in mended:
            log.info("mended", file=str(alarm.finding.key), problem=alarm.finding.problem.value)
        if progress.state == "done" and run.scope.namespace is None:
            self.complete_at = now
        try:
            await self._world.journal.set_meta("alarms", to_meta(self.alarms))
            await self._world.journal.set_meta("audited_at", self.complete_at)
        except JournalError as error:
            log.error("alarms not kept", error=str(error))

    async def _stored_since(self, alarm: Alarm) -> bool:
        """Whether what was found rotten has been stored anew, or is nobody's any more."""
        try:
            entry = await self._world.journal.find_ledger(alarm.finding.key)
        except JournalError:
            return False
        return entry is None or entry.stored_at > alarm.since
