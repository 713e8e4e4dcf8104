"""First act: the recorded life of a real zdb, replayed hook by hook while things go wrong.

The demo plays zdb (files, hooks, a listener by which hookd sees that zdb lives); the shim and the
daemon are the product. The cuts below are places in the record: what happens between two of them is
zdb's own, in its own order.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from hookd.admin.words import count, verb
from hookd.demo import check
from hookd.demo.report import Report
from hookd.demo.screen import Doing, Screen, stored
from hookd.demo.stage import Called, Stage
from hookd.demo.trace import Replay, Step, load
from hookd.event import BLOCKING

SKIPPED = ("zdbfs-temp",)
"""Scratch of zdbfs: hookd stores nothing of it unless told so."""

STORE_LEAVES = 11
HOOKD_FREEZES = 21
HOOKD_DIES = 24
HOOKD_RETURNS = 29
FILES_VANISH = 31
ZDB_STOPS = 34
LAST_STOP = 52
"""Numbers of steps: before which of them it happens."""


class TraceAct:
    """Runs once."""

    def __init__(self, stage: Stage, screen: Screen, report: Report) -> None:
        self.stage = stage
        self._screen = screen
        self._report = report
        self._steps = load()
        self._zdb = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=_accept, args=(self._zdb,), daemon=True).start()
        self._replay = Replay(stage.folder, zdb_id=f"tcp://127.0.0.1:{self._zdb.getsockname()[1]}")
        self._called = 0
        self._under_way: list[tuple[Step, subprocess.Popen[bytes]]] = []

    def run(self) -> None:
        """All of it. Raises DemoFailed when it cannot go on."""
        began = time.monotonic()
        try:
            self._begin()
            self._lose_store()
            self._kill_daemon()
            self._return_both()
            self._ask_back()
            self._go_on()
            self._drain()
        finally:
            _end(self._zdb)
        with self._screen.step("everything in the store is compared", self._report) as done:
            self.verify()
            done.note = f"{count(len(self._report.claims), 'check')} so far"
        self._report.seconds = time.monotonic() - began

    # -- the scenes ------------------------------------------------------------------------------

    def _begin(self) -> None:
        with self._step("hookd serve starts") as done:
            self.stage.start()
            done.note = "it listens"
        with self._step("zdb starts and fills its first files") as done:
            called = self._play(self._steps[:STORE_LEAVES])
            self.stage.until_stored()
            done.note = f"{_answers(called)}, all stored"

    def _lose_store(self) -> None:
        with self._step("the store goes away, zdb goes on") as done:
            self.stage.take_store_away()
            called = self._play(self._steps[STORE_LEAVES:HOOKD_FREEZES])
            waiting = self.stage.stats()["queue"]["files"]
            self._report.claim("no file waits while the store is away", waiting > 0)
            done.note = f"{_answers(called)}; {count(waiting, 'file')} wait"
        self._report.mishaps.append(
            (
                f"the store was away for {count(len(called), 'hook')}",
                f"acknowledged within {_slowest(called)}, {count(waiting, 'file')} waited",
            )
        )

    def _kill_daemon(self) -> None:
        with self._step("kill -9 of hookd in the middle of it") as done:
            self.stage.freeze()
            in_flight = self._steps[HOOKD_FREEZES:HOOKD_DIES]
            for step in in_flight:
                self._replay.lay_out(step)
                self._start(step, away=True)
            self.stage.kill()
            self._collect(away=True)
            self._play(self._steps[HOOKD_DIES:HOOKD_RETURNS], away=True)
            spooled = len(self.stage.spooled())
            expected = HOOKD_RETURNS - HOOKD_FREEZES
            self._report.claim(
                f"{spooled} of {expected} events are in the spool", spooled == expected
            )
            done.note = f"{count(spooled, 'event')} spooled, {len(in_flight)} were in flight"
        self._report.mishaps.append(
            (
                f"kill -9 of hookd with {count(len(in_flight), 'hook')} in flight",
                f"{count(spooled, 'event')} kept by the shims, taken in at the restart",
            )
        )

    def _return_both(self) -> None:
        with self._step("hookd and the store come back") as done:
            copy = self.stage.copy_spooled()
            self.stage.bring_store_back()
            self.stage.start()
            self.stage.deliver_again(copy)
            took, left = self.stage.until_stored(but_blocked=True)
            self.stage.note()
            twice = self.stage.duplicates
            self._report.claim(f"{twice} events were known already, expected 1", twice == 1)
            done.note = stored(took, left)
        self._report.mishaps.append(
            ("a spooled event was delivered twice", f"{twice} known by its id: done once")
        )

    def _ask_back(self) -> None:
        with self._step("data files are removed, zdb asks one back") as done:
            self._play(self._steps[HOOKD_RETURNS:FILES_VANISH])
            self.stage.until_stored()
            before = self._steps[FILES_VANISH]
            gone = [path.lstrip("/") for path in self._replay.vanishing(before)]
            there = all((self.stage.store / key).exists() for key in gone)
            self._report.claim(f"{gone} were not stored before they were removed", there)
            took = 0.0
            for step in self._steps[FILES_VANISH:ZDB_STOPS]:
                [called] = self._play([step], wait=True)
                if step.asked_back:
                    right = self._replay.returned(step.asked_back)
                    self._report.claim(f"{step.asked_back} did not come back right", right)
                    took = called.seconds
            done.note = f"{count(len(gone), 'file')} removed; back after {took * 1000:.0f} ms"
        back = len(gone) - len(self._replay.away)
        self._report.mishaps.append(
            (
                f"{count(len(gone), 'data file')} {verb(len(gone), 'was', 'were')} removed here",
                f"{back} asked back by zdb: there after {took * 1000:.0f} ms, bytes right",
            )
        )

    def _go_on(self) -> None:
        with self._step("zdb stops, starts again, and writes on") as done:
            called = self._play(self._steps[ZDB_STOPS:LAST_STOP])
            done.note = _answers(called)

    def _drain(self) -> None:
        with self._step("SIGTERM to hookd while zdb still runs") as done:
            self.stage.stop()
            done.note = self.stage.draining()
        with self._step("zdb stops, its last hooks outlive it") as done:
            closing, *last = self._steps[LAST_STOP:]
            called = self._play([closing])
            _end(self._zdb)
            called += self._play(last)
            code = self.stage.ended()
            self._report.claim(f"hookd exited {code}, expected 0", code == 0)
            done.note = f"{_answers(called)}; hookd exits {code}"

    def verify(self) -> None:
        """Compare the store with what zdb had, and the journal with what was called."""
        stage, report = self.stage, self._report
        wanted = {
            key: hashlib.blake2b(content.read()).hexdigest()
            for key, content in self._replay.wanted(SKIPPED)
        }
        here = check.local_files(stage.folder)
        for key, digest in wanted.items():
            if key in here:
                report.claim(f"{key} is not as zdb left it", here[key] == digest)
        events = check.journal_events(stage.journal)
        named = check.announced_files(argv for argv, _ in events)
        announced = {key for key in named if key.split("/")[1] not in SKIPPED}
        check.compare(report, wanted, announced, stage.store)
        report.events = check.count_events(events, stage.duplicates)
        report.claim(
            f"{self._called} hooks were called, {report.events.total} are in the journal",
            self._called == report.events.total,
        )

    # -- zdb's part --------------------------------------------------------------------------------

    def _step(self, doing: str) -> AbstractContextManager[Doing]:
        return self._screen.step(doing, self._report)

    def _play(
        self, steps: Sequence[Step], *, away: bool = False, wait: bool = False
    ) -> list[Called]:
        """Lay out the files of each step and call its hook; returns those that zdb waited for.

        `wait` waits for all of them. `away`: whether there is a daemon, which decides what the
        shim has to say.
        """
        called = []
        for step in steps:
            self._replay.lay_out(step)
            if wait or step.hook in BLOCKING:
                self._called += 1
                called.append(self.stage.call(self._replay.argv(step), away=away))
                self._judge(step, called[-1].code, away)
            else:
                self._start(step, away)
        self._collect(away)
        return called

    def _start(self, step: Step, away: bool) -> None:
        self._called += 1
        process = self.stage.begin(self._replay.argv(step), away=away)
        self._under_way.append((step, process))

    def _collect(self, away: bool) -> None:
        for step, process in self._under_way:
            self._judge(step, process.wait(), away)
        self._under_way.clear()

    def _judge(self, step: Step, code: int, away: bool) -> None:
        """Spooled, jump-index says 1, so that zdb keeps its list of rewritten files."""
        expected = 1 if away and step.hook == "jump-index" else 0
        self._report.claim(
            f"hook {step.number}, {step.hook}, exited {code}, expected {expected}", code == expected
        )


def _answers(called: Sequence[Called]) -> str:
    return f"{count(len(called), 'hook')} waited for, at most {_slowest(called)}"


def _slowest(called: Sequence[Called]) -> str:
    return f"{max((c.seconds for c in called), default=0.0) * 1000:.0f} ms"


def _accept(zdb: socket.socket) -> None:
    """Who looks whether it lives is let in and sent away."""
    while True:
        try:
            connection, _ = zdb.accept()
        except OSError:
            return
        connection.close()


def _end(zdb: socket.socket) -> None:
    if zdb.fileno() >= 0:
        zdb.shutdown(socket.SHUT_RDWR)
        zdb.close()
