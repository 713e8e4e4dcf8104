"""Whether the pipeline moves, and what it does in words: for the service manager's watchdog.

`why_stuck` is pure. The event loop says by answering at all that it lives, and so does the journal's
disk, for commits run on the loop. Trouble that a restart does not mend is not "stuck": a store that
is down (somebody probes it again at a known time), a pause, a zdb that does not stop, quarantined
files. A journal that refuses to be written counts only after a while: a full disk stays full, but one
that was mounted anew is written again after a restart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from hookd.admin.words import count, duration, one_line, size
from hookd.errors import JournalError, PathRefused
from hookd.files import FileKey
from hookd.journal.records import JobState
from hookd.log import get, scrub
from hookd.notify import Notify

if TYPE_CHECKING:
    from hookd.parts import Parts

log = get("pulse")

PULSE_S = 5.0
"""How often the status changes, at most."""

EXTEND_S = 60.0
"""What each pulse of a start or drain asks for beyond now."""

SLACK_S = 30.0
"""A loaded machine is late."""

JOURNAL_PATIENCE_S = 600.0
OPERATIONS = 3
"""Reading and freezing, storing, comparing: each may take a file's time limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What one look found; times are monotonic seconds."""

    now: float
    journal_fails_since: float | None
    """None: a commit has just gone through."""
    looks_again_at: float
    """When the dispatcher said that it would look at the line again, at the latest."""
    running: int
    """Files under way."""
    moved_at: float
    """When one last started or ended."""
    limit_s: float
    """The longest that one operation on one of them may take."""


def why_stuck(signs: Signs) -> str | None:
    """Why a restart is better than waiting on, or None while the pipeline moves."""
    since = signs.journal_fails_since
    if since is not None and signs.now - since > JOURNAL_PATIENCE_S:
        return f"the journal could not be written for {duration(signs.now - since)}"
    if signs.now > signs.looks_again_at + SLACK_S:
        return f"the dispatcher is {duration(signs.now - signs.looks_again_at)} late"
    idle_s = signs.now - signs.moved_at
    if signs.running and idle_s > OPERATIONS * signs.limit_s + SLACK_S:
        return f"{count(signs.running, 'file')} under way, and nothing moved for {duration(idle_s)}"
    return None


class Pulse:
    """Looks every few seconds and tells the service manager."""

    def __init__(self, parts: Parts, notify: Notify) -> None:
        self._parts = parts
        self._notify = notify
        self.starting = True
        """Until the caller says otherwise, each pulse asks for more time to start."""
        self._fails_since: float | None = None
        self._said = ""
        self._stuck: str | None = None

    async def run(self) -> None:
        """Until cancelled; at once over where nobody listens."""
        if not self._notify.active:
            return
        watchdog_s = self._notify.watchdog_s
        every_s = PULSE_S if watchdog_s is None else min(PULSE_S, watchdog_s / 3)
        due = time.monotonic()
        while True:
            self._look()
            if watchdog_s is not None and time.monotonic() >= due:
                due = time.monotonic() + watchdog_s / 3 - every_s / 2
                await self._guard()
            self._tell()
            await anyio.sleep(every_s)

    def _look(self) -> None:
        stuck = why_stuck(self._signs())
        if stuck is not None and stuck != self._stuck:
            log.error("the pipeline does not move", reason=stuck)
        self._stuck = stuck
        if stuck is None and (self.starting or self._parts.phase != "running"):
            self._notify.extend(EXTEND_S)

    async def _guard(self) -> None:
        """WATCHDOG=1, if all moves."""
        await self._try_journal()
        if self._stuck is None:
            self._notify.watchdog()

    async def _try_journal(self) -> None:
        """A commit of its own: with nothing to do there would be none."""
        try:
            await self._parts.journal.set_meta("pulse", round(time.time()))
        except JournalError:
            if self._fails_since is None:
                self._fails_since = time.monotonic()
        else:
            self._fails_since = None

    def _signs(self) -> Signs:
        parts, dispatcher = self._parts, self._parts.dispatcher
        sizes = [self._size(job.key) for job in parts.scheduler if job.state is JobState.RUNNING]
        return Signs(
            now=time.monotonic(),
            journal_fails_since=self._fails_since,
            looks_again_at=dispatcher.looks_again_at,
            running=dispatcher.running,
            moved_at=dispatcher.moved_at,
            limit_s=parts.config.store.time_limit_s(max(sizes, default=0)),
        )

    def _size(self, key: FileKey) -> int:
        try:
            return self._parts.roots.length(key) or 0
        except PathRefused:
            return 0

    def _tell(self) -> None:
        text = self._stuck or status(self._parts)
        if text != self._said:
            self._notify.status(text)
            self._said = text


def status(parts: Parts) -> str:
    """The queue in words, one line without secrets."""
    if parts.phase == "draining" and parts.drain is not None and parts.drain.progress is not None:
        return f"draining: {parts.drain.progress.line()}"
    files = bytes_left = quarantined = 0
    for job in parts.scheduler:
        if job.state is JobState.QUARANTINED:
            quarantined += 1
        else:
            files += 1
            bytes_left += job.size_bytes or 0
    counts = parts.dispatcher.counts
    text = f"{count(files, 'file')} to store ({size(bytes_left)})" if files else "nothing to store"
    said = [text, f"{count(counts.settled_files, 'file')} stored since the start"]
    if parts.phase != "running":
        said.insert(0, parts.phase)
    store = parts.dispatcher.store_state
    if store.down_since is not None:
        down = duration(max(0.0, time.time() - store.down_since))
        said.append(f"the store has been down for {down}: {scrub(store.last_error or '')}")
    if parts.dispatcher.paused:
        said.append("paused")
    if quarantined:
        said.append(f"{quarantined} quarantined")
    if parts.held:
        said.append(f"{count(len(parts.held), 'namespace')} held")
    if parts.journal.last_error is not None:
        said.append(f"the journal cannot be written: {scrub(parts.journal.last_error)}")
    return one_line("; ".join(said))
