"""The daemon: locks taken, the parts assembled, run, drained, closed.

    locks → journal → parts → stats socket → dispatcher → spool → hook socket → initial scan

The end is `_drain`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from functools import partial

import anyio
import anyio.to_thread

from hookd import activation, scan, zdb
from hookd.admin.server import AdminServer
from hookd.config import Config
from hookd.drain import Drain, Progress, Verdict
from hookd.errors import Exit, JournalError
from hookd.files import FileKey
from hookd.journal import Job, JobState, Journal, tables
from hookd.log import get
from hookd.notify import Notify
from hookd.parts import ZDB_HEARD, Parts, assemble, refill
from hookd.pulse import EXTEND_S, Pulse, status
from hookd.signals import AGAIN, Signals
from hookd.snapshot import Staging
from hookd.sockets import lock_file, lock_folder
from hookd.startup import FRESH, JOURNAL_ID, Loaded, load, open_journal, store_id_of
from hookd.wire import ANSWER_SPOOL, Answer

log = get("daemon")

PRUNE_EVERY_S = 60.0
PRUNE_PAUSE_S = 0.05
"""Between two windows of a pass: 20,000 row ids a second, four times what can come in."""

LOOK_LIMIT_S = 5.0
"""For a last look around once the configured time is over."""

STANDSTILL_S = 600.0
"""More than reading a journal or a staging folder takes: a million jobs are some seconds."""


class Daemon:
    """One `hookd serve`."""

    def __init__(
        self,
        config: Config,
        *,
        announce: Callable[[str], None],
        signals: Signals,
        notify: Notify | None = None,
        hook: socket.socket | None = None,
    ) -> None:
        """`announce` prints a line for whoever started the daemon; `hook` is the hook socket if
        somebody else made it and keeps it.
        """
        self._config = config
        self._signals = signals
        self._left: list[str] = []
        """A line for each thing that a stop leaves behind and no line holds."""
        self._announce = announce
        self._notify = notify or Notify()
        self._hook = hook
        self._locks: list[int] = []
        self._scan_wanted = anyio.Event()
        self._scans_asked = self._scans_met = 0
        """How many scans were asked for; up to which of these one has looked since."""
        self._broken: Exception | None = None
        self._stop_now = anyio.CancelScope()
        self._surveys: set[anyio.CancelScope] = set()
        self._retrieving = 0

    async def run(self) -> Exit:
        """Serve until a signal, drain, and say how it ended. Raises UserError at the start."""
        config = self._config
        self._lock()
        self._blocks("reading the journal")
        db, rebuilt = open_journal(config.journal.path)
        loaded = load(db, keep_s=config.journal.keep_s)
        self._blocks("looking through the snapshots")
        staging = Staging(config.staging_path, max_bytes=config.snapshot.max_bytes)
        for staged, content in tables.snapshots(db):
            staging.restore(staged, content)
        journal = Journal(db, on_broken=self._on_broken)
        self._parts = parts = assemble(
            config,
            journal=journal,
            staging=staging,
            loaded=loaded,
            rebuilt=rebuilt,
            actions=self,
            holds_changed=self._holds_changed,
            hook=self._hook,
            zdb_runs=self.zdb_runs,
            scan=lambda with_active: self._scan_once(with_active=with_active),
            scan_for_audit=self._scan_for_audit,
            unscanned=self._unscanned,
            retrieving=lambda: self._retrieving > 0,
            unstored=self._unstored,
        )
        parts.survey.stopping = lambda: parts.phase != "running"
        self._blocks("filling the queue")
        try:
            with self._stop_now:
                return await self._serve(parts, loaded)
            return self._report_broken()
        finally:
            with anyio.CancelScope(shield=True):
                await self._close(parts)

    # -- start ---------------------------------------------------------------------------------

    def _lock(self) -> None:
        config = self._config
        for path, what in (
            (config.journal.path, "journal.path"),
            (config.hook.socket, "hook.socket"),
            (config.stats.socket, "stats.socket"),
        ):
            lock = path.with_name(path.name + ".lock")
            # other users must get through to the hook socket; a folder that is there stays as it is
            shared = what == "hook.socket" and config.hook.allow_users
            self._locks.append(lock_file(lock, what, folder_mode=0o711 if shared else 0o700))
        # Another's snapshots would be taken for nobody's, another's events be kept where its zdb is not.
        self._locks.append(lock_folder(config.staging_path, "snapshot.staging"))
        self._locks.append(lock_folder(config.hook.spool, "hook.spool"))

    def _blocks(self, doing: str) -> None:
        """The event loop stands still for a while: nobody can ask for more time meanwhile."""
        self._notify.status(f"starting: {doing}")
        self._notify.extend(STANDSTILL_S)

    # -- running -------------------------------------------------------------------------------

    async def _serve(self, parts: Parts, loaded: Loaded) -> Exit:
        refill(parts, loaded)
        loaded.jobs, loaded.events, loaded.ledger = [], [], []
        with contextlib.suppress(JournalError):  # a full disk is no reason not to start
            await parts.journal.set_meta("store_id", store_id_of(parts.store))
            await parts.journal.set_meta(JOURNAL_ID, loaded.meta[JOURNAL_ID])
            await parts.journal.set_meta(FRESH, None)
        async with anyio.create_task_group() as group:
            group.start_soon(AdminServer(parts, self).run)
            group.start_soon(parts.dispatcher.run)
            group.start_soon(parts.fence.run)
            pulse = Pulse(parts, self._notify)
            group.start_soon(pulse.run)
            await parts.spool.sweep()
            pulse.starting = False
            group.start_soon(parts.spool.run)
            group.start_soon(self._prune_forever)
            group.start_soon(self._scan_forever)
            group.start_soon(parts.checkpoints.run)
            if parts.checkpoint_timer is not None:
                group.start_soon(parts.checkpoint_timer.run)
            group.start_soon(parts.auditor.run)
            group.start_soon(parts.room.run)
            if parts.blind is not None:
                group.start_soon(parts.blind.run)
            parts.intake.start()
            self.scan()
            log.info("ready", socket=str(self._config.hook.socket), store=parts.store.kind)
            self._announce(f"hookd is ready on {self._config.hook.socket}")
            self._notify.ready(status(parts))
            self._signals.listen()
            verdict: Verdict | None = None
            why = "a second signal came"
            if await self._signals.take() == AGAIN:
                why = "to be started again"
            else:
                async with anyio.create_task_group() as draining:

                    async def give_up() -> None:
                        await self._signals.take()
                        draining.cancel_scope.cancel()

                    draining.start_soon(give_up)
                    verdict = await self._drain(parts)
                    draining.cancel_scope.cancel()
            # whoever has no patience for what is still to be let go
            self._signals.end_with(Exit.TEMPFAIL)
            parts.phase = "stopping"
            parts.intake.close()
            self._end_surveys()
            group.cancel_scope.cancel()
        code = self._report(parts, verdict, why)
        self._signals.end_with(code)
        return code

    async def _drain(self, parts: Parts) -> Verdict:
        """Until nothing is left, with the door closed at last. Cancelled by a second signal."""
        parts.phase = "draining"
        self._notify.stopping("draining")
        parts.auditor.stop()
        parts.retriever.stop()
        parts.dispatcher.hurry()
        parts.fence.hurry()
        if parts.survey.waiting or parts.survey.restorer.progress:
            self._end_surveys()
        config = self._config.drain
        log.info("draining", files=len(parts.scheduler), timeout_s=config.timeout_s)
        counts = parts.dispatcher.counts
        parts.drain = Drain(
            scheduler=parts.scheduler,
            zdb_runs=self.zdb_runs,
            owed_namespaces=self._owed_namespaces,
            shims_alive=self._shims_alive,
            # what asks for something (a survey, a retrieve) is not waited for: zdb is gone
            busy=lambda: (
                len(parts.admission.committing)
                + parts.intake.unread
                + parts.dispatcher.departures.unkept
                + parts.fence.unpublished
            ),
            sweep=partial(parts.spool.sweep, abandoned=True),
            spooled=parts.spool.coming,
            scan=partial(self._scan_once, with_active=True),
            done=lambda: (counts.settled_files, counts.settled_bytes),
            quiet_s=config.quiet_s,
            timeout_s=config.timeout_s,
            say=self._say,
            hopeless=lambda: parts.fence.fenced is not None,
        )
        verdict = await parts.drain.run()
        if verdict is not Verdict.EMPTY:
            await self._look_around(parts, verdict)
            return verdict
        # The door closes; a shim that slipped through before is served, later ones spool. A socket that
        # is not ours stays open: who connects to it from now on waits, and spools when he has waited
        # long enough; the drain sees him alive until then.
        if self._hook is not None:
            parts.intake.take_backlog()
        parts.intake.close()
        verdict = await parts.drain.run(closed=self._hook is None)
        await self._look_around(parts, verdict)
        return verdict

    async def _look_around(self, parts: Parts, verdict: Verdict) -> None:
        """What no line holds. Once the time is over it is not waited for: a disk may hang."""
        limit_s = LOOK_LIMIT_S if verdict is Verdict.TIMED_OUT else None
        with anyio.move_on_after(limit_s):
            self._left = await parts.leftovers.of_a_stop()

    def _end_surveys(self) -> None:
        for scope in self._surveys:
            scope.cancel()

    def _say(self, progress: Progress) -> None:
        self._announce(f"draining: {progress.line()}")

    def _report(self, parts: Parts, verdict: Verdict | None, why: str) -> Exit:
        """How it ended, in a line; `why` there is no verdict."""
        if self._broken is not None:
            return self._report_broken()
        left = len(parts.scheduler) + parts.spool.coming()
        counts = parts.dispatcher.counts
        mib = counts.settled_bytes / (1 << 20)
        for line in self._left:
            self._announce(f"not stored: {line}")
        if verdict is Verdict.EMPTY and left == 0 and not self._left:
            self._announce(
                f"drained: nothing is left; {counts.settled_files} files, {mib:.1f} MiB were stored"
            )
            return Exit.OK
        if verdict is Verdict.EMPTY and left == 0:
            more = f"; {len(self._left) - 1} more above" if len(self._left) > 1 else ""
            self._announce(f"stopped with something not stored: {self._left[0]}{more}")
            return Exit.TEMPFAIL
        if verdict is Verdict.STUCK and parts.fence.fenced is not None:
            self._announce(f"stopped with {left} files not stored: {parts.fence.fenced}")
            return Exit.TEMPFAIL
        if verdict is Verdict.STUCK:
            self._announce(
                f"stopped with {left} files not stored: they are quarantined or wait for one that is;"
                " `hookd queue` after the next start says why, `hookd retry` or `hookd skip` decides"
            )
            return Exit.TEMPFAIL
        why = verdict.value if verdict is not None else why
        self._announce(
            f"stopped with {left} files not stored ({why}); they are kept in"
            f" {self._config.journal.path} and stored after the next start"
        )
        return Exit.TEMPFAIL

    def _report_broken(self) -> Exit:
        self._announce(
            f"the journal {self._config.journal.path} is damaged ({self._broken}); stopped, so that"
            " the next start rebuilds it; shims spool meanwhile"
        )
        return Exit.SOFTWARE

    def _on_broken(self, error: Exception) -> None:
        self._broken = error
        self._signals.end_with(Exit.SOFTWARE)
        self._stop_now.cancel()

    async def _close(self, parts: Parts) -> None:
        parts.intake.close()
        self._notify.extend(EXTEND_S)
        own = [self._config.stats.socket]
        if self._hook is None:
            own.append(self._config.hook.socket)
        for path in own:
            if path.is_socket():  # what refused the start is not ours to remove
                path.unlink()
        await parts.store.aclose()
        await parts.journal.aclose()
        parts.staging.close()
        for handle in self._locks:
            os.close(handle)

    # -- what events cause (admission.Actions) ---------------------------------------------------

    async def survey(self) -> Answer:
        """See restore.survey. A stop ends a wait or a restore: the next daemon goes on with it."""
        with anyio.CancelScope() as scope:
            self._surveys.add(scope)
            try:
                return await self._parts.survey.survey()
            finally:
                self._surveys.discard(scope)
        return Answer(ANSWER_SPOOL, "hookd stops; the restore goes on with its next start")

    async def judge(self) -> Answer:
        """See restore.survey; a zdb that may serve is looked through afterwards."""
        answer = await self._parts.survey.judge()
        await self._keep_address()
        if answer.code == 0:
            self.scan()
        return answer

    async def retrieve(self, key: FileKey) -> Answer:
        """See recovery.Retriever.retrieve."""
        parts = self._parts
        self._retrieving += 1
        try:
            answer = await parts.retriever.retrieve(key)
        finally:
            self._retrieving -= 1
        if answer.code == 0:
            for job in parts.scheduler.of(key):
                if job.state is JobState.QUARANTINED:  # it was gone when it should be stored
                    await parts.dispatcher.retry(job)
        return answer

    async def withdraw(self, namespace: str) -> None:
        """zdb removed the namespace: whatever is owed or proven under its name may be the old one's.

        Hooks come out of order, so zdb may have made it again already. Nothing tells the old files
        from the new ones, so all is given up, and what lies on disk now is taken in anew: the store is
        asked first, so what was the new one's already is not uploaded again.
        """
        parts, reason = self._parts, "zdb deleted the namespace"
        await parts.dispatcher.departures.disown(namespace, reason, retire=True, ended=self.scan)
        parts.fence.changed()
        self.scan()

    def scan(self) -> None:
        """Look for unannounced files soon."""
        self._scans_asked += 1
        self._scan_wanted.set()

    def _unscanned(self) -> bool:
        """Whether files may have changed of which no hook will come, and no scan has looked since."""
        return self._scans_met < self._scans_asked or self._starting

    async def zdb_runs(self) -> bool:
        """Whether zdb runs, as far as can be seen."""
        parts = self._parts
        return await anyio.to_thread.run_sync(
            zdb.runs, parts.life, (parts.roots.index, parts.roots.data), abandon_on_cancel=True
        )

    def _owed_namespaces(self) -> list[str]:
        """Who has not said namespace-closing. A root that cannot be listed is the scan's to wait for."""
        try:
            return self._parts.life.owes(self._parts.roots.namespaces())
        except OSError:
            return []

    async def _shims_alive(self) -> int:
        return await anyio.to_thread.run_sync(zdb.shims_alive, self._config.hook.socket)

    async def _holds_changed(self) -> None:
        """A survey replaced the finding: what was held and is not any more may be stored again."""
        parts = self._parts
        for job in list(parts.scheduler):
            if job.error_class == "held" and job.key.namespace not in parts.held:
                await parts.dispatcher.retry(job)
        self.scan()

    async def _keep_address(self) -> None:
        """A daemon that is started anew beside an idle zdb hears no hook for long."""
        life = self._parts.life
        if life.address is not None and life.address != life.heard_before:
            with contextlib.suppress(JournalError):
                await self._parts.journal.set_meta(ZDB_HEARD, life.address)
                life.heard_before = life.address

    # -- in the background -----------------------------------------------------------------------

    async def _scan_forever(self) -> None:
        while True:
            await self._scan_wanted.wait()
            self._scan_wanted = anyio.Event()
            await self._parts.leftovers.look()
            try:
                await self._scan_once(with_active=not await self.zdb_runs())
                self._parts.auditor.scanned()
            except (JournalError, OSError) as error:
                log.error("scan failed", error=str(error))

    async def _scan_for_audit(self) -> list[FileKey]:
        return [job.key for job in await self._scan_jobs(with_active=not await self.zdb_runs())]

    async def _scan_once(self, *, with_active: bool) -> int:
        return len(await self._scan_jobs(with_active=with_active))

    async def _scan_jobs(self, *, with_active: bool) -> list[Job]:
        """Jobs for files that no hook announced, in line."""
        parts = self._parts
        if not with_active and self._starting:
            return []
        asked = self._scans_asked
        newest = max((job.id for job in parts.scheduler), default=0)
        ledger = {entry.key: entry for entry in await parts.journal.ledger()}
        # A look that is given up goes on in its thread, and reads only.
        jobs = await anyio.to_thread.run_sync(
            partial(
                scan.unannounced,
                parts.roots,
                ledger,
                parts.scheduler,
                skip={*parts.config.zdb.skip_namespaces, *parts.held},
                with_active=with_active,
            ),
            abandon_on_cancel=True,
        )
        # What was announced while the scan looked stands for the file.
        jobs = [job for job in jobs if all(o.id <= newest for o in parts.scheduler.of(job.key))]
        if jobs:
            await parts.journal.add_jobs(jobs)
            log.warning("files that no hook announced", files=len(jobs))
            parts.dispatcher.enqueue(jobs)
        self._scans_met = max(self._scans_met, asked)
        return jobs

    @property
    def _starting(self) -> bool:
        """Whether zdb loads its files, and nobody has judged yet whether those may be stored."""
        return self._parts.life.started and self._parts.survey.undecided

    async def _unstored(self, namespaces: Collection[str]) -> dict[str, int]:
        """See Leftovers."""
        parts = self._parts
        ledger = {entry.key: entry for entry in await parts.journal.ledger()}
        work = partial(scan.unstored, parts.roots, ledger, namespaces)
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def _prune_forever(self) -> None:
        while True:
            await anyio.sleep(PRUNE_EVERY_S)
            parts = self._parts
            await self._keep_address()
            await parts.leftovers.look()
            if parts.journal.had_errors:
                # a shim may have found neither journal nor spool while the disk was full
                parts.journal.had_errors = False
                self.scan()
            try:
                await self._prune(parts)
            except JournalError as error:
                log.error("prune failed", error=str(error))

    async def _prune(self, parts: Parts) -> None:
        """Forget all that is over and old, a window at a time, so that hooks are answered meanwhile."""
        before = time.time() - parts.config.journal.keep_s
        # Events to come are younger than `before`: what is open now is all that has to stay.
        open_events = frozenset(job.event for job in parts.scheduler)
        more = True
        while more:
            more = await parts.journal.prune(before=before, open_events=open_events)
            await anyio.sleep(PRUNE_PAUSE_S)


def serve(config: Config, signals: Signals | None = None) -> Exit:
    """Run the daemon in this process until it ends; `signals` has what came before."""
    signals = signals or Signals()

    def announce(line: str) -> None:
        print(f"hookd: {line}", file=sys.stderr, flush=True)

    notify = Notify.from_environment(os.environ)
    hook = activation.hook_socket(os.environ, config.hook.socket)

    async def main() -> Exit:
        found = Daemon(config, announce=announce, signals=signals, notify=notify, hook=hook)
        return await found.run()

    code = anyio.run(main)
    if any(
        not each.daemon for each in threading.enumerate() if each is not threading.main_thread()
    ):
        # A thread that hangs in a dead file system would keep the interpreter from ending. All that
        # must last is committed and closed.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
