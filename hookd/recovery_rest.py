"""Stage recovery: all data files that are still only in the store (`hookd restore --full`).

In: namespaces whose index files are here; out: each sealed data file in place, brought by the lane of
missing-data (`Retriever`), so a file that is here is never touched. The invariants: what zdb waits for
goes first, and the disk keeps the room that zdb is to have.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from hookd.admin import words
from hookd.audit import local
from hookd.errors import HookdError, JournalError, NoRoom, StoreUnreachable
from hookd.files import FileKey, Roots
from hookd.journal import Journal
from hookd.recovery import Retriever
from hookd.restore.progress import Progress

LOOK_EVERY_S = 0.05

SAY_EVERY_S = 1.0


@dataclass(slots=True)
class Brought:
    """Of one namespace."""

    files: int = 0
    bytes: int = 0
    failed: dict[FileKey, str] = field(default_factory=dict)
    """Which did not come, and why."""
    lost: list[FileKey] = field(default_factory=list)
    """Which were given up before they were stored."""

    @property
    def why(self) -> str:
        """The first of these in a line; empty if all came."""
        if not self.failed:
            return ""
        key, reason = next(iter(self.failed.items()))
        more = f" (and {len(self.failed) - 1} more)" if len(self.failed) > 1 else ""
        return f"{key} is not here: {reason}{more}"


class Rest:
    """Brings the rest of what was restored without its old data files."""

    def __init__(
        self,
        retriever: Retriever,
        roots: Roots,
        *,
        keep_free: int = 0,
        say: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """`keep_free`: bytes of zdb's disk that are left for zdb; `say` is told each second."""
        self._say = say
        self._retriever = retriever
        self._roots = roots
        self._keep_free = keep_free
        self.progress: Progress | None = None
        """Of the namespace that is brought now."""
        self._ended: str | None = None
        """Why none comes any more."""

    async def bring(
        self,
        names: Collection[str],
        sizes: Mapping[FileKey, int],
        at_once: int = 1,
        lost: Collection[FileKey] = (),
    ) -> dict[str, Brought]:
        """Namespace → what came, for those of which something was absent.

        `sizes` as the ledger has them; `at_once` files together; of those `lost` only what the ledger
        has. Cancelled it can be done again.
        """
        holes = {key for key in lost if key not in sizes}
        self._ended = None
        found: dict[str, Brought] = {}
        try:
            for name in sorted(names):
                space = await anyio.to_thread.run_sync(local.look, self._roots, name)
                if absent := space.missing_data(()):
                    wanted = [key for key in absent if key not in holes]
                    found[name] = await self._bring(name, wanted, sizes, at_once)
                    found[name].lost = [key for key in absent if key in holes]
        finally:
            self.progress = None
        return found

    async def _bring(
        self, name: str, absent: Collection[FileKey], sizes: Mapping[FileKey, int], at_once: int
    ) -> Brought:
        total = sum(sizes.get(key, 0) for key in absent)
        brought, line = Brought(), iter(absent)
        arriving = self._retriever.growth.bytes
        self.progress = Progress(name, len(absent), bytes_total=total, doing="", arriving=arriving)
        telling = asyncio.ensure_future(self._tell())
        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(at_once, len(absent))):
                    group.start_soon(self._work, line, sizes, brought, self.progress)
        finally:
            telling.cancel()
        return brought

    async def _tell(self) -> None:
        while self.progress is not None:
            self._say(self.progress)
            await anyio.sleep(SAY_EVERY_S)

    async def _work(
        self,
        line: Iterator[FileKey],
        sizes: Mapping[FileKey, int],
        brought: Brought,
        progress: Progress,
    ) -> None:
        for key in line:
            try:
                size = await self._one(key, sizes.get(key, 0))
            except (HookdError, OSError, TimeoutError) as error:
                brought.failed[key] = _words(error)
                if _is_of_all(error):
                    self._ended = self._ended or _words(error)
            else:
                brought.files += 1
                brought.bytes += size
            progress.files_done, progress.bytes_done = brought.files, brought.bytes

    async def _one(self, key: FileKey, size: int) -> int:
        """Its length, once it is here. Raises what `Retriever.bring` does."""
        while True:
            if self._ended is not None:
                raise NoRoom(self._ended)
            await anyio.to_thread.run_sync(self._look_for_room, size)
            while self._retriever.asked:  # noqa: ASYNC110 zdb waits, a moment more or less is nothing
                await anyio.sleep(LOOK_EVERY_S)
            if await self._retriever.bring(key):
                return self._roots.length(key) or 0

    def _look_for_room(self, size: int) -> None:
        """Blocking. Raises NoRoom."""
        free = free_bytes(self._roots.data)
        if free < size + self._keep_free:
            kept = f", and {words.size(self._keep_free)} stay free" if self._keep_free else ""
            raise NoRoom(f"zdb's disk has no room: {words.size(free)} are free{kept}")


async def sizes_of(journal: Journal) -> dict[FileKey, int]:
    """What the ledger has. Raises JournalError."""
    return {entry.key: entry.size_bytes for entry in await journal.ledger()}


def free_bytes(folder: Path) -> int:
    """Of its disk, for who is not root."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _is_of_all(error: Exception) -> bool:
    """Whether the next file would meet the same."""
    if isinstance(error, TimeoutError | NoRoom | StoreUnreachable):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    if isinstance(error, TimeoutError):
        return "the store does not answer in time"
    if isinstance(error, JournalError):
        return f"the journal: {error}"
    return str(error)
