"""Stage drain: until every write is on the remote.

    queue hurried → queue empty, nothing on its way → no dirty record on disk → nothing open for writing

Empty is believed only when it was seen twice in a row: a file that is just being closed is in
neither list for a moment. Files may still be written meanwhile; they are waited for too.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from hookd.admin.words import count, listed, number, one_line, size
from hookd.log import get
from hookd.mount import endpoints
from hookd.mount.bounded import bounded
from hookd.mount.cache import Cache, Dirty
from hookd.mount.provider import ControlError, Mount, Queue
from hookd.mount.ready import MountDied

log = get("mount")

LOOK_EVERY_S = 0.1
SAY_EVERY_S = 5.0
SCAN_WITHIN_S = 60.0
STABLE_LOOKS = 2


class Why(enum.Enum):
    """Why a file is left."""

    WAITING = "not uploaded yet"
    OPEN = "open for writing"
    FAILING = "its upload fails"


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """One file that is not on the remote."""

    name: str
    size_bytes: int
    why: Why
    detail: str = ""

    def line(self) -> str:
        """`'folder/name' (1.5 MiB, its upload fails: 507 Insufficient Storage)`."""
        detail = f": {self.detail}" if self.detail else ""
        return one_line(f"{self.name!r} ({size(self.size_bytes)}, {self.why.value}{detail})")


def left_of(dirty: Sequence[Dirty], queue: Queue | None) -> list[Left]:
    """What is dirty on disk, with the reason the queue gives. Without a queue: just waiting."""
    if queue is None:
        return [Left(name=d.name, size_bytes=d.size_bytes, why=Why.WAITING) for d in dirty]
    uploads = {upload.name: upload for upload in queue.uploads}
    found = []
    for each in dirty:
        upload = uploads.get(each.name)
        why, detail = Why.WAITING, ""
        if upload is None:
            # What is on its way has left the queue's list in some versions.
            why = Why.WAITING if queue.in_progress else Why.OPEN
        elif upload.tries:
            why, detail = Why.FAILING, upload.why
        found.append(Left(name=each.name, size_bytes=each.size_bytes, why=why, detail=detail))
    return found


class Drain:
    """One drain of one mount."""

    def __init__(self, mount: Mount, cache: Cache, *, say: Callable[[str], None]) -> None:
        """`say` is told now and then what is waited for."""
        self._mount = mount
        self._cache = cache
        self._say = say
        self._said = 0.0
        self._stable = 0
        self._pause_s = LOOK_EVERY_S
        self.left: list[Left] = []
        """As of the last look."""

    async def run(self) -> None:
        """Until nothing is left. Cancelled by the budget or a second signal. Raises MountDied."""
        while self._stable < STABLE_LOOKS:
            try:
                await self._look()
            except ControlError as error:
                self._stable = 0
                if self._mount.ended is not None:
                    raise MountDied(self._mount.ended) from None
                self._tell(f"the mounter does not answer ({error})")
            await anyio.sleep(self._pause_s)

    async def _look(self) -> None:
        queue = await self._mount.queue()
        # A look at a long queue costs what uploads it: once a second is often enough.
        self._pause_s = min(1.0, max(LOOK_EVERY_S, len(queue.uploads) / 500))
        if not queue.empty:
            self._stable = 0
            await self._mount.hurry()
            failing = queue.failing
            text = f"uploading {count(len(queue.uploads), 'file')}, {size(queue.size_bytes)}"
            if failing:
                why = f": {failing[0].why}" if failing[0].why else ""
                text += f"; {number(len(failing))} failing, e.g. {failing[0].name!r}{why}"
            self._tell(text)
            return
        dirty = await bounded(self._cache.dirty, SCAN_WITHIN_S)
        self.left = left_of(dirty, queue)
        if dirty:
            self._stable = 0
            names = [each.line() for each in self.left]
            self._tell(f"waiting for {count(len(names), 'file')}: {listed(names)}")
            return
        point = self._mount.mountpoint
        if names := await bounded(lambda: endpoints.open_for_writing(point), SCAN_WITHIN_S):
            self._stable = 0
            shown = listed([repr(name) for name in names])
            self._tell(f"waiting for files that are open for writing: {shown}")
            return
        self._stable += 1

    def _tell(self, text: str) -> None:
        now = time.monotonic()
        if self._said == 0.0 or now - self._said >= SAY_EVERY_S:
            self._said = now
            self._say(one_line(text))
