"""Starts the real daemon with faults at named steps or with another clock; for tests only.

    python -m tests.faults.launcher [OPTIONS] serve --config FILE

    --fault STEP[:N[:ERRNO]]   at the N-th passing (1: the first) of STEP the process kills itself,
                               or, with the name of an errno, that step raises such an OSError
    --armed FILE               passings count only while FILE is there
    --clock FILE               the clock of the wall is off by as many seconds as FILE says now
    --prune-every SECONDS      old rows of the journal are looked for that often

What is started is `hookd` as it is shipped: the faults are put in from here, by replacing
`hookd.faults.hit` and `time.time`.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hookd import cli, faults, housekeeping

SAID = "hookd: fault at "
"""What stderr says before the process dies or the step raises; the step follows."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens where."""

    step: str
    passing: int = 1
    error: int | None = None
    """The errno to raise; None kills the process."""

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The inverse of `str`. Raises ValueError."""
        step, _, rest = text.partition(":")
        passing, _, error = rest.partition(":")
        if step not in (*faults.STEPS, *faults.RESTORE_STEPS):
            raise ValueError(f"{step!r} is none of {', '.join(faults.STEPS)}")
        return cls(step, int(passing or 1), getattr(errno, error) if error else None)

    def __str__(self) -> str:
        text = f"{self.step}:{self.passing}"
        return text if self.error is None else f"{text}:{errno.errorcode[self.error]}"


class Hits:
    """Counts the passings of each step, from any thread, and lets the faults happen."""

    def __init__(self, planned: Sequence[Fault], armed: Path | None) -> None:
        """`armed`: the file without which nothing counts."""
        self._planned = {(fault.step, fault.passing): fault for fault in planned}
        self._armed = armed
        self._passed: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, step: str) -> None:
        if self._armed is not None and not self._armed.exists():
            return
        with self._lock:
            passing = self._passed[step] = self._passed.get(step, 0) + 1
        fault = self._planned.get((step, passing))
        if fault is None:
            return
        os.write(2, f"{SAID}{fault}\n".encode())
        if fault.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(fault.error, os.strerror(fault.error))


def shifted(clock: Callable[[], float], offset: Path) -> Callable[[], float]:
    """`clock`, off by the seconds that the file `offset` holds when it is asked."""

    def now() -> float:
        return clock() + float(offset.read_text() or 0)

    return now


def main(argv: Sequence[str] | None = None) -> int:
    """Put in the faults, then be hookd."""
    parser = argparse.ArgumentParser(description="hookd with faults")
    parser.add_argument("--fault", type=Fault.parse, action="append", default=[])
    parser.add_argument("--armed", type=Path)
    parser.add_argument("--clock", type=Path)
    parser.add_argument("--prune-every", type=float)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    faults.hit = Hits(options.fault, options.armed)
    if options.clock is not None:
        time.time = shifted(time.time, options.clock)
    if options.prune_every is not None:
        housekeeping.PRUNE_EVERY_S = options.prune_every
        housekeeping.KEEP_EVENTS = 10  # a life of a test has few
    return cli.main(options.rest)


if __name__ == "__main__":
    sys.exit(main())
