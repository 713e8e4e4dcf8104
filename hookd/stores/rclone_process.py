"""The one rclone of a store: started when it is needed, watched, started anew when it ends.

In: calls; out: the same calls to `rclone rcd`, on a socket in a folder that nobody else can enter
and with credentials that only its environment holds. This module owns the invariant that no
rclone of ours outlives this process: the kernel kills it when we die (PR_SET_PDEATHSIG, for the
thread that started it), so what it was uploading cannot take effect after a later start has
stored something newer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from hookd.backoff import Backoff
from hookd.errors import ConfigError
from hookd.log import get
from hookd.rclone import program
from hookd.rclone.control import HungUp, Refused, RemoteControl
from hookd.settings_types import MAX_SOCKET_BYTES
from hookd.sockets import make_folder

log = get("rclone")

FS = "hookdstore:"
"""What the store's remote is called towards rclone: an alias, so that neither a command line nor a
request shows what stands in the setting (a connection string may hold a password)."""

START_WITHIN_S = 30.0
PING_EVERY_S = 5.0
PING_WITHIN_S = 10.0
"""rclone answers this at once, however slow its remote is."""

END_WITHIN_S = 3.0
STEADY_S = 60.0
"""A process that lived longer than this is started anew as if nothing had failed before."""

_NAME = "HOOKDSTORE"
_DEFAULTS = {"RCLONE_CONTIMEOUT": "15s", "RCLONE_TIMEOUT": "60s", "RCLONE_LOW_LEVEL_RETRIES": "3"}
"""rclone's own (1m, 5m, 10) would keep a remote that is down a secret for minutes."""


class Down(Exception):
    """There is no rclone to ask now; the message says why, and when there may be one."""


