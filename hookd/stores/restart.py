"""Runs the administrator's restart command: no shell, no secrets in its environment, bounded in time.

The line is split as a shell would (quotes, backslashes), and nothing else of a shell: no variables, pipes
or `&&`; who needs those names a script. What the command says goes to a file, not a pipe: a program that
it leaves running keeps a descriptor that stays good.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.to_thread

from hookd.log import scrub as scrub_registered

LIMIT_S = 60.0
"""The command has to return by then; then it is killed with all of its process group."""

SAID_BYTES = 2000
"""Of its output, kept from the end."""

PASSED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
)
"""Variables that it gets; hookd's own may hold passwords."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Ran:
    """How it ended."""

    ok: bool
    line: str
    """In words."""
    said: str
    """The end of its output, one line, scrubbed."""


class Restart:
    """The command, and how often it may be run (`every_s`; its caller counts)."""

    def __init__(
        self,
        command: str,
        *,
        every_s: float,
        scrub: Callable[[str], str] = str,
        limit_s: float = LIMIT_S,
    ) -> None:
        """`scrub` takes zstor's own secrets out of what the command says."""
        self.command = scrub_registered(scrub(command))
        self.every_s = every_s
        self._words = shlex.split(command)
        self._scrub = scrub
        self._limit_s = limit_s

    async def run(self) -> Ran:
        """Run it to its end, or to the limit. Cancelled, it is killed."""
        with tempfile.TemporaryFile() as output:
            try:
                process = await anyio.to_thread.run_sync(self._start, output.fileno())
            except OSError as error:
                return Ran(False, f"it cannot be run: {error.strerror or error}", "")
            try:
                with anyio.move_on_after(self._limit_s):
                    while process.poll() is None:  # noqa: ASYNC110 no event tells of another's child
                        await anyio.sleep(0.05)
            finally:
                code = process.poll()
                if code is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - SAID_BYTES))
            said = output.read().decode("utf-8", "replace")
        said = " ".join(scrub_registered(self._scrub(said)).split())
        if code is None:
            return Ran(False, f"it took more than {self._limit_s:g} s and was killed", said)
        return Ran(code == 0, f"it ended with {code}", said)

    def _start(self, output: int) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in PASSED if name in os.environ}
        environment.setdefault("PATH", DEFAULT_PATH)
        return subprocess.Popen(
            self._words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
