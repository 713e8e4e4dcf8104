"""Stage stop: the services one after the other, each only when the one that needs it has ended.

    ns → fs (flushes) → zdb (closes) → hookd (drains) → zstor

zinit can stop services in this order too, and does where nothing else is there, but: it gives up
waiting without a word, takes a service that is between two lives for one that has ended (and starts it
again while the others stop), and exits 0 whatever happened. Here each service is told by name to stop
and to stay down, which zinit honours also in between; what the next one still needs is kept alive
until then; and the exit code is hookd's own, unless zdbfs or zdb did not end by itself, or zdbfs said
that it could not write something: then 75 stands for what they may not have handed on.

A question that zinit does not answer says nothing: it is asked again. Who watches that zinit answers at
all is `supervisor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from hookd.container.zinit import LOST, Status, ZinitError
from hookd.errors import Exit

LOOK_EVERY_S = 0.1
SAY_EVERY_S = 10.0
AFTER_KILL_S = 10.0
ZSTOR_LIMIT_S = 10.0
HOOKD_START_LIMIT_S = 60.0
DRAIN_ATTEMPTS = 3
"""Drains begun anew when hookd was killed in one."""
UNSERVED_LIMIT_S = 5.0
"""For a zdb that has never answered: it waits in its first hook, and nobody has written to it."""


def is_refused(status: Status) -> bool:
    """Whether it has ended over its configuration, as it will each time it is started."""
    return status.pid == 0 and status.exit_code in (Exit.USAGE, Exit.CONFIG)


class Services(Protocol):
    """What the stop needs of zinit; each call may raise ZinitError."""

    def status(self, service: str) -> Status: ...
    def start(self, service: str) -> None: ...
    def stop(self, service: str) -> None: ...
    def kill(self, service: str, signal: str) -> None: ...


class Stop:
    """One stop of all services."""

    def __init__(
        self,
        zinit: Services,
        *,
        say: Callable[[str], None],
        limit_s: float,
        is_ready: Callable[[], bool],
        unmount: Callable[[], None],
        hurried: Callable[[], bool],
        unwritten: Callable[[], str],
        served: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`limit_s`: seconds that zdbfs, and then zdb, have; `is_ready`: whether hookd takes events;
        `unmount` takes away what a killed zdbfs left; `hurried`: whether a second signal has come;
        `unwritten`: a line about what zdbfs could not write, empty if it wrote all (`flush`);
        `served`: whether zdb has ever answered.
        """
        self._zinit = zinit
        self._say = say
        self._limit_s = limit_s
        self._is_ready = is_ready
        self._unmount = unmount
        self._hurried = hurried
        self._unwritten = unwritten
        self._served = served
        self._clock = clock
        self._sleep = sleep
        self._unsure: set[str] = set()
        """Told to stop, without an answer."""
        self._complaint = ""

    def run(self) -> int:
        """Stop everything; returns the container's exit code: hookd's, or 75 where that would lie."""
        self._end("ns", self._limit_s)
        flushed = self._end("fs", self._limit_s, "zdbfs to write what it holds")
        self._unmount()
        closed = self._end("zdb", self._limit_s, "zdb to close its files")
        code = self._drain()
        self._end("zstor", ZSTOR_LIMIT_S)
        if line := self._unwritten():
            self._say(line)
        if not flushed:
            self._say(
                "zdbfs was killed before it had written all it held to zdb: what was written or changed"
                " in its last moments may be missing or incomplete"
            )
        if not closed:
            self._say(
                "zdb was killed before it had closed its files: what it wrote last is on /data, and may"
                " not be in the store; it is stored after the next start"
            )
        return code if flushed and closed and not line else code or Exit.TEMPFAIL

    def _end(self, service: str, limit_s: float, what: str = "") -> bool:
        """Stop and wait; kill it when the limit is over. Whether it ended by itself, or held nothing."""
        before = self._status(service)
        # `Running` is zinit's word for one whose test has passed
        if service == "zdb" and before and before.state == "Spawned" and not self._served():
            self._end_unserved(service)
            return True
        self._stop(service)
        last = self._gone(service, limit_s, what or f"{service} to end")
        if last is None:
            self._say(f"{service} has not ended after its stop signal: killed")
            self._try(lambda: self._zinit.kill(service, "SIGKILL"))
            self._gone(service, AFTER_KILL_S, f"{service} to end")
            return False
        if last.state == LOST:
            self._say(f"{service} is not there any more, and how it ended nobody knows")
            return False
        # Whether it ran a moment ago or at the stop signal: what it held is gone with it.
        # SIGTERM: it was not the program yet, which has a handler for that
        return last.signal in (None, "SIGTERM")

    def _end_unserved(self, service: str) -> None:
        self._stop(service)
        if self._gone(service, UNSERVED_LIMIT_S, f"{service} to end") is None:
            self._try(lambda: self._zinit.kill(service, "SIGKILL"))
            self._gone(service, AFTER_KILL_S, f"{service} to end")

    def _drain(self) -> int:
        """Have hookd store what is left; its exit code, or SOFTWARE where it never gave one."""
        for attempt in range(DRAIN_ATTEMPTS):
            ran = True
            if attempt:
                self._say("hookd ended in the middle of its drain: once more")
            status = self._status("hookd")
            if (status is not None and status.pid == 0) or not self._is_ready():
                # between two lives: what zdb just announced is in the spool, and has to be stored
                self._try(lambda: self._zinit.start("hookd"))
                if not self._ready(HOOKD_START_LIMIT_S):
                    status = self._status("hookd")
                    ran = status is None or status.pid != 0
            self._stop("hookd")
            last = self._gone("hookd", None, "hookd to store what is left")
            code = last.exit_code if last is not None else None
            if ran and code in (Exit.OK, Exit.TEMPFAIL):
                return code
            if self._hurried():
                return Exit.TEMPFAIL
            if code in (Exit.CONFIG, Exit.NOPERM, Exit.USAGE):
                return code
            if not ran:  # what it waits for (zstor) does not come; a code is that of an earlier one
                break
        self._say("hookd could not finish; what is left is stored after the next start")
        return Exit.SOFTWARE

    def _ready(self, limit_s: float) -> bool:
        """Wait until hookd takes events; whether it does. One that its configuration ends never will."""
        ends = self._clock() + limit_s
        while not self._is_ready():
            status = self._status("hookd")
            if self._hurried() or self._clock() >= ends or (status and is_refused(status)):
                return False
            self._sleep(LOOK_EVERY_S)
        return True

    def _gone(self, service: str, limit_s: float | None, what: str) -> Status | None:
        """Wait until no process of it runs; how it ended, or None when the limit is over."""
        started = said = self._clock()
        hurried = False
        while not (status := self._look(service)) or status.pid:
            now = self._clock()
            if limit_s is not None and now - started >= limit_s:
                return None
            if self._hurried() and not hurried:
                hurried = True
                if limit_s is None:  # hookd takes a second signal for "now"
                    self._try(lambda: self._zinit.kill(service, "SIGTERM"))
                else:
                    limit_s = min(limit_s, now - started + 1.0)
            if now - said >= SAY_EVERY_S:
                said = now
                self._say(f"stopping: waiting for {what} ({now - started:.0f} s)")
            self._sleep(LOOK_EVERY_S)
        return status

    def _look(self, service: str) -> Status | None:
        """How it is, once it is sure to stay down; one that has not heard the stop is told again."""
        status = self._status(service)
        if service in self._unsure and status is not None and status.wanted is not None:
            self._unsure.discard(service)
            if status.wanted:
                self._stop(service)
                return None
        return status

    def _status(self, service: str) -> Status | None:
        """How it is now; None where nobody can say."""
        try:
            return self._zinit.status(service)
        except ZinitError as error:
            self._complain(error)
            return None

    def _stop(self, service: str) -> None:
        """Told once: hookd takes a second signal for "now". Without an answer, `_gone` looks whether
        it was heard, and tells it again if it was not.
        """
        try:
            self._zinit.stop(service)
        except ZinitError as error:
            self._complain(error)
            self._unsure.add(service)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except ZinitError as error:
            self._complain(error)

    def _complain(self, error: ZinitError) -> None:
        """Each only once in a row: it is asked ten times a second."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            self._say(self._complaint)
