"""Stage unmount, before the endpoint goes: rclone writes down what of each open file is in its cache.

Of a file that is open for writing rclone's record says what its first write was, until the last handle
closes; a stop with an open file left it so, and `repair` would have to guess. But rclone writes the whole
record when a file's time is set, so each such file gets the time that it has: of its last write.

Not done while the mount runs: a time that is set stays, whatever is written after it.
"""

from __future__ import annotations

import contextlib
import os

from hookd.log import get
from hookd.mount.bounded import bounded
from hookd.mount.cache import PROBE_PREFIX, Cache
from hookd.mount.provider import Mount, Queue

log = get("mount")

WITHIN_S = 5.0


async def save_records(mount: Mount, cache: Cache, queue: Queue | None) -> None:
    """For every dirty file that is in no queue. Never raises; a mount that hangs is left as it is."""
    queued = {upload.name for upload in queue.uploads} if queue is not None else set()

    def save() -> None:
        for each in cache.dirty():
            if each.name in queued or each.name.rpartition("/")[2].startswith(PROBE_PREFIX):
                continue
            with contextlib.suppress(FileNotFoundError):
                content = os.stat(cache.folder / "vfs" / f"{cache.prefix}{each.name}")
                times = (content.st_atime_ns, content.st_mtime_ns)
                os.utime(mount.mountpoint / each.name, ns=times, follow_symlinks=False)

    try:
        await bounded(save, WITHIN_S)
    except (OSError, TimeoutError) as error:
        log.warning("records of open files are not saved", error=str(error) or "the mount hangs")
