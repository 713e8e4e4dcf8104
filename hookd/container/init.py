"""PID 1 of the container: preflight, the services' log, zinit, and at the end the stop.

zinit runs below it, in a session of its own (ctrl-C reaches only this process), starts the services in
order and again when they end. This process reaps what loses its parent, starts a zdbfs again whose zdb
has died, and a zstor that was started without all of its backends, once they are back, and gives the
container its exit code. When zinit dies its services become children of this process, also where it is
not PID 1 (`docker run --init`), and are stopped in order: without zinit nothing would be started again
that ends.

Weakness: a stop signal in the first millisecond, before the image's ENTRYPOINT has blocked it (`env
--block-signal`), is dropped by the kernel, as for every PID 1 that has not said what to do with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from hookd.container import backends, layout, mounts, preflight, services, supervisor, zstor_toml
from hookd.container.flush import Flush
from hookd.container.loglines import LogPump
from hookd.container.stop import Stop, is_refused
from hookd.container.supervisor import Supervisor
from hookd.container.zinit import Zinit, ZinitError
from hookd.errors import Exit, UserError
from hookd.log import register_secret
from hookd.sockets import lock_file

LOOK_EVERY_S = 0.2
BACKENDS_EVERY_S = 5.0
ZINIT_START_S = 10.0
ZINIT_END_S = 5.0
SETTLE_S = 5.0

UNHEARD = (
    "zdbfs's last words could not be read in time: whether it wrote all it held to zdb is not known"
)

_SET_CHILD_SUBREAPER = 36
"""prctl.h"""

_ZINIT = "zinit"
"""Its name in the log."""

_STOPS = (signal.SIGTERM, signal.SIGINT)


def run(environ: Mapping[str, str]) -> int:
    """The whole life of the container; returns its exit code. Raises UserError before anything runs."""
    # A stop signal waits until it is asked for: one that comes during the start is obeyed after it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    _adopt_orphans()
    # Neither files nor keys (zstor aborts over a wrong one) go into a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if code := _in_child(lambda: _check(environ)):
        return code
    settings = layout.read_settings(environ)
    found = None
    if layout.stores_in_zstor(environ):
        found, secrets = zstor_toml.check(layout.ZSTOR_CONFIG, settings.mountpoint)
        for secret in secrets:
            register_secret(secret)
    lock = lock_file(layout.STATE / "container.lock", "/data")
    _clear_run()
    flush = Flush(lambda line: pump.say(line))
    pump = LogPump(
        layout.LOGS,
        (*layout.SERVICES, _ZINIT),
        {"zstor": layout.ZSTOR_LOG},
        terminals=("zdb", "fs"),
        listeners={"fs": flush.hear},
    )
    pump.start()

    try:
        return Init(settings, found, pump.say, lambda: unwritten(pump, flush)).run()
    finally:
        pump.finish()
        os.close(lock)


def unwritten(pump: LogPump, flush: Flush, within_s: float = SETTLE_S) -> str:
    """A line about what zdbfs could not write, or about its last words being unknown; empty for all."""
    return flush.unwritten if pump.settle(within_s) else UNHEARD


class Init:
    """The running container."""

    def __init__(
        self,
        settings: layout.Settings,
        found: zstor_toml.Backends | None,
        say: Callable[[str], None],
        unwritten: Callable[[], str],
    ) -> None:
        """`found` are zstor's backends, None where the store is another one; `unwritten`: see `Stop`."""
        self._settings = settings
        self._backends = found
        self._say = say
        self._unwritten = unwritten
        self._zinit = Zinit()
        self._process: subprocess.Popen[bytes] | None = None
        self._zinit_code: int | None = None
        self._ended: dict[int, int] = {}
        """pid → exit code of what was a child of this process when it ended, once zinit is dead."""
        self._signals = 0
        self._looked = 0.0
        self._started = time.monotonic()
        self._mounted = False
        self._served = False
        """Whether zdb has ever answered."""
        self._pids: dict[str, int] = {}
        """Service → pid of the zdb and zdbfs that were seen last; 0 while none runs."""

    def run(self) -> int:
        """Start, watch, stop."""
        services.clear(self._settings.mountpoint, self._say)
        try:
            return self._run()
        finally:  # last: until then nothing is to be written below what is mounted next time
            with contextlib.suppress(UserError):
                services.give_back(self._settings.mountpoint)

    def _run(self) -> int:
        self._process = self._start_zinit()
        while not self._stop_asked():
            if self._zinit_code is not None:
                self._say(f"zinit has ended ({self._zinit_code}); its services are stopped")
                break
            if self._refused():
                self._say("hookd cannot start, by its own word above: all is stopped")
                break
            self._watch()
            self._wait(LOOK_EVERY_S)
        self._say("stop: zdbfs, zdb, hookd, zstor, one after the other")
        asked = self._signals > 0
        code = self._stop()
        self._end_zinit()
        self._say(f"stopped ({code})" if code else "stopped; nothing is left to store")
        return code if asked else code or Exit.SOFTWARE

    def _start_zinit(self) -> subprocess.Popen[bytes]:
        """Its own lines go the way of the services': nobody may read this process's stdout, and a zinit
        that waited for that would stop nothing.
        """
        with open(layout.LOGS / _ZINIT, "wb") as log:
            return subprocess.Popen(
                ["zinit", "init", "--container", "--config", str(layout.ZINIT_SERVICES)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
                preexec_fn=supervisor.unblock,
            )

    # -- watching --------------------------------------------------------------------------------

    def _watch(self) -> None:
        if not self._mounted and mounts.is_fuse(mounts.top(self._settings.mountpoint)):
            self._mounted = True
            took = time.monotonic() - self._started
            self._say(f"mounted on {self._settings.mountpoint} after {took:.1f} s")
        with contextlib.suppress(ZinitError):
            self._watch_zdb()
        now = time.monotonic()
        if now - self._looked < BACKENDS_EVERY_S:
            return
        self._looked = now
        with contextlib.suppress(OSError, ZinitError):
            self._watch_backends()

    def _watch_zdb(self) -> None:
        """A zdbfs whose zdb has died is killed before zinit starts zdb again, two seconds later.

        It would connect again, but go on with ids that the new zdb refuses ("Invalid key, only update
        authorized"), and fail every larger write. What it had in memory, 10 s at most, is lost anyway.
        """
        zdb, filesystem = self._zinit.status("zdb"), self._zinit.status("fs")
        self._served = self._served or zdb.state == "Running"
        before = self._pids
        self._pids = {"zdb": zdb.pid, "fs": filesystem.pid}
        if before.get("fs") and not filesystem.pid and filesystem.signal:
            self._say(
                f"zdbfs has died ({filesystem.signal}): what it held, the writes of 10 s at most, is lost"
            )
        if before.get("zdb") and zdb.pid != before["zdb"] and filesystem.pid:
            self._say("zdb has died: zdbfs is started again with it")
            self._zinit.kill("fs", "SIGKILL")

    def _refused(self) -> bool:
        """Whether hookd ends over its configuration and zdb has not been started yet: nothing will be."""
        if self._pids.get("zdb") or self._served:
            return False
        try:
            return is_refused(self._zinit.status("hookd"))
        except ZinitError:
            return False

    def _watch_backends(self) -> None:
        """A zstor that lacks backends since its start has to be started again, once they are back."""
        found = self._backends
        if found is None or not layout.ZSTOR_LACKS.exists():
            return
        lacks = layout.ZSTOR_LACKS.read_text().splitlines()
        wanted = [a for a in (*found.meta, *found.data) if backends.shown(a) in lacks]
        if len(backends.away(wanted)) == len(wanted):
            return  # none is back, so nothing would be gained
        layout.ZSTOR_LACKS.unlink()
        self._say("backends that zstor was started without are back: zstor is started again")
        # Killed: a store in its midst is not acknowledged, and hookd does it again.
        self._zinit.kill("zstor", "SIGKILL")

    # -- stopping --------------------------------------------------------------------------------

    def _stop(self) -> int:
        """What zdbfs still holds may go where otherwise nothing is written."""
        ends = time.monotonic() + ZINIT_START_S
        while self._lives() and not self._zinit.answers() and time.monotonic() < ends:
            self._wait(0.05)  # a stop in the first moment: it would not hear who has to stay down
        services.release()
        assert self._process is not None
        parents = (os.getpid(), self._process.pid)
        return Stop(
            Supervisor(
                self._zinit,
                lives=self._lives,
                end=self._kill_zinit,
                find=lambda service: supervisor.find(service, parents),
                spawn=lambda service: supervisor.spawn(service, self._environment()),
                ended=self._ended,
                seen=self._pids,
                say=self._say,
            ),
            say=self._say,
            limit_s=self._settings.stop_limit_s,
            is_ready=lambda: services.connects(layout.HOOK_SOCKET),
            unmount=self._unmount,
            hurried=lambda: self._signals > 1,
            unwritten=self._unwritten,
            served=lambda: self._served,
            sleep=self._wait,
        ).run()

    def _unmount(self) -> None:
        try:
            mounts.detach_dead(self._settings.mountpoint)
        except mounts.Taken:
            pass  # of another container, which came while zdbfs was started again here
        except OSError as error:
            self._say(f"the mount could not be taken away: {error}")

    def _lives(self) -> bool:
        """Whether zinit does."""
        self._reap()
        return self._zinit_code is None

    def _kill_zinit(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        while self._lives():
            time.sleep(0.01)

    def _environment(self) -> dict[str, str]:
        """Of zinit, and so of all services."""
        return {**self._settings.hookd_variables, **os.environ}

    def _end_zinit(self) -> None:
        assert self._process is not None
        if self._zinit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
        ends = time.monotonic() + ZINIT_END_S
        while self._zinit_code is None and time.monotonic() < ends:
            self._wait(0.02)

    # -- signals and children --------------------------------------------------------------------

    def _stop_asked(self) -> bool:
        return self._signals > 0

    def _wait(self, seconds: float) -> None:
        """Sleep, but not past a first stop signal; reap."""
        before = self._signals
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0 and (before or not self._signals):
            if signal.sigtimedwait(_STOPS, left) is not None:
                self._signals += 1
        self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        found: dict[int, int] = {}
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                found[reaped[0]] = os.waitstatus_to_exitcode(reaped[1])
        if self._process.pid in found:
            self._zinit_code = found.pop(self._process.pid)
        if self._zinit_code is not None:  # also those that ended with it, and were met before it
            self._ended.update(found)


def _adopt_orphans() -> None:
    """Those of zinit come to this process, as they do to PID 1 by itself (PR_SET_CHILD_SUBREAPER)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_CHILD_SUBREAPER, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        reason = os.strerror(ctypes.get_errno())
        raise UserError(f"prctl: {reason}: services that outlive zinit could not be stopped")


def _check(environ: Mapping[str, str]) -> int:
    try:
        for line in preflight.check(environ):
            print(f"qsfs: {line}", flush=True)
    except UserError as error:
        print(f"qsfs: {error}", file=sys.stderr, flush=True)
        return error.code
    return Exit.OK


def _in_child(work: Callable[[], int]) -> int:
    """The exit code of `work`, done in a process of its own: what it imports this one need not keep."""
    pid = os.fork()
    if pid == 0:
        code: int = Exit.SOFTWARE
        try:
            supervisor.unblock()
            code = work()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _clear_run() -> None:
    """Remove what an earlier life of this container left in /run: sockets, marks, logs."""
    try:
        layout.RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (
            layout.ZSTOR_LACKS,
            layout.ZSTOR_WAITS,
            layout.ZSTOR_SOCKET,
            layout.ZDB_SOCKET,
        ):
            path.unlink(missing_ok=True)
        for path in layout.RUN.glob("zstor*.log"):
            path.unlink()
    except OSError as error:
        raise UserError(f"{layout.RUN} cannot be used: {error}", code=Exit.CONFIG) from None


def command(words: list[str], environ: Mapping[str, str]) -> int:
    """`hookd container WORD ...`. Raises UserError."""
    commands: dict[str, Callable[[Mapping[str, str]], object]] = {
        "zstor": services.zstor,
        "zdb": services.zdb,
        "fs": services.fs,
    }
    if words == ["run"]:
        return run(environ)
    if words == ["check"]:
        return _check(environ)
    if len(words) == 1 and words[0] in commands:
        commands[words[0]](environ)
        return Exit.SOFTWARE  # not reached: it became the program
    if len(words) == 2 and words[0] == "wait" and words[1] in layout.SERVICES:
        return Exit.OK if services.wait(words[1], environ) else Exit.FAILED
    raise UserError("container run | check | zstor | zdb | fs | wait SERVICE", code=Exit.USAGE)
