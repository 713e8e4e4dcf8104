"""One checkpoint: what is known of it while it runs, and how it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import anyio

from hookd.admin.words import count, listed
from hookd.errors import Exit


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a checkpoint ended."""

    code: Exit
    """OK: all is safe. TEMPFAIL: not in time. UNAVAILABLE: zdb not reached. FAILED: needs somebody."""
    until: float
    """Unix seconds: what was written before is meant."""
    elapsed_s: float
    jumped: tuple[str, ...] = ()
    """Namespaces whose active files were closed."""
    problems: tuple[str, ...] = ()
    """What is missing, one line each; none if it is safe."""
    left_out: tuple[str, ...] = ()
    """Data files that somebody gave up: nothing that they alone had is in the store, or will be."""

    @property
    def safe(self) -> bool:
        """Whether everything written before `until` is in the store."""
        return self.code is Exit.OK

    def line(self) -> str:
        """For a person."""
        if self.safe:
            spaces = (
                f"{count(len(self.jumped), 'namespace')} had news" if self.jumped else "no news"
            )
            text = f"safe until {utc(self.until)} ({spaces}; took {self.elapsed_s:.1f} s)"
            if self.left_out:
                text += f", but for what was given up (`hookd skip`): {listed(self.left_out)}"
            return text
        return f"not safe: {'; '.join(self.problems)}"

    def as_dict(self) -> dict[str, Any]:
        """For a program; keys of docs/reference/stats-socket.md."""
        return {
            "safe": self.safe,
            "code": int(self.code),
            "until": self.until,
            "until_utc": utc(self.until),
            "elapsed_s": self.elapsed_s,
            "jumped": list(self.jumped),
            "problems": list(self.problems),
            "left_out": list(self.left_out),
        }


def utc(moment: float) -> str:
    """Unix seconds as `2026-11-24T02:09:42Z`, rounded down."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


@dataclass(slots=True, eq=False)
class Run:
    """One checkpoint, and who waits for it."""

    done: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    askers: int = 0
    began: bool = False
    doing: str = "waiting for the checkpoint that runs"
    until: float = 0.0
    started: float = 0.0
    jumped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What cannot be mended by waiting; it goes on with the rest all the same."""
    left_out: list[str] = field(default_factory=list)
    """As in its outcome."""
    hanging: str | None = None
    """What may still come to an end, but not in this run."""
    outcome: Outcome | None = None
