"""Plays the recorded life of a real zdb to a daemon, through the real shim."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from hookd.demo.trace import Replay, Step
from hookd.event import BLOCKING
from tests.e2e.daemon import Daemon

SKIPPED = ("zdbfs-temp",)
"""What the daemon skips unless configured otherwise."""

Zdb = tuple[str, Callable[[], None]]


class Player:
    """Plays steps of the record to a daemon, one life long."""

    def __init__(self, daemon: Daemon, zdb: Zdb) -> None:
        self.daemon = daemon
        self.replay = Replay(daemon.folder, zdb_id=zdb[0])
        self._end_zdb = zdb[1]
        self._under_way: list[tuple[Step, subprocess.Popen[bytes]]] = []
        self.codes: dict[int, int] = {}
        """Step number → the shim's exit code."""

    def lay_out(self, step: Step) -> None:
        """The files of a step; those that vanish were stored before, as whoever evicts must see."""
        if gone := self.replay.vanishing(step):
            self.collect()
            self.daemon.until(lambda s: not moving(s))
            for path in gone:
                assert self.is_stored(path.lstrip("/"))
        self.replay.lay_out(step)

    def play(self, steps: Sequence[Step], **environment: str) -> None:
        """Lay out files and call hooks, waiting for those that zdb waits for."""
        for step in steps:
            self.lay_out(step)
            process = self.daemon.start_hook(*self.replay.argv(step), **environment)
            self._under_way.append((step, process))
            if step.hook in BLOCKING:
                self.collect()
            if step.asked_back:
                assert self.replay.returned(step.asked_back)
        self.collect()

    def collect(self) -> None:
        """Wait for the hooks that zdb does not wait for."""
        for step, process in self._under_way:
            process.communicate(timeout=30)
            self.codes[step.number] = process.returncode
        self._under_way.clear()

    def is_stored(self, name: str) -> bool:
        """Whether the store has `data/NS/dN`."""
        return (self.daemon.store / name).exists()

    def stored(self) -> dict[str, bytes]:
        """Everything that the store has."""
        return self.daemon.stored()

    def finish(self) -> None:
        """zdb is gone; the daemon is told to stop, and everything must be in the store."""
        self._end_zdb()
        assert self.daemon.stop() == 0
        wanted = {key: content.read() for key, content in self.replay.wanted(SKIPPED)}
        assert self.stored() == wanted


def moving(stats: dict[str, dict[str, dict[str, dict[str, int]]]]) -> bool:
    """Whether a file is under way that need not wait for a data file still being filled."""
    states = stats["queue"]["states"]
    return bool(states["pending"]["files"] or states["running"]["files"])
