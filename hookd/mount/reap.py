"""As process 1 of a container hookd inherits orphans; those that have ended are waited for here."""

from __future__ import annotations

import os

import anyio

LOOK_EVERY_S = 5.0


class Reaper:
    """Waits for ended children that nobody else waits for."""

    def __init__(self) -> None:
        self._seen = 0

    def look(self) -> int:
        """One look; returns the id that was waited for, or 0.

        Children that hookd started itself are waited for at once by whoever started them, so only a
        zombie that is there at two looks in a row is an orphan.
        """
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return 0
        pid = 0 if found is None else found.si_pid
        if not pid or pid != self._seen:
            self._seen = pid
            return 0
        self._seen = 0
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        return pid

    async def run(self) -> None:
        """For ever, if this is process 1."""
        while os.getpid() == 1:
            self.look()
            await anyio.sleep(LOOK_EVERY_S)
