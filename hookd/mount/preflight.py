"""Stage preflight: all that must hold before anything is mounted, one line for what does not.

this machine (FUSE, rights) → the program → the remote and its credentials → dead endpoints; the folder is
`ground`'s
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from hookd.backoff import Backoff
from hookd.errors import ConfigError, Exit, RemoteUnreachable, UserError
from hookd.log import get
from hookd.mount import endpoints
from hookd.mount.bounded import bounded
from hookd.mount.provider import Mounter

log = get("mount")

CAP_SYS_ADMIN = 21
RETRY_BASE_S = 0.5
RETRY_CAP_S = 5.0


def check_machine(*, allow_other: bool, device: Path = Path("/dev/fuse")) -> None:
    """Whether this process can mount with FUSE at all. Raises UserError (78)."""
    cure = (
        "run the container with --device /dev/fuse --cap-add SYS_ADMIN"
        " --security-opt apparmor:unconfined (or privileged)"
    )
    if not device.exists():
        raise UserError(
            f"{device} is not there, so nothing can be mounted; {cure}", code=Exit.CONFIG
        )
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        raise UserError(
            f"{device} cannot be opened ({error.strerror}); {cure}", code=Exit.CONFIG
        ) from None
    if endpoints.fusermount() is None:
        raise UserError("fusermount3 is not on PATH; install fuse3", code=Exit.CONFIG)
    if os.geteuid() == 0:
        if not _has_capability(CAP_SYS_ADMIN):
            raise UserError(
                f"the right to mount (CAP_SYS_ADMIN) is missing; {cure}", code=Exit.CONFIG
            )
    elif allow_other and not _others_allowed():
        raise ConfigError(
            "mount.allow_other",
            "needs the line user_allow_other in /etc/fuse.conf for a user who is not root;"
            " add it, or set the key to false",
        )


async def clean_endpoint(mountpoint: Path, *, within_s: float) -> int:
    """Take dead mounts away; returns how many. Raises UserError (78) for a live or a mute one."""

    def clear() -> int:
        taken = endpoints.clear(mountpoint)
        if (found := endpoints.top(mountpoint)) is not None:
            raise UserError(
                f"{mountpoint}: {found.source} is mounted there and alive ({found.kind}); nothing is"
                " mounted over it: stop what serves it, or choose another folder",
                code=Exit.CONFIG,
            )
        return taken

    try:
        return await bounded(clear, within_s)
    except TimeoutError:
        raise UserError(
            f"{mountpoint}: what is mounted there does not answer; end its process, or run"
            " `hookd mount cleanup`",
            code=Exit.CONFIG,
        ) from None
    except OSError as error:
        raise UserError(
            f"{mountpoint}: what is mounted there cannot be looked at or taken away"
            f" ({error.strerror}); run `hookd mount cleanup`",
            code=Exit.CONFIG,
        ) from None


async def check_remote(
    mounter: Mounter, *, budget_s: float | None, say: Callable[[str], None]
) -> None:
    """List the remote; one that cannot be reached is tried again for `budget_s` (None: for ever).

    Raises RemoteRefused at once, RemoteUnreachable at the end, UserError (78).
    """
    ends = None if budget_s is None else time.monotonic() + budget_s
    await retrying(mounter.check, ends=ends, say=say)


async def retrying(
    attempt: Callable[[], Awaitable[None]], *, ends: float | None, say: Callable[[str], None]
) -> None:
    """Run `attempt` until it does not raise RemoteUnreachable, or the time is over."""
    backoff = Backoff(base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S)
    tries = 0
    while True:
        try:
            return await attempt()
        except RemoteUnreachable as error:
            tries += 1
            pause_s = max(0.1, backoff.after(tries))
            if ends is not None and time.monotonic() + pause_s >= ends:
                raise
            if tries == 1:
                say(f"{error}; trying again")
            log.info("remote unreachable", error=str(error), tries=tries)
            await anyio.sleep(pause_s)


def _has_capability(number: int) -> bool:
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _others_allowed() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
