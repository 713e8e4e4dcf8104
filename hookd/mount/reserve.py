"""Stage mount, the reserve: room on the cache's disk that is given back when it is full.

On a full disk rclone leaves torn records, which must be mended before the next rclone starts (it would
delete their content); and only rclone makes room there again. So some room is kept for the mending.
Blocking.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SIZE_BYTES = 1 << 20
"""Some hundred records, each of which takes a block."""

SPARE = 4
"""It is taken only from a disk that has this many times as much."""


class Reserve:
    """One file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hold(self) -> None:
        """Take the room if it is not held yet, and the disk has enough."""
        with contextlib.suppress(OSError):
            if self._path.exists() and self._path.stat().st_size == SIZE_BYTES:
                return
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < SPARE * SIZE_BYTES:
                return
            handle = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                os.posix_fallocate(handle, 0, SIZE_BYTES)
            except OSError:
                self._path.unlink()
                raise
            finally:
                os.close(handle)

    def release(self) -> bool:
        """Give it back; whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
