"""What is known of a running mount, in one place: written by the stages, read by stats and status."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field

from hookd.mount.cache import Dirty
from hookd.mount.provider import Queue


class Phase(enum.Enum):
    """Where its life is."""

    STARTING = "starting"
    """Preflight; nothing is mounted."""
    MOUNTING = "mounting"
    RESUMING = "resuming"
    """Mounted; files of an earlier run are uploaded before it says ready."""
    RUNNING = "running"
    """Ready."""
    REMOUNTING = "remounting"
    """The mounter died or hung; another one is on its way."""
    DRAINING = "draining"
    STOPPING = "stopping"
    """Drained; unmounting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One look at mount, remote and cache. Each text says what is wrong; empty is well."""

    at: float = field(default_factory=time.time)
    mount: str = ""
    dead: bool = False
    """Whether only another mounter can mend it."""
    remote: str = ""
    refused: bool = False
    """Whether the remote refuses the credentials."""
    queue: Queue = field(default_factory=Queue)
    dirty: tuple[Dirty, ...] = ()
    aside: tuple[str, ...] = ()
    """Files that a kill left so that somebody must decide (`rescue`); a line each."""
    free_bytes: int | None = None
    """Room on the cache's disk."""


@dataclass(slots=True, kw_only=True)
class State:
    """All of it, as it is now."""

    target: str
    mountpoint: str
    cache: str
    min_free_bytes: int
    read_only: bool
    started_at: float = field(default_factory=time.time)
    phase: Phase = Phase.STARTING
    finding: Finding = field(default_factory=Finding)
    remote_bad_since: float | None = None
    """Unix time; None while the remote answers."""
    remounts: int = 0
    last_remount: str = ""
    resumed_files: int = 0
    """Found at the start, left by an earlier run."""
    ready_after_s: float | None = None
    waiting_for: str = ""
    """While draining."""
    notices: list[str] = field(default_factory=list)

    def found(self, finding: Finding) -> None:
        """Take in a look."""
        self.finding = finding
        if not finding.remote:
            self.remote_bad_since = None
        elif self.remote_bad_since is None:
            self.remote_bad_since = finding.at
