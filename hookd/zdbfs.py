"""What hookd asks of a zdbfs mount: to write out its cache (0-db-fs src/zdbfs.c, `snapshot`).

zdbfs keeps new content in memory, and fsync changes nothing about that, so what an application has
written may not be in zdb for ten seconds and more. The invariant: a mount that hangs costs one thread,
however often it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
import time
from pathlib import Path

from hookd.admin.words import duration
from hookd.errors import MountUnusable

SNAPSHOT = 0x80084500
"""ioctl `_IOR('E', 0, 8)` on any file of the mount: writes all cached inodes and blocks to zdb, then
answers with the time as an u64."""

LIMIT_S = 60.0
"""zdb may stand still meanwhile: what is written out fills data files, and each calls jump-index."""

_NO_ZDBFS = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class Zdbfs:
    """One mount point."""

    def __init__(self, mount: Path, *, limit_s: float = LIMIT_S) -> None:
        self.mount = mount
        self._limit_s = limit_s
        self._thread: threading.Thread | None = None
        self._asked_at = 0.0

    async def flush(self) -> None:
        """What was written through the mount before this call is in zdb. Raises MountUnusable.

        Cancelled, or after `limit_s`, the thread that asks is left to itself.
        """
        if self._thread is not None and self._thread.is_alive():
            raise self._hangs()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[OSError | None] = loop.create_future()

        def ask() -> None:
            found: OSError | None = None
            try:
                _snapshot(self.mount)
            except OSError as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the daemon has ended
                loop.call_soon_threadsafe(_tell, answer, found)

        # A daemon thread: it must not keep the process from ending.
        self._thread = threading.Thread(target=ask, name="zdbfs-flush", daemon=True)
        self._asked_at = time.monotonic()
        self._thread.start()
        try:
            async with asyncio.timeout(self._limit_s):
                error = await answer
        except TimeoutError:
            raise self._hangs() from None
        if error is None:
            return
        if error.errno in _NO_ZDBFS:
            raise MountUnusable(f"{self.mount}: zdbfs is not mounted there") from None
        raise MountUnusable(f"{self.mount}: {os.strerror(error.errno or 0)}") from None

    def _hangs(self) -> MountUnusable:
        waited = duration(time.monotonic() - self._asked_at)
        return MountUnusable(f"{self.mount}: zdbfs has not answered for {waited}", hangs=True)


def _tell(answer: asyncio.Future[OSError | None], found: OSError | None) -> None:
    if not answer.done():
        answer.set_result(found)


def _snapshot(mount: Path) -> None:
    """Blocking, without limit where the mount hangs. Raises OSError."""
    handle = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, SNAPSHOT, bytearray(8))
    finally:
        os.close(handle)