class RcloneProcess:
    """`rclone rcd` for `remote`. Call `prepare` before anything else."""

    def __init__(
        self,
        *,
        remote: str,
        folder: Path,
        program: str = "rclone",
        config: Path | None = None,
        environ: Mapping[str, str] | None = None,
        scrub: Callable[[str], str] = str,
        backoff: Backoff | None = None,
        ping_every_s: float = PING_EVERY_S,
        ping_within_s: float = PING_WITHIN_S,
    ) -> None:
        """`folder` is made for the socket; `environ` is what rclone is started with (ours)."""
        self._remote = remote
        self._folder = folder
        self._program = program
        self._path = ""
        self._environ = dict(os.environ if environ is None else environ)
        if config is not None:
            self._environ["RCLONE_CONFIG"] = str(config)
        self._scrub = scrub
        self._backoff = backoff or Backoff(base_s=0.5, cap_s=30.0)
        self._ping_every_s = ping_every_s
        self._ping_within_s = ping_within_s
        self._starting = anyio.Lock()
        self._running: _Running | None = None
        self._dying: _Running | None = None
        """The last one that was ended."""
        self._failures = 0
        self._not_before = 0.0
        self._why = "it was not started yet"
        self._closed = False
        self.starts = 0
        """How often rclone was started: another number means another process."""

    @property
    def pid(self) -> int | None:
        """Of the rclone that runs, None where none does."""
        return self._running.popen.pid if self._running else None

    def prepare(self) -> None:
        """Find the program, and the remote in its configuration. Blocking; call it at start.

        Raises ConfigError.
        """
        self._path = program.find(self._program, "store.rclone.program", self._environ.get("PATH"))
        make_folder(self._folder, "store.rclone")
        if len(os.fsencode(self._socket)) > MAX_SOCKET_BYTES:
            raise ConfigError(
                "hook.socket",
                f"{self._socket} is longer than a unix socket may be; choose a shorter folder",
            )
        said = self._run("version").stdout.decode("utf-8", "replace")
        program.check_version(said, self._path, "store.rclone.program")
        self._find_remote()

    async def call(self, command: str, **parameters: object) -> dict[str, Any]:
        """See RemoteControl.call. Raises Refused, HungUp, Down."""
        async with self.control() as control:
            return await control.call(command, **parameters)

    @asynccontextmanager
    async def control(self) -> AsyncIterator[RemoteControl]:
        """The control of the running rclone, started if there is none. Raises Down.

        While it is in use the process is watched: one that does not answer is killed, and whoever
        waits for it gets HungUp.
        """
        async with self._starting:
            running = self._running or await self._start()
        running.calls += 1
        try:
            yield running.control
        finally:
            running.calls -= 1

    def kill(self, why: str) -> None:
        """End the process for `why`; the next call starts another one, after a pause."""
        if self._running is not None:
            log.warning("rclone is killed", why=why, pid=self._running.popen.pid)
            self._running.popen.kill()

    async def aclose(self) -> None:
        """End it. Idempotent."""
        self._closed, self._why = True, "the store is closed"
        running = self._running
        if running is None:
            return
        running.popen.terminate()
        with anyio.CancelScope(shield=True), anyio.move_on_after(END_WITHIN_S):
            await running.ended.wait()
        await self._end(running)

    # -- inside --------------------------------------------------------------------------------

    @property
    def _socket(self) -> Path:
        return self._folder / "rc.sock"

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [self._path, *arguments],
                env=self._environment("", ""),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=START_WITHIN_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError("store.rclone.program", f"{self._path}: {error}") from error

    def _find_remote(self) -> None:
        name, colon, _ = self._remote.partition(":")
        if self._remote.startswith("/") or not name or not colon or "," in name or "/" in name:
            return  # a path, or a connection string: nothing of it need be configured
        ran = self._run("listremotes", "--log-level", "ERROR")
        if ran.returncode:
            said = self._scrub(ran.stderr.decode("utf-8", "replace"))
            raise ConfigError("store.rclone.config", f"rclone cannot read it: {said}")
        lines = ran.stdout.decode("utf-8", "replace").splitlines()
        known = [line.strip() for line in lines if line.strip().lower() != FS]
        if f"{name}:".lower() not in (each.lower() for each in known):
            raise ConfigError(
                "store.rclone.remote",
                f"rclone knows no remote {name!r} (it knows: {', '.join(known) or 'none'});"
                " add it with `rclone config`, or name the file with store.rclone.config",
            )

    def _environment(self, user: str, password: str) -> dict[str, str]:
        """What rclone is to find: ours, without what would change what a call means."""
        return {
            **_DEFAULTS,
            **program.without(self._environ),
            "RCLONE_ASK_PASSWORD": "false",
            **program.login_variables(user, password),
            f"RCLONE_CONFIG_{_NAME}_TYPE": "alias",
            f"RCLONE_CONFIG_{_NAME}_REMOTE": self._remote,
        }

    async def _start(self) -> _Running:
        """A process that answers. Raises Down; called by one at a time."""
        wait_s = self._not_before - time.monotonic()
        if self._closed or wait_s > 0:
            raise Down(
                self._why if self._closed else f"{self._why}; started again in {wait_s:.1f} s"
            )
        if self._dying is not None and self._dying.popen.poll() is None:
            raise Down(f"an earlier rclone (process {self._dying.popen.pid}) cannot be ended")
        user, password = program.login()
        running = _Running(self._popen(user, password), RemoteControl(self._socket, user, password))
        self.starts += 1
        running.started = time.monotonic()
        try:
            await self._wait_until_it_answers(running)
        except BaseException:
            await self._end(running)
            raise
        self._running = running
        running.watch = asyncio.ensure_future(self._watch(running))
        log.debug("rclone runs", pid=running.popen.pid)
        return running

    def _popen(self, user: str, password: str) -> subprocess.Popen[bytes]:
        try:
            self._socket.unlink(missing_ok=True)
            with open(self._folder / "log", "wb") as said:
                return subprocess.Popen(
                    program.tied(
                        [
                            *(
                                self._path,
                                "rcd",
                                "--rc-addr",
                                f"unix://{self._socket}",
                                "--rc-serve",
                            ),
                            *("--rc-server-read-timeout", "8760h"),
                            *("--rc-server-write-timeout", "8760h"),
                            *("--log-level", "CRITICAL"),
                        ]
                    ),
                    env=self._environment(user, password),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    cwd="/",
                    # a Ctrl-C in hookd's terminal begins a drain, for which rclone is needed
                    start_new_session=True,
                )
        except OSError as error:
            self._failed(f"rclone cannot be started: {error.strerror or error}")
            raise Down(self._why) from error

    async def _wait_until_it_answers(self, running: _Running) -> None:
        with anyio.move_on_after(START_WITHIN_S):
            while running.popen.poll() is None:
                try:
                    await running.control.call("rc/noop")
                    return
                except HungUp:
                    await anyio.sleep(0.01)
                except Refused as error:
                    self._failed(f"rclone refuses us: {self._scrub(error.text)}")
                    raise Down(self._why) from error
        if running.popen.poll() is None:
            self._failed(f"rclone did not answer within {START_WITHIN_S:g} s of its start")
        else:
            self._failed(self._last_words(running))
        raise Down(self._why)

    async def _watch(self, running: _Running) -> None:
        """Until the process ends. Cancelled (with the event loop), it ends the process."""
        handle = os.pidfd_open(running.popen.pid)
        try:
            while True:
                with anyio.move_on_after(self._ping_every_s):
                    await anyio.wait_readable(handle)
                    break
                if running.calls and not await self._answers(running):
                    self.kill(f"no answer within {self._ping_within_s:g} s")
        finally:
            os.close(handle)
            await self._end(running)
        if not self._closed:
            why = self._last_words(running)
            self._failed(why, lived_s=time.monotonic() - running.started)
            log.warning("rclone ended", why=why, again_in_s=round(self._pause_s(), 1))

    async def _answers(self, running: _Running) -> bool:
        try:
            with anyio.fail_after(self._ping_within_s):
                await running.control.call("rc/noop")
        except (TimeoutError, HungUp):
            return False
        return True

    async def _end(self, running: _Running) -> None:
        """Kill and reap it. One that the kernel does not let go (a dead NFS) is left to itself.

        No other is started before it is gone: what it was uploading could still take effect.
        """
        if self._running is running:
            self._running = None
        self._dying = running
        with contextlib.suppress(ProcessLookupError):
            running.popen.kill()
        with anyio.CancelScope(shield=True), anyio.move_on_after(END_WITHIN_S):
            while True:
                if running.popen.poll() is not None:
                    break
                await anyio.sleep(0.002)
        if running.popen.returncode is None:
            log.error("rclone cannot be ended", pid=running.popen.pid)
        running.ended.set()

    def _failed(self, why: str, lived_s: float = 0.0) -> None:
        self._failures = 1 if lived_s > STEADY_S else self._failures + 1
        self._why = why
        self._not_before = time.monotonic() + self._backoff.after(self._failures)

    def _pause_s(self) -> float:
        return max(0.0, self._not_before - time.monotonic())

    def _last_words(self, running: _Running) -> str:
        code = running.popen.returncode
        if code is None:
            return "rclone hangs and cannot be ended"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        with contextlib.suppress(OSError):
            said = (self._folder / "log").read_bytes()[-2000:].decode("utf-8", "replace").strip()
            if said:
                return f"rclone {how}: {self._scrub(said)}"
        return f"rclone {how}"


class _Running:
    """One process, from its start to its end."""

    def __init__(self, popen: subprocess.Popen[bytes], control: RemoteControl) -> None:
        self.popen = popen
        self.control = control
        self.calls = 0
        self.started = 0.0
        self.ended = anyio.Event()
        self.watch: asyncio.Future[None] | None = None
