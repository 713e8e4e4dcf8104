"""The daemon: locks taken, the parts assembled, run, drained, closed.

    locks → journal → parts → stats socket → dispatcher → spool → hook socket → initial scan

The end is `_drain`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread

from hookd import activation, descriptors, housekeeping, stop_report, zdb
from hookd.admin.server import AdminServer
from hookd.config import Config
from hookd.drain import Drain, Progress, Verdict
from hookd.errors import Exit, JournalError
from hookd.files import FileKey
from hookd.journal import JobState, Journal, tables
from hookd.log import get
from hookd.notify import Notify
from hookd.parts import Parts, assemble, refill
from hookd.pulse import EXTEND_S, Pulse, status
from hookd.recall import REMEMBER_EVENTS
from hookd.scanner import Scanner
from hookd.signals import AGAIN, Signals
from hookd.snapshot import Staging
from hookd.sockets import lock_file, lock_folder
from hookd.startup import FRESH, JOURNAL_ID, Loaded, load, note_store, open_journal
from hookd.wire import ANSWER_SPOOL, Answer

log = get("daemon")

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
        self._scanner = Scanner()
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
        loaded = load(db, events=REMEMBER_EVENTS)
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
            scanner=self._scanner,
            retrieving=lambda: self._retrieving > 0,
        )
        self._scanner.parts = parts
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
        # What is here now stays as long as we do. To look through it for garbage took 20 ms with an empty
        # queue (measured), in the middle of a hook.
        gc.collect()
        gc.freeze()
        await note_store(parts.store, parts.journal)
        with contextlib.suppress(JournalError):  # a full disk is no reason not to start
            await parts.journal.set_meta(JOURNAL_ID, loaded.meta[JOURNAL_ID])
            await parts.journal.set_meta(FRESH, None)
        async with anyio.create_task_group() as group:
            group.start_soon(AdminServer(parts, self._scanner, self).run)
            group.start_soon(parts.dispatcher.run)
            group.start_soon(parts.publisher.run)
            pulse = Pulse(parts, self._notify)
            group.start_soon(pulse.run)
            await parts.spool.sweep()
            pulse.starting = False
            group.start_soon(parts.spool.run)
            group.start_soon(housekeeping.run, parts, self.scan)
            group.start_soon(self._scanner.run)
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
        parts.publisher.hurry()
        if parts.survey.waiting or parts.survey.restorer.progress:
            self._end_surveys()
        config = self._config.drain
        log.info("draining", files=len(parts.scheduler), timeout_s=config.timeout_s)
        counts = parts.dispatcher.counts
        parts.drain = Drain(
            scheduler=parts.scheduler,
            zdb_runs=self._scanner.zdb_runs,
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
            scan=partial(self._scanner.count, with_active=True),
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
        """How it ended, said in some lines; `why` there is no verdict."""
        if self._broken is not None:
            return self._report_broken()
        code, lines = stop_report.report(parts, verdict, why=why, unheld=self._left)
        for line in lines:
            self._announce(line)
        return code

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

    async def by_hand(self, only: list[str] | None) -> str | None:
        """See Survey.by_hand; a stop ends it."""
        with anyio.CancelScope() as scope:
            self._surveys.add(scope)
            try:
                return await self._parts.survey.by_hand(only)
            finally:
                self._surveys.discard(scope)
        return "hookd stops; say this again after its next start"

    async def judge(self) -> Answer:
        """See restore.survey; a zdb that may serve is looked through afterwards."""
        answer = await self._parts.survey.judge()
        await housekeeping.keep_address(self._parts)
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
        self._scanner.ask()

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
        for job in list(self._parts.scheduler):
            if job.error_class == "held" and job.key.namespace not in self._parts.held:
                with contextlib.suppress(JournalError):  # it is in line again all the same
                    await self._parts.dispatcher.retry(job)
        self.scan()


def serve(config: Config, signals: Signals | None = None) -> Exit:
    """Run the daemon in this process until it ends; `signals` has what came before."""
    signals = signals or Signals()
    descriptors.raise_limit()

    def announce(line: str) -> None:
        print(f"hookd: {line}", file=sys.stderr, flush=True)

    notify = Notify.from_environment(os.environ)
    hook = activation.hook_socket(os.environ, config.hook.socket)

    async def main() -> Exit:
        return await Daemon(
            config, announce=announce, signals=signals, notify=notify, hook=hook
        ).run()

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
