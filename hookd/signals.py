"""The signals that end `hookd serve`, from its first line to its last.

    SIGTERM, SIGINT: drain; the second one: now · SIGHUP: now, to be started again (with nohup: nothing)

The invariant: from `Signals` on, none of them ends the process by itself. In the start the first SIGTERM
is kept until somebody listens, so that a stop which comes then is a drain like any other; what says "now"
ends the process there and then, with nothing to undo: what lasts is committed. Imports next to nothing,
so that it can come before everything else.

Weakness: Python itself takes some 30 ms until the first line of ours; a signal then ends it as any other
program, with nothing lost. Whoever cares starts it with them blocked (`env --block-signal`, as the
container does): they wait for the handlers.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)
"""Drain; the second one: stop at once."""

AGAIN = signal.SIGHUP
"""Stop at once, to be started again with zdb running on: for a new version or configuration."""

STOPPED = 75
"""`errors.Exit.TEMPFAIL`, which costs an import."""


class Signals:
    """Those that have come and nobody has taken yet."""

    def __init__(self) -> None:
        """From now on they come here. Only in the main thread (`signal.signal`)."""
        self._came: list[int] = []
        self._taken = False
        self._code: int | None = None
        # Python runs `_on` in the main thread, which may be asleep while another one got the signal.
        self._wakes, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (*STOP, AGAIN):
            # nohup: whoever started it so means it to outlive the terminal
            if number != AGAIN or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on)
        # whoever started us may have blocked them, so that one that came before this waits for it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP, AGAIN))

    def listen(self) -> None:
        """Somebody takes them from now on (`take`)."""
        self._taken = True

    async def take(self) -> int:
        """The next one. Cancellation takes none."""
        import anyio

        while not self._came:
            await anyio.wait_readable(self._wakes)
            os.read(self._wakes, 4096)
        return self._came.pop(0)

    def end_with(self, code: int) -> None:
        """Only tidying is left: a signal that comes now ends the process with this code."""
        self._code = code

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self._code is not None:
            _exit(self._code)
        self._came.append(number)
        if not self._taken and (number == AGAIN or len(self._came) > 1):
            os.write(2, b"hookd: stopped while starting; what the journal keeps is stored later\n")
            _exit(STOPPED)


def _exit(code: int) -> None:
    """Without unwinding: the main thread may be anywhere."""
    os._exit(code)
