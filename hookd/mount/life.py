"""The life of one mount, top to bottom: what comes after what, and what ends it.

    preflight → endpoint cleaned → mount → resume → probe → ready → watch ⟲ remount
    signal → drain → unmount → what came in between is uploaded from a private mount → exit

Invariants: nothing is mounted before the remote took the credentials; ready is never said before a
write arrived; 0 is returned only if after the mounter's end nothing in the cache waits (`report`).
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path

import anyio

from hookd.admin.words import count
from hookd.backoff import Backoff
from hookd.errors import Exit, RemoteUnreachable, UserError
from hookd.log import get
from hookd.mount import preflight, ready
from hookd.mount.below import Below
from hookd.mount.bounded import bounded
from hookd.mount.cache import Cache
from hookd.mount.drain import Drain
from hookd.mount.ground import Ground
from hookd.mount.herald import Herald
from hookd.mount.mend import Mend
from hookd.mount.provider import ControlError, Mount, Mounter, Queue
from hookd.mount.ready import MountDied
from hookd.mount.records import save_records
from hookd.mount.report import report
from hookd.mount.rescue import settle
from hookd.mount.settings import MountSection
from hookd.mount.state import Phase, State
from hookd.mount.unmount import detach, replace_dead, take_down
from hookd.mount.watch import Watch
from hookd.notify import Notify

log = get("mount")

STOPS = (signal.SIGTERM, signal.SIGINT)
LOOK_WITHIN_S = 5.0
SCAN_WITHIN_S = 60.0
LIST_WITHIN_S = 30.0
"""For the first listing of a mount: nothing of a large folder is known yet."""

REMOUNT_BASE_S = 0.5
REMOUNT_CAP_S = 30.0
STEADY_S = 60.0
"""A mounter that ran this long begins with a fresh backoff."""

KEEP_EVERY_S = 3.0
"""While draining: a look goes through every record of the cache."""


class Life:
    """One `hookd mount`."""

    def __init__(
        self,
        settings: MountSection,
        mounter: Mounter,
        cache: Cache,
        *,
        state: State,
        mountpoint: Path,
        ground: Ground,
        private: Path,
        notify: Notify,
        announce: Callable[[str], None],
    ) -> None:
        """`ground` is the folder at `mountpoint`; `private` is an empty folder of ours; `announce`
        prints a line for whoever started us."""
        self._settings = settings
        self._mounter = mounter
        self._cache = cache
        self._state = state
        self._mountpoint = mountpoint
        self._private = private
        self._announce = announce
        self._herald = Herald(
            state, notify=notify, announce=announce, ready_file=settings.ready_file
        )
        self._below = Below(ground, mountpoint, notices=state.notices, announce=announce)
        self._mend = Mend(cache, say=self._herald.say)
        self._mount: Mount | None = None
        self._taken_up: set[str] = set()
        """Files that the mounter found in its cache when it was started."""
        self._last_queue: Queue | None = None
        self._mounted_once = False
        self._stop = anyio.Event()
        self._now = anyio.Event()

    async def run(self) -> Exit:
        """From preflight to the last byte. Raises UserError for a start that is refused."""
        with anyio.open_signal_receiver(*STOPS) as signals:
            signal.pthread_sigmask(
                signal.SIG_UNBLOCK, STOPS
            )  # blocked since the start of the process
            async with anyio.create_task_group() as group:

                async def listen() -> None:
                    async for _ in signals:
                        if not self._stop.is_set():
                            self._stop.set()
                        else:
                            self._now.set()

                group.start_soon(listen)
                code = await self._live()
                group.cancel_scope.cancel()
        return code

    async def _live(self) -> Exit:
        try:
            await self._until(self._stop, self._serve)
            return await self._finish()
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._abandon()
                if isinstance(error, UserError):  # it has its own code
                    await report(self._cache, self._last_queue, announce=self._announce)
            raise

    # -- start -----------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Until cancelled by the stop signal."""
        state = self._state
        self._herald.not_ready(Phase.STARTING)
        await self._prepare()
        await self._mount_first()
        self._herald.ready()
        backoff, tries = Backoff(base_s=REMOUNT_BASE_S, cap_s=REMOUNT_CAP_S), 0
        while True:
            began = time.monotonic()
            assert self._mount is not None
            why = await self._watched(self._mount)
            tries = 1 if time.monotonic() - began > STEADY_S else tries + 1
            self._herald.remounting(why, tries)
            while True:
                try:
                    await self._mount_again(0.0 if tries == 1 else backoff.after(tries - 1))
                    break
                except (MountDied, UserError, OSError, TimeoutError) as error:
                    tries += 1
                    log.warning("remount failed", error=str(error), tries=tries)
                    state.last_remount = f"{why}; {error}"
            self._herald.ready()

    async def _watched(self, mount: Mount) -> str:
        """Until the mounter must be replaced; returns why."""
        why = ""

        async def watch() -> None:
            nonlocal why
            why = await self._watch(mount).run()

        await self._beside(partial(ready.settle, mount, self._taken_up), watch)
        return why

    async def _prepare(self) -> None:
        """All that can refuse a start, in the order of what it costs. Raises UserError."""
        settings = self._settings
        preflight.check_machine(allow_other=settings.allow_other)
        budget_s = None if settings.wait_remote else settings.remote_wait_s
        await preflight.check_remote(self._mounter, budget_s=budget_s, say=self._herald.say)
        if await self._mounter.stop_orphan():
            await detach(self._mountpoint)
        if taken := await preflight.clean_endpoint(self._mountpoint, within_s=LOOK_WITHIN_S):
            log.info("dead mounts taken away", path=str(self._mountpoint), mounts=taken)
        await self._below.take(may_hide=settings.allow_non_empty)
        await detach(self._private)
        self._private.mkdir(mode=0o700, exist_ok=True)
        for folder, files in (await self._mend.scan(self._cache.strangers)).items():
            notice = (
                f"{count(files, 'file')} written for another remote {'is' if files == 1 else 'are'} in"
                f" {folder} and not uploaded; mount that remote once more"
            )
            self._herald.notice(notice)

    async def _mount_first(self) -> None:
        """Mount, resume, probe. Raises UserError."""
        settings, state = self._settings, self._state
        dirty = await self._mend.dirty()
        state.resumed_files = len(dirty)
        if dirty:
            self._herald.say(
                f"resuming: {count(len(dirty), 'file')} of an earlier run not uploaded yet"
            )
        try:
            mount = await self._start(self._mountpoint)
            if settings.resume == "first" and dirty:
                state.phase = Phase.RESUMING
                left = await ready.resumed(
                    mount, within_s=settings.resume_wait_s, say=self._herald.say
                )
                await mount.arrived(self._taken_up)  # see ready.settle
                self._herald.say(f"resumed: {len(dirty) - left} of {len(dirty)} files are uploaded")
            budget_s = None if settings.wait_remote else settings.remote_wait_s
            ends = None if budget_s is None else time.monotonic() + budget_s
            await preflight.retrying(
                lambda: ready.probe(mount, read_only=settings.read_only),
                ends=ends,
                say=self._herald.say,
            )
        except ControlError as error:
            raise RemoteUnreachable(
                f"{state.target}: the mounter does not answer ({error})"
            ) from None
        except MountDied as died:
            raise ready.refusal(self._state.target, died) from None

    async def _mount_again(self, pause_s: float) -> None:
        """End what is left of the mounter, and start another one. Raises MountDied, UserError."""
        assert self._mount is not None
        await replace_dead(self._mount)
        await anyio.sleep(pause_s)
        await preflight.clean_endpoint(self._mountpoint, within_s=LOOK_WITHIN_S)
        await self._below.guard()
        await self._start(self._mountpoint)
        await self._below.look()

    async def _start(self, mountpoint: Path) -> Mount:
        if mountpoint == self._mountpoint:
            self._state.phase = Phase.MOUNTING if not self._mounted_once else Phase.REMOUNTING
        await self._mend.mend()
        dirty = await self._mend.dirty()
        self._taken_up = {each.name for each in dirty}
        with self._below.opened(mountpoint):
            self._mount = mount = await self._mounter.start(mountpoint)
            self._mounted_once = True
            await ready.until_mounted(mount, within_s=LIST_WITHIN_S, say=self._herald.say)
        if not self._settings.read_only:
            await ready.sweep_probes(mount, within_s=self._settings.probe_timeout_s)
        await self._mend.hold_reserve()
        await self._settle(mount)
        return mount

    async def _settle(self, mount: Mount) -> None:
        """What a kill left in doubt, beside what the remote has."""
        try:
            if not self._settings.read_only:
                await bounded(partial(settle, self._cache, mount.mountpoint), SCAN_WITHIN_S)
        except (OSError, TimeoutError) as error:
            log.warning("rescued files are not settled", error=str(error) or "it takes too long")

    # -- the end ---------------------------------------------------------------------------------

    async def _finish(self) -> Exit:
        """Drain, unmount, and what must be done to be sure. Never raises UserError."""
        self._herald.draining(self._settings.drain_timeout_s)
        with anyio.move_on_after(self._settings.drain_timeout_s):
            await self._until(self._now, self._drain_all)
        with anyio.CancelScope(shield=True):
            await self._take_down()
            await self._below.look()
            code = self._below.end(await self._report())
            self._state.phase = Phase.STOPPING
        return code

    async def _drain_all(self) -> None:
        """Until the cache is clean and nothing is mounted. A mounter that dies is replaced."""
        tries, failed = 0, 0
        backoff = Backoff(base_s=REMOUNT_BASE_S, cap_s=REMOUNT_CAP_S)
        while True:
            try:
                if self._mount is not None and self._mount.ended is None:
                    await self._drain(self._mount)
                await self._take_down()
                if not self._mounted_once or not await self._mend.dirty():
                    return
                # What came in after the last look; nobody else can write any more.
                self._state.phase = Phase.DRAINING
                await anyio.sleep(0.0 if tries == 0 else backoff.after(tries))
                tries += 1
                await self._start(self._private)
            except (MountDied, UserError, OSError, TimeoutError) as error:
                failed += 1
                log.warning("drain interrupted", error=str(error))
                self._herald.say(f"draining: {error}; trying again")
                await anyio.sleep(max(0.1, backoff.after(failed)))

    async def _drain(self, mount: Mount) -> None:
        """Raises MountDied."""
        drain = Drain(mount, self._cache, say=lambda text: self._herald.say(f"draining: {text}"))
        watch = self._watch(mount)

        async def keep() -> None:
            """For who looks on, and for the names of what is left if time runs out."""
            while True:
                self._herald.extend()
                finding = await watch.look()
                self._state.found(finding)
                self._last_queue = finding.queue
                await anyio.sleep(KEEP_EVERY_S)

        await self._beside(keep, drain.run)

    def _watch(self, mount: Mount) -> Watch:
        settings = self._settings
        return Watch(
            mount,
            self._cache,
            interval_s=settings.probe_interval_s,
            timeout_s=settings.probe_timeout_s,
            found=self._state.found,
        )

    async def _take_down(self) -> None:
        """Unmount and end the mounter, if there is one. Not cancelled half-way."""
        mount = self._mount
        if mount is None:
            return
        self._herald.not_ready(Phase.STOPPING)
        with anyio.CancelScope(shield=True):
            if mount.ended is None:
                with contextlib.suppress(ControlError):
                    self._last_queue = await mount.queue()
            await self._end(mount)
        self._mount = None

    async def _end(self, mount: Mount) -> None:
        if mount.ended is None:
            await save_records(mount, self._cache, self._last_queue)
        await take_down(mount)

    async def _report(self) -> Exit:
        await self._close()
        code = await report(self._cache, self._last_queue, announce=self._announce)
        if code is Exit.OK and not self._below.strays:
            self._announce("drained: every file is on the remote; unmounted")
        return code

    async def _abandon(self) -> None:
        """A start that was refused, or a fault: nothing stays mounted, nothing is deleted."""
        if self._mount is not None:
            await self._end(self._mount)
            self._mount = None
        await self._close()

    async def _close(self) -> None:
        self._herald.not_ready(Phase.STOPPING)
        await self._below.leave(remove=self._settings.subdirectory is not None)

    @classmethod
    async def _until(cls, event: anyio.Event, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` until it ends or `event` is set."""
        done = anyio.CancelScope()

        async def watch() -> None:
            await event.wait()
            done.cancel()

        async def cancellable() -> None:
            with done:
                await work()

        await cls._beside(watch, cancellable)

    @staticmethod
    async def _beside(
        background: Callable[[], Coroutine[None, None, None]], work: Callable[[], Awaitable[None]]
    ) -> None:
        """Run `work`, and `background` as long as it runs; what `work` raises comes as it is."""
        raised: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(background)
            try:
                await work()
            except Exception as error:
                raised = error
            group.cancel_scope.cancel()
        if raised is not None:
            raise raised
