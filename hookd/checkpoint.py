"""Stage checkpoint: what zdb holds now is closed, stored and named in the manifest.

    flush zdbfs → NSJUMP where something is dirty → what no hook announced is found → what was
    acknowledged is stored → publish

The invariant: an `Outcome` that is safe names a moment before which every write is in the store, but for
data files that somebody gave up, which it names. The moment is taken before the first step, and no step
holds anything that the event loop needs: NSJUMP makes zdb wait for a hook that comes to this very daemon.

One run at a time. Who asks while one runs waits for the next, which all of them share: the one that
runs may have looked before their last write.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterator

import anyio
import anyio.to_thread

from hookd.admin.words import count, duration, listed, size
from hookd.checkpoint_run import Outcome, Run
from hookd.closing import Closing
from hookd.errors import (
    Exit,
    JournalError,
    MountUnusable,
    StoreError,
    ZdbError,
    ZdbUnreachable,
)
from hookd.fence import Fenced
from hookd.files import FileKey, Kind, Roots
from hookd.journal import Job
from hookd.log import get
from hookd.recovery_point import Files, look, owed
from hookd.scheduler import Scheduler

log = get("checkpoint")

LOOK_EVERY_S = 0.005
SAY_EVERY_S = 1.0
SAY_AGAIN_S = 5.0
"""Who waits hears something this often, that it may tell a long store from a dead daemon."""

STUCK_S = 2.0
"""So long nothing moves before it is said that nothing will: a hook may be on its way."""

GAP_EVERY_S = 0.5
"""Between two looks for closed files that no hook has announced: jump-data is not waited for by zdb."""

PUBLISH_AGAIN_S = 1.0

CLOSE_AGAIN = 3
"""How often files are closed once more for those that wait for them."""


class Checkpoints:
    """Makes checkpoints, one at a time; `run` does the work, `take` asks for one."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        roots: Roots,
        skip: Collection[str],
        held: Callable[[], Collection[str]],
        newest_job: Callable[[], int],
        paused: Callable[[], bool],
        zdb_runs: Callable[[], Awaitable[bool]],
        jump: Callable[[str], Awaitable[None]],
        flush: Callable[[], Awaitable[None]] | None,
        sweep: Callable[[], Awaitable[int]],
        scan: Callable[[bool], Awaitable[int]],
        unscanned: Callable[[], bool],
        publish: Callable[[], Awaitable[None]],
    ) -> None:
        """`jump` is NSJUMP of a namespace (raises ZdbError), `flush` writes out zdbfs (MountUnusable),
        `sweep` takes the spool in, `scan(with_active)` makes jobs for what no hook announced, `unscanned`
        says whether there may be such since the last scan that looked, `publish` writes the manifest
        (StoreError); `newest_job` is the id of the newest job.
        """
        self._scheduler = scheduler
        self._disk = Files(roots)
        self._skip = skip
        self._held = held
        self._newest_job = newest_job
        self._paused = paused
        self._closing = Closing(
            scheduler=scheduler,
            disk=self._disk,
            skip=skip,
            held=held,
            zdb_runs=zdb_runs,
            jump=jump,
            scan=scan,
        )
        self._flush = flush
        self._sweep = sweep
        self._scan = scan
        self._unscanned = unscanned
        self._publish = publish
        self._wake = anyio.Event()
        self._next: Run | None = None
        self._current: Run | None = None
        self.last: Outcome | None = None
        self.last_safe: Outcome | None = None
        self.taken = 0
        """Checkpoints that ended, since the start of this process."""
        self.failed = 0
        """Those of them that were not safe."""

    @property
    def doing(self) -> str | None:
        """What the run that is under way does, None without one."""
        return None if self._current is None else self._current.doing

    @property
    def unscanned(self) -> bool:
        """Whether there may be changed files that no hook will name, and no scan has looked since."""
        return self._unscanned()

    @property
    def waiting(self) -> int:
        """How many wait for a checkpoint."""
        return sum(run.askers for run in (self._current, self._next) if run is not None)

    # -- asking ----------------------------------------------------------------------------------

    async def take(
        self, timeout_s: float, say: Callable[[str], Awaitable[None]] | None = None
    ) -> Outcome:
        """A checkpoint that begins after this call; `say` gets a line when something has changed, and
        every few seconds.

        Whoever gives up (cancelled, `say` raised, the time is over) leaves the others theirs; a run
        that nobody waits for any more ends.
        """
        run = self._next
        if run is None:
            run = self._next = Run()
            self._wake.set()
        run.askers += 1
        began, said, said_at = time.monotonic(), "", 0.0
        try:
            with anyio.move_on_after(timeout_s):
                while not run.done.is_set():
                    now = time.monotonic()
                    if say is not None and (run.doing != said or now - said_at >= SAY_AGAIN_S):
                        said, said_at = run.doing, now
                        await say(said)
                    with anyio.move_on_after(SAY_EVERY_S):
                        await run.done.wait()
        finally:
            run.askers -= 1
            if run.askers == 0 and not run.done.is_set():
                run.scope.cancel()
                if self._next is run:
                    self._next = None
        if run.outcome is not None:
            return run.outcome
        missing = f"not within {duration(timeout_s)}: {run.doing}"
        return Outcome(
            code=Exit.TEMPFAIL,
            until=run.until or time.time(),
            elapsed_s=time.monotonic() - began,
            jumped=tuple(run.jumped),
            problems=(*run.problems, missing),
        )

    def note(self, outcome: Outcome) -> None:
        """Remember how it ended for whoever asked, for status."""
        self.taken += 1
        self.last = outcome
        if outcome.safe:
            self.last_safe = outcome
        else:
            self.failed += 1

    # -- working ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make the checkpoints that are asked for, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while (run := self._next) is not None:
                self._next, self._current = None, run
                try:
                    await self._make(run)
                finally:
                    self._current = None
                    run.done.set()

    async def _make(self, run: Run) -> None:
        run.started = time.monotonic()
        with run.scope:
            try:
                run.outcome = await self._once(run)
            except (ZdbUnreachable, OSError) as error:
                run.outcome = self._ended(run, Exit.UNAVAILABLE, str(error))
            except (ZdbError, StoreError, JournalError) as error:
                run.outcome = self._ended(run, Exit.FAILED, str(error))
            except Exception as error:  # a fault of ours: who waits must hear of it
                log.exception("internal error", exc_info=error)
                run.outcome = self._ended(run, Exit.FAILED, f"internal error: {error!r}")

    def _ended(self, run: Run, code: Exit, *problems: str) -> Outcome:
        found = (*run.problems, *problems)
        if run.hanging is not None:
            found = (*found, run.hanging)
        if code is Exit.OK and found:
            code = Exit.FAILED if run.problems else Exit.TEMPFAIL
        return Outcome(
            code=code,
            until=run.until,
            elapsed_s=time.monotonic() - run.started,
            jumped=tuple(run.jumped),
            problems=found,
            left_out=tuple(run.left_out),
        )

    async def _once(self, run: Run) -> Outcome:
        run.until = time.time()
        await self._flush_zdbfs(run)
        for name in sorted(self._held()):
            if name not in self._skip:
                run.problems.append(f"namespace {name} is held: nothing of it is stored")
        await self._closing.close(run)
        await self._find_unannounced(run)
        if (hindrance := await self._wait_until_stored(run)) is not None:
            return self._ended(run, Exit.FAILED, hindrance)
        await self._write_manifest(run)
        return self._ended(run, Exit.OK)

    async def _flush_zdbfs(self, run: Run) -> None:
        if self._flush is None:
            return
        run.doing = "zdbfs writes out its cache"
        try:
            await self._flush()
        except MountUnusable as error:
            text = f"zdbfs has not written out its cache: {error}"
            if error.hangs:
                run.hanging = text
            else:
                run.problems.append(text)

    async def _find_unannounced(self, run: Run) -> None:
        """A zdb that was killed has forgotten which index files it rewrote, and no hook will name them: a
        scan has to have looked since (at the start, when zdb is back). While `ready` has not been
        judged none can.
        """
        while self._unscanned():
            run.doing = "looking for files that no hook announced"
            await self._scan(False)
            if self._unscanned():
                await anyio.sleep(GAP_EVERY_S)

    async def anything(self) -> bool:
        """Whether a checkpoint would have something to do."""
        if self._unscanned():
            return True
        if await anyio.to_thread.run_sync(self._closing.dirty):
            return True
        return any(True for _ in self._promised(self._newest_job()))

    # -- storing ---------------------------------------------------------------------------------

    async def _wait_until_stored(self, run: Run) -> str | None:
        """Until everything acknowledged by now is proven remote; else why it never will be."""
        mark, total, again = self._newest_job(), 0, CLOSE_AGAIN
        while True:
            left = list(self._promised(mark))
            total = max(total, len(left))
            if left:
                if (hindrance := await self._watch(run, left, total)) is not None:
                    again -= 1
                    if again < 0 or not await self._closing.close_again(
                        run, list(self._promised(mark))
                    ):
                        return hindrance
                    mark = self._newest_job()
                continue
            gaps, given_up = await self._gaps()
            if not gaps:
                run.left_out = [str(key) for key in given_up if key.kind is Kind.DATA]
                return _cut_short([key for key in given_up if key.kind is Kind.INDEX])
            run.doing = f"waiting for the hooks of {listed(gaps)}"
            brought = await self._sweep() + await self._scan(False)
            mark = self._newest_job()
            if not brought:
                await anyio.sleep(GAP_EVERY_S)

    def _promised(self, mark: int) -> Iterator[Job]:
        """Open jobs for content that was acknowledged when the newest job was `mark`.

        By turn: a newer snapshot that took the place of an older one has that one's turn.
        """
        skip = self._skip
        return (
            job for job in self._scheduler if job.turn <= mark and job.key.namespace not in skip
        )

    async def _watch(self, run: Run, left: list[Job], total: int) -> str | None:
        """Until these jobs have left the line; else why they do not."""
        said = 0.0
        moved, before = time.monotonic(), len(left)
        while left:
            while left and self._scheduler.get(left[-1].id) is None:
                left.pop()
            now = time.monotonic()
            if now - said >= SAY_EVERY_S / 2 and left:
                said = now
                left = [job for job in left if self._scheduler.get(job.id) is not None]
                run.doing = self._storing(left, total)
                if len(left) < before or self._paused() or not self._scheduler.stuck():
                    moved, before = now, len(left)
                elif now - moved >= STUCK_S:
                    return _stuck(left)
            await anyio.sleep(LOOK_EVERY_S)
        return None

    def _storing(self, left: list[Job], total: int) -> str:
        amount = size(sum(job.size_bytes or 0 for job in left))
        text = f"storing: {total - len(left)} of {count(total, 'file')} done, {amount} to go"
        if self._paused():
            return f"{text}; storing is paused (`hookd resume`)"
        errors = [job.error for job in left if job.error]
        return f"{text}; {errors[0]}" if errors else text

    async def _gaps(self) -> tuple[list[str], list[FileKey]]:
        """Closed files that are not remote and that no job stands for; those of them that were given up
        are apart.
        """
        skip = {*self._skip, *self._held()}
        known = owed((), self._scheduler, skip)

        def find() -> tuple[list[str], list[FileKey]]:
            now = time.time()
            spaces = look(self._disk, self._scheduler, known, skip=skip, now=now).spaces.values()
            gaps = [str(key) for space in spaces for key in space.gaps]
            return gaps, [key for space in spaces for key in space.given_up]

        return await anyio.to_thread.run_sync(find)

    async def _write_manifest(self, run: Run) -> None:
        """Raises StoreError where no further try would help."""
        while True:
            run.doing = "writing the manifest"
            try:
                await self._publish()
                return
            except StoreError as error:
                if error.permanent or isinstance(error, Fenced):
                    raise
                run.doing = f"writing the manifest: {error}"
            await anyio.sleep(PUBLISH_AGAIN_S)


def _cut_short(given_up: list[FileKey]) -> str | None:
    """Why index files that were given up make it unsafe; None without any."""
    if not given_up:
        return None
    names = listed([str(key) for key in given_up])
    return f"given up (`hookd skip`), and a restore ends there (`hookd retry FILE`): {names}"


def _stuck(left: list[Job]) -> str:
    names = [str(job.key) for job in left]
    why = next((job.error for job in left if job.error), None)
    text = (
        f"{count(len(left), 'file')} cannot be stored before somebody decides: {listed(names)}"
        " (`hookd queue`, then `hookd retry` or `hookd skip`)"
    )
    return f"{text}; {why}" if why else text
