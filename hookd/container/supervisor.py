"""Between the stop and zinit: zinit is asked while it lives and answers, then the kernel is.

zinit can be killed, or hang. Its services live on then, as children of the process that started it, and
still have to be stopped one after the other: what zdbfs holds and what hookd has not stored does not care
who supervises it. They are found by what they write to, `layout.LOGS`/SERVICE, which nothing else does.

    zinit lives and answers     zinit's word
    lives, does not answer      a process that the kernel shows is running; one that it does not show may
                                be about to be started: not known (ZinitSilent), until SILENT_LIMIT_S
    silent for longer           it is killed, then as below
    dead                        signals and looks by pid; nothing is started again but by `start`
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from hookd.container import layout
from hookd.container.zinit import LOST, Status, ZinitError, ZinitSilent

ENDING_LIMIT_S = 2.0
"""From closing its files to its exit code, with much else at work."""

SILENT_LIMIT_S = 30.0
"""Longer than a machine that swaps keeps zinit from an answer."""
_SHIM = "hookd-shim"


class Asked(Protocol):
    """What is needed of zinit."""

    def status(self, service: str) -> Status: ...
    def start(self, service: str) -> None: ...
    def stop(self, service: str) -> None: ...
    def kill(self, service: str, signal: str) -> None: ...


class Supervisor:
    """Has the methods of `Asked`; each may raise ZinitError, and after zinit's death only `kill` does."""

    def __init__(
        self,
        zinit: Asked,
        *,
        lives: Callable[[], bool],
        end: Callable[[], None],
        find: Callable[[str], int],
        spawn: Callable[[str], None],
        ended: Mapping[int, int],
        seen: Mapping[str, int] = MappingProxyType({}),
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lives`: whether zinit does; children that have ended are in `ended` after it. `end` kills it,
        and returns when it has ended; `find`: the pid of a service, 0 if none; `spawn` starts one without
        zinit; `ended`: pid → exit code, negative for a signal, of those that ended as children of this
        process; `seen`: service → its pid when zinit was asked last, 0 for none.
        """
        self._zinit = zinit
        self._lives = lives
        self._end = end
        self._find = find
        self._spawn = spawn
        self._ended = ended
        self._say = say
        self._clock = clock
        self._silent_since: float | None = None
        self._pids = {service: pid for service, pid in seen.items() if pid}
        self._told: set[str] = set()
        """Told to stop since zinit's death."""

    def status(self, service: str) -> Status:
        """How the service is now."""
        if self._lives():
            try:
                status = self._zinit.status(service)
            except ZinitSilent as error:
                pid = self._find(service)
                self._silent(error, raises=not pid)
                if self._lives():
                    return Status(pid=pid, state="Running")
            else:
                self._silent_since = None
                if status.pid:
                    self._pids[service] = status.pid
                else:
                    self._pids.pop(service, None)
                return status
        if pid := self._find_or_reap(service):
            self._pids[service] = pid
            return Status(pid=pid, state="Running", wanted=service not in self._told)
        return Status(pid=0, state=_state(self._pids.get(service, 0), self._ended), wanted=False)

    def _find_or_reap(self, service: str) -> int:
        """As `find`. One that is ending has closed its files a moment before its code can be had; `lives`
        reaps it, then.
        """
        found, known = self._find(service), self._pids.get(service, 0)
        ends = time.monotonic() + ENDING_LIMIT_S
        while not found and known and known not in self._ended and os.path.exists(f"/proc/{known}"):
            if time.monotonic() > ends:
                break
            time.sleep(0.01)
            self._lives()
            found = self._find(service)
        return found

    def start(self, service: str) -> None:
        """Start it unless it runs."""
        if not self._asked(lambda: self._zinit.start(service)) and not self._find(service):
            self._told.discard(service)
            self._spawn(service)

    def stop(self, service: str) -> None:
        """Send its stop signal, and do not start it again. Returns at once."""
        if not self._asked(lambda: self._zinit.stop(service)):
            self._told.add(service)
            self._signal(service, signal.SIGTERM)

    def kill(self, service: str, signal_name: str) -> None:
        """Send a signal to its process group."""
        if not self._asked(lambda: self._zinit.kill(service, signal_name)):
            self._signal(service, signal.Signals[signal_name])

    def _asked(self, call: Callable[[], None]) -> bool:
        """Whether zinit did it; if not, it is dead."""
        if not self._lives():
            return False
        try:
            call()
        except ZinitSilent as error:
            self._silent(error, raises=True)
            return False
        self._silent_since = None
        return True

    def _silent(self, error: ZinitSilent, *, raises: bool) -> None:
        """Returns if zinit is dead, or `raises` is False; else raises `error`."""
        if not self._lives():
            return
        now = self._clock()
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since >= SILENT_LIMIT_S:
            self._say(
                f"zinit has not answered for {SILENT_LIMIT_S:g} s: killed; its services are stopped by"
                " their pids"
            )
            self._end()
        elif raises:
            raise error

    def _signal(self, service: str, number: signal.Signals) -> None:
        if not (pid := self._find(service)):
            return
        self._pids[service] = pid
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return
        except OSError as error:
            raise ZinitError(f"{service}: {number.name}: {error}") from None


def find(service: str, parents: Collection[int], logs: Path = layout.LOGS) -> int:
    """The pid of a service, 0 if it does not run: a child of one of `parents`, at the head of a process
    group, that writes to the service's log. A shim that has lost its zdb is none.
    """
    log = os.path.realpath(logs / service)
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            if os.readlink(f"/proc/{entry}/fd/1") != log:
                continue
            name, _, rest = (
                Path(f"/proc/{entry}/stat").read_text().partition("(")[2].rpartition(")")
            )
        except OSError:  # ended, or not ours
            continue
        _, parent, group = rest.split()[:3]
        if int(parent) in parents and group == entry and name != _SHIM:
            return int(entry)
    return 0


def spawn(service: str, environ: Mapping[str, str]) -> None:
    """Start a service as zinit would. Raises ZinitError."""
    path = layout.ZINIT_SERVICES / f"{service}.yaml"
    try:
        words = command_of(path.read_text())
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            env=environ,
            cwd="/",
            process_group=0,
            preexec_fn=unblock,
        )
    except (OSError, ValueError) as error:
        raise ZinitError(f"{service} cannot be started: {error}") from None


def command_of(text: str) -> list[str]:
    """The `exec` of a service file, as words. Raises ValueError."""
    import shlex

    for line in text.splitlines():
        if line.startswith("exec: "):
            return shlex.split(line[len("exec: ") :])
    raise ValueError("no line begins with exec:")


def unblock() -> None:
    """In a child before its program: the services must not inherit PID 1's blocked stop signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _state(pid: int, ended: Mapping[int, int]) -> str:
    """As zinit writes it; LOST for one that ran, and of whose end nobody knows."""
    if (code := ended.get(pid)) is None:
        return LOST if pid else "Unknown"
    if code < 0:
        return f"Error(Signaled(Pid({pid}), {signal.Signals(-code).name}, false))"
    return f"Error(Exited(Pid({pid}), {code}))" if code else "Success"
