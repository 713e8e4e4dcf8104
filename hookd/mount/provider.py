"""What the stages need of a program that mounts: the interface behind which rclone stands.

Another mounter is another module with these two classes; the stages stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One closed file that is not on the remote yet."""

    name: str
    """Below the mount point."""
    size_bytes: int
    tries: int
    """Failed ones."""
    why: str = ""
    """What the last failed one said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What the mounter says of its uploads, at one moment."""

    uploads: tuple[Upload, ...] = ()
    in_progress: int = 0
    cache_bytes: int = 0
    cache_files: int = 0
    out_of_space: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is on its way. Files that are open do not count."""
        return not self.uploads and not self.in_progress

    @property
    def size_bytes(self) -> int:
        """Of all uploads."""
        return sum(upload.size_bytes for upload in self.uploads)

    @property
    def failing(self) -> tuple[Upload, ...]:
        """Uploads that have failed at least once."""
        return tuple(upload for upload in self.uploads if upload.tries)


class ControlError(Exception):
    """The mounter did not answer a question, or not in time."""


@dataclass(slots=True, kw_only=True)
class Ended:
    """How a mounter's process ended."""

    code: int
    last_words: list[str] = field(default_factory=list)
    """Its last errors, oldest first, scrubbed."""


class Mount(Protocol):
    """One running mounter."""

    @property
    def mountpoint(self) -> Path:
        """Where it mounts."""
        ...

    @property
    def pid(self) -> int:
        """Of its process."""
        ...

    @property
    def ended(self) -> Ended | None:
        """None while it runs."""
        ...

    async def wait(self) -> Ended:
        """Until it has ended."""
        ...

    async def queue(self) -> Queue:
        """Its uploads. Raises ControlError."""
        ...

    async def hurry(self, only: str | None = None) -> None:
        """Upload now what would wait for its time, or one file of it. Raises ControlError."""
        ...

    async def arrived(self, names: Collection[str]) -> None:
        """These files of an earlier run are on the remote now: look there for what they have become.

        Raises ControlError.
        """
        ...

    async def ask_remote(self, name: str) -> int | None:
        """Ask the remote itself for the size of a file; None if there is none.

        Raises RemoteRefused, RemoteUnreachable, ConfigError, and ControlError if the mounter is
        mute.
        """
        ...

    async def has_buckets_only(self) -> bool:
        """Whether the mount's top holds buckets, so that no file can be put there. ControlError."""
        ...

    async def answers(self) -> bool:
        """Whether it answers anything at all, also before it has mounted; bounded."""
        ...

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it in time."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


class Mounter(Protocol):
    """Knows the remote, and starts processes that mount it."""

    async def check(self) -> None:
        """Whether the program is there and new enough; list the remote once, bounded; settles how
        passwords are meant.

        Raises RemoteRefused, RemoteUnreachable, UserError (78).
        """
        ...

    async def stop_orphan(self) -> bool:
        """End what an earlier hookd left running for this mount; whether there was something."""
        ...

    async def start(self, mountpoint: Path) -> Mount:
        """Start the process; it mounts on its own time. Raises UserError."""
        ...
