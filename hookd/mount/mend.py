"""Stage mount, before every start of the mounter: its cache mended, and read whole.

Both go through every record, and take as long as they take: a start that gave up would leave the files
where they are. Owns the invariant that only one mending is at the cache at a time.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio

from hookd.errors import Exit, UserError
from hookd.log import get
from hookd.mount.bounded import bounded
from hookd.mount.cache import Cache, Dirty
from hookd.mount.repair import Repaired, repair
from hookd.mount.reserve import Reserve

log = get("mount")

T = TypeVar("T")

STILL_READING_S = 10.0
HOLD_WITHIN_S = 5.0


class Mend:
    """The cache of one mount."""

    def __init__(self, cache: Cache, *, say: Callable[[str], None]) -> None:
        """`say` is told now and then that it takes long."""
        self._cache = cache
        self._say = say
        self._reserve = Reserve(cache.folder / "reserve")
        self._mending = threading.Lock()

    async def mend(self) -> Repaired:
        """No mounter may be at the cache. Raises UserError as `scan` does."""
        return await self.scan(self._mend)

    async def dirty(self) -> list[Dirty]:
        """`Cache.dirty`. Raises UserError as `scan` does."""
        return await self.scan(self._cache.dirty)

    async def hold_reserve(self) -> None:
        """For when the disk is full."""
        try:
            await bounded(self._reserve.hold, HOLD_WITHIN_S)
        except TimeoutError:
            log.warning("the disk of the cache is slow")

    async def scan(self, look: Callable[[], T]) -> T:
        """A call that goes through the cache. Cancelled, it runs on in its thread.

        Raises UserError (75) for a disk that fails or is full: what is in the cache is left there.
        """

        async def keep() -> None:
            while True:
                await anyio.sleep(STILL_READING_S)
                self._say("still reading the cache")

        raised: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(keep)
            try:
                found = await bounded(look, None)
            except Exception as error:
                raised = error
            group.cancel_scope.cancel()
        if isinstance(raised, OSError):
            raise UserError(
                f"{self._cache.folder}: the cache cannot be used ({raised.strerror or raised}); what is"
                " in it stays there; make room on its disk, or look at it",
                code=Exit.TEMPFAIL,
            )
        if raised is not None:
            raise raised
        return found

    def _mend(self) -> Repaired:
        """Blocking. Raises OSError."""
        with self._mending:  # a call that was given up may still run
            try:
                return repair(self._cache.folder)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._reserve.release():
                    raise
                log.warning("the disk of the cache is full; its reserve is used to mend records")
                return repair(self._cache.folder)
