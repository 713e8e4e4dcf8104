"""Stage log, its last step: finished lines → the container's stdout, whether anybody takes them or not.

Nobody waits for whoever reads it: neither PID 1, which has a stop to do, nor the services, whose lines
are read on. What is not taken is kept up to a bound; beyond it lines are lost, and a line says how many.

A thread of its own blocks in the write instead of O_NONBLOCK, which would be set for all who share this
stdout, or of poll, which does not promise a pipe room for more than 4 KiB, nor a terminal for one.
"""

from __future__ import annotations

import os
import threading
from collections import deque

BACKLOG_BYTES = 4 << 20
"""Some forty thousand lines: more than services write in a burst faster than docker takes them."""
OWN_BYTES = 1 << 16
"""Kept beyond the backlog of the lines of this process itself: they say what becomes of the container."""


class Outlet(threading.Thread):
    """Writes what was put, in that order, until `finish`."""

    def __init__(self, output: int, backlog_bytes: int = BACKLOG_BYTES) -> None:
        """`output` is a descriptor that blocks."""
        super().__init__(name="outlet", daemon=True)  # a write that hangs does not keep the process
        self._output = output
        self._backlog_bytes = backlog_bytes
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size_bytes = 0
        """Of what waits, and of what is being written."""
        self._writing_bytes = 0
        self._lost = 0
        """Lines since the last one that was kept."""
        self._ending = False

    def put(self, lines: bytes, *, own: bool = False) -> None:
        """Whole lines, to be written when the reader takes them. Never blocks."""
        if not lines:
            return
        limit = self._backlog_bytes + (OWN_BYTES if own else 0)
        with self._changed:
            if self._size_bytes and self._size_bytes + len(lines) > limit:
                self._lost += lines.count(b"\n")
                return
            self._tell_lost()
            self._keep(lines)
            self._changed.notify()

    def finish(self, within_s: float) -> None:
        """Wait until all is written, or `within_s` is over."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self.join(within_s)

    def run(self) -> None:
        """Write."""
        while lines := self._next():
            try:
                while lines:
                    lines = lines[os.write(self._output, lines) :]
            except OSError:  # whoever read the container's log is gone; the services must go on
                pass

    def _next(self) -> bytes:
        """What is to be written next, once there is something; nothing at the end."""
        with self._changed:
            self._size_bytes -= self._writing_bytes
            if not self._waiting:
                self._tell_lost()
            self._changed.wait_for(lambda: self._waiting or self._ending)
            lines = self._waiting.popleft() if self._waiting else b""
            self._writing_bytes = len(lines)
            return lines

    def _tell_lost(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            lines = "1 line" if lost == 1 else f"{lost} lines"
            self._keep(f"qsfs: {lines} lost here: the container's log was not taken\n".encode())

    def _keep(self, lines: bytes) -> None:
        self._waiting.append(lines)
        self._size_bytes += len(lines)
