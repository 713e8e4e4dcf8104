"""Stage unmount: the endpoint goes first, then its mounter. The guard below it stays (see `ground`).

The other order leaves a dead endpoint: a mounter that is told to end while somebody has a file open
cannot unmount, and ends all the same. An endpoint in use goes lazily: nobody new gets in, whoever has a
file open keeps it until the mounter ends.
"""

from __future__ import annotations

import errno
import time
from functools import partial
from pathlib import Path

import anyio

from hookd.log import get
from hookd.mount import endpoints
from hookd.mount.bounded import bounded
from hookd.mount.provider import Mount

log = get("mount")

WITHIN_S = 5.0
BUSY_FOR_S = 0.5
"""A file that is just closed keeps the endpoint busy for moments."""


async def detach(mountpoint: Path) -> None:
    """Take the endpoint away, whatever state it is in. Never raises OSError; never hangs."""
    ends = time.monotonic() + BUSY_FOR_S
    lazy = False
    while True:
        try:
            if not await bounded(partial(endpoints.unmount, mountpoint, lazy=lazy), WITHIN_S):
                return
        except TimeoutError:
            lazy = True
            if time.monotonic() > ends + WITHIN_S:
                log.error(
                    "the mount point cannot be taken away", path=str(mountpoint), error="hangs"
                )
                return
        except OSError as error:
            if error.errno == errno.EINVAL:  # somebody else was faster
                return
            if lazy:
                log.error(
                    "the mount point cannot be taken away", path=str(mountpoint), error=str(error)
                )
                return
            if error.errno != errno.EBUSY or time.monotonic() > ends:
                lazy = True
                log.info("the mount is in use and detached all the same", path=str(mountpoint))
            else:
                await anyio.sleep(0.05)


async def take_down(mount: Mount) -> None:
    """Endpoint, then mounter; what a hanging mounter leaves behind is cleared."""
    await detach(mount.mountpoint)
    await mount.stop()
    await detach(mount.mountpoint)


async def replace_dead(mount: Mount) -> None:
    """For a mounter that hangs or has died: end it at once, then its endpoint."""
    mount.kill()
    await mount.wait()
    await detach(mount.mountpoint)
