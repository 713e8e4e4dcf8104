"""How much of the files that are being fetched is here already: their growing size, each second.

A store that writes elsewhere and hands over the whole (zstor) tells nothing in between.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from hookd.files import FileKey

LOOK_EVERY_S = 1.0


class Growth:
    """Of any number of files at once."""

    def __init__(self, tell: Callable[[], None] = lambda: None) -> None:
        """`tell` is called after each look."""
        self._tell = tell
        self.bytes: dict[FileKey, int] = {}
        """Of files on their way; a file that is there, or given up, is not in it."""

    @asynccontextmanager
    async def watch(self, key: FileKey, target: Path) -> AsyncIterator[None]:
        """While inside, `target` is being fetched. A file that is there within a second costs no look."""
        looking = asyncio.ensure_future(self._look(key, target))
        try:
            yield
        finally:
            looking.cancel()
            self.bytes.pop(key, None)

    async def _look(self, key: FileKey, target: Path) -> None:
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            self.bytes[key] = await anyio.to_thread.run_sync(grown, target, abandon_on_cancel=True)
            self._tell()


def grown(target: Path) -> int:
    """Bytes of a file that is fetched to `target`. Blocking.

    rclone writes it beside that, under a longer name, and renames it.
    """
    try:
        with os.scandir(target.parent) as found:
            return max(
                (e.stat().st_size for e in found if e.name.startswith(target.name)), default=0
            )
    except OSError:
        return 0
