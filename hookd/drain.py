"""Stage drain: from the stop signal to "nothing is left".

    zdb gone? → its closing hooks in? → spool swept → unannounced files scanned → queue empty
        ↑__________________________________ zdb is there again ______________________|

The invariant: `Verdict.EMPTY` is returned only when zdb is gone, no hook of it can still come, the
spool was taken in, the files on disk were looked through, and no job is open. While it waits it goes on
taking events, and says what it waits for. A look that fails is made again.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from hookd.admin.words import count
from hookd.errors import JournalError
from hookd.journal import JobState
from hookd.log import get
from hookd.scheduler import Scheduler
from hookd.succession import lacks_room

log = get("drain")

LOOK_EVERY_S = 0.1
SAY_EVERY_S = 5.0
ZDB_EVERY_S = 0.5
"""How often it is asked whether a zdb that was gone is there again."""

SCAN_AGAIN_S = 2.0
"""Between two tries to look through the files on disk: each reads them."""


class Verdict(enum.Enum):
    """How a drain ended."""

    EMPTY = "everything is stored and verified"
    STUCK = "only quarantined files are left, and what waits for them"
    TIMED_OUT = "the configured time is over"
    BEGUN = "zdb was started again"


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a running drain."""

    waiting_for: str
    files_left: int
    bytes_left: int
    files_done: int
    bytes_done: int
    elapsed_s: float

    @property
    def rate_bytes_s(self) -> float:
        """Since the drain began."""
        return self.bytes_done / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at this rate, None while there is none."""
        rate = self.rate_bytes_s
        return self.bytes_left / rate if rate > 0 and self.bytes_left else None

    def line(self) -> str:
        """For a person: `3 of 12 files, 40.1 of 190.2 MiB, 18.3 MiB/s, about 8 s to go`."""
        mib = 1 << 20
        total_files = self.files_done + self.files_left
        if not total_files:
            return f"no file waits; {self.waiting_for}"
        total = (self.bytes_done + self.bytes_left) / mib
        text = (
            f"{self.files_done} of {total_files} files, {self.bytes_done / mib:.1f} of {total:.1f} MiB,"
            f" {self.rate_bytes_s / mib:.1f} MiB/s"
        )
        if self.eta_s is not None:
            text += f", about {max(1, round(self.eta_s))} s to go"
        return f"{text}; {self.waiting_for}"


class Drain:
    """Watches the rest of the daemon until nothing is left."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        zdb_runs: Callable[[], Awaitable[bool]],
        owed_namespaces: Callable[[], list[str]],
        shims_alive: Callable[[], Awaitable[int]],
        busy: Callable[[], int],
        sweep: Callable[[], Awaitable[int]],
        spooled: Callable[[], int],
        scan: Callable[[], Awaitable[int]],
        done: Callable[[], tuple[int, int]],
        quiet_s: float,
        timeout_s: float | None,
        say: Callable[[Progress], None],
        hopeless: Callable[[], bool] = lambda: False,
    ) -> None:
        """What it looks at, as functions: whether zdb runs, which namespaces still owe their closing
        hook, how many shims live that announce something, how many such events are being worked on,
        `sweep` the spool and `scan` for unannounced files (how many they brought), how many events are
        still in the spool, (files, bytes) settled so far, and whether nothing can be stored any more
        until somebody acts.
        """
        self._scheduler = scheduler
        self._zdb_runs = zdb_runs
        self._owed_namespaces = owed_namespaces
        self._shims_alive = shims_alive
        self._busy = busy
        self._sweep = sweep
        self._spooled = spooled
        self._scan = scan
        self._done = done
        self._quiet_s = quiet_s
        self._timeout_s = timeout_s
        self._say = say
        self._hopeless = hopeless
        self._started = time.monotonic()
        self._done_before = done()
        self._looked = 0.0
        self._said = 0.0
        self._scanned = False
        self._scan_at = 0.0
        self._trouble: str | None = None
        self._left: frozenset[int] = frozenset()
        """Open jobs when it was last stuck."""
        self._tries: dict[int, int] = {}
        """Job that lacked room then → its attempts."""
        self._failed: str | None = None
        self.progress: Progress | None = None

    async def run(self, *, closed: bool = False) -> Verdict:
        """Wait until nothing is left, or the time is over. Cancelled by a second signal.

        `closed`: nobody is let in any more. A zdb that is there now would wait out the time of each hook,
        so it is not waited for.
        """
        left_s = None
        if self._timeout_s is not None:
            left_s = max(0.0, self._timeout_s - (time.monotonic() - self._started))
        with anyio.move_on_after(left_s):
            while True:
                if closed and await self._zdb_runs():
                    return Verdict.BEGUN
                await self._wait_for_zdb()
                await self._wait_for_hooks()
                verdict = await self._wait_for_stores()
                if verdict is not None:
                    return verdict
        return Verdict.TIMED_OUT

    async def _wait_for_zdb(self) -> None:
        while await self._zdb_runs():
            self._look("waiting for zdb to stop (it still runs)")
            await anyio.sleep(LOOK_EVERY_S)

    async def _wait_for_hooks(self) -> None:
        """Until every namespace has said namespace-closing, or all has been quiet for a while."""
        quiet_since = time.monotonic()
        while owed := self._owed_namespaces():
            if self._busy() or await self._shims_alive():
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= self._quiet_s:
                log.warning("zdb ended without its closing hooks", namespaces=owed)
                break
            self._look(f"waiting for the closing hooks of {', '.join(owed)}")
            await anyio.sleep(LOOK_EVERY_S / 2)

    async def _wait_for_stores(self) -> Verdict | None:
        """None: zdb is there again."""
        self._scanned, self._scan_at = False, 0.0
        asked, sure = time.monotonic(), False
        while True:
            if sure or time.monotonic() - asked >= ZDB_EVERY_S:
                if await self._zdb_runs():
                    log.warning("zdb is there again")
                    return None
                asked = time.monotonic()
            verdict = await self._quiet()
            if verdict is not None and sure:
                return verdict
            sure = verdict is not None  # zdb is asked, and then nothing may have come meanwhile
            if not sure:
                self._look(self._trouble or self._failed or "storing")
                await anyio.sleep(LOOK_EVERY_S / 2)

    async def _quiet(self) -> Verdict | None:
        """The verdict if nothing can come and nothing more can be done."""
        self._trouble = None
        if await self._shims_alive() or self._busy():
            return None
        brought = await self._sweep() + await self._scan_once()
        if brought or self._busy() or not self._scanned:
            return None
        if spooled := self._spooled():
            self._trouble = f"waiting for {count(spooled, 'event')} in the spool to be taken in"
            return None
        if not len(self._scheduler):
            return Verdict.EMPTY
        if any(lacks_room(job) for job in self._scheduler):
            self._trouble = (
                "waiting for room for snapshots (snapshot.max_bytes, or the disk is full)"
            )
        return Verdict.STUCK if self._is_stuck() or self._hopeless() else None

    def _is_stuck(self) -> bool:
        """What lacks room was tried once more since anything else went, which may have made some."""
        if not self._scheduler.stuck():
            return False
        tries = {job.id: job.attempts for job in self._scheduler if lacks_room(job)}
        left = frozenset(job.id for job in self._scheduler)
        if left != self._left:
            self._left, self._tries = left, tries
        return all(attempts > self._tries.get(job, attempts) for job, attempts in tries.items())

    async def _scan_once(self) -> int:
        """How many files it brought, once it has come through."""
        if self._scanned or time.monotonic() < self._scan_at:
            return 0
        try:
            brought = await self._scan()
        except (JournalError, OSError) as error:
            self._scan_at = time.monotonic() + SCAN_AGAIN_S
            self._failed = f"waiting to look for files that no hook announced: {error}"
            log.error("scan failed, will retry", error=str(error))
            return 0
        self._scanned, self._failed = True, None
        return brought

    def _look(self, waiting_for: str) -> None:
        """Update `progress`, and say it now and then."""
        now = time.monotonic()
        if self.progress is not None and now - self._looked < 0.5:
            return  # a look goes through the whole queue
        files, size = self._done()
        left = [job for job in self._scheduler if job.state is not JobState.QUARANTINED]
        self.progress = Progress(
            waiting_for=waiting_for,
            files_left=len(left),
            bytes_left=sum(job.size_bytes or 0 for job in left),
            files_done=files - self._done_before[0],
            bytes_done=size - self._done_before[1],
            elapsed_s=now - self._started,
        )
        self._looked = now
        if now - self._said >= SAY_EVERY_S or self._said == 0.0:
            self._said = now
            self._say(self.progress)
