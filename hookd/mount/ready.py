"""Stage ready: the mount is there, answers, and what is written through it arrives on the remote.

    mounted (mountinfo) → listed → files of an earlier run uploaded → probe file written, arrived, deleted

The probe goes the way of every write: through FUSE, the cache and the upload. Where nothing can be
written by configuration, or at the top of a bucket store, listing is the proof.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeVar

import anyio

from hookd.errors import Exit, RemoteRefused, RemoteUnreachable, UserError
from hookd.log import get
from hookd.mount import endpoints, failures
from hookd.mount.bounded import bounded
from hookd.mount.cache import PROBE_PREFIX
from hookd.mount.endpoints import State
from hookd.mount.provider import ControlError, Ended, Mount

log = get("mount")

T = TypeVar("T")

LOOK_EVERY_S = 0.01
PROBE_TEXT = b"hookd looks whether this remote can be written to; safe to delete\n"
PROBE_WITHIN_S = 30.0
STILL_STARTING_SAID_S = 10.0
MUTE_AFTER_S = 60.0
"""A mounter that answers nothing for so long, before it has mounted, hangs."""

SETTLE_EVERY_S = 0.5
GIVEN_UP_TRIES = 3
"""One file that the remote never takes must not keep the others from being used."""


class MountDied(Exception):
    """The mounter ended on its own; `ended` has its last words."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(f"the mounter ended (code {ended.code})")
        self.ended = ended


def refusal(target: str, died: MountDied) -> UserError:
    """Why a mounter did not come up, for whoever started it."""
    words = died.ended.last_words
    fuse = [each for each in words if "fusermount" in each or "/dev/fuse" in each]
    if fuse:
        return UserError(f"{target}: cannot be mounted ({fuse[-1]})", code=Exit.CONFIG)
    return failures.classify(
        target, words[-1] if words else f"it ended with code {died.ended.code}"
    )


async def until_mounted(mount: Mount, *, within_s: float, say: Callable[[str], None]) -> None:
    """Until mountinfo has it and it lists. rclone takes in what its cache has left before it mounts.

    `within_s` bounds the listing alone: the time before depends on how much is left, and is waited for
    as long as the mounter answers; `say` is told now and then. Raises MountDied; RemoteUnreachable for
    one that is mute (and killed); UserError (78) if somebody else's mount came over or under ours.
    """
    found = await _until_in_mountinfo(mount, say)
    stacked = [each for each in endpoints.mounts_at(mount.mountpoint) if each.is_fuse]
    if len(stacked) > 1:
        await mount.stop()
        raise UserError(
            f"{mount.mountpoint}: another process mounted {found.source} there at the same moment;"
            " give each side-task a folder of its own",
            code=Exit.CONFIG,
        )
    try:
        state = await bounded(lambda: endpoints.look(mount.mountpoint), within_s)
    except TimeoutError:
        raise RemoteUnreachable(
            f"{mount.mountpoint}: the mount does not list within {within_s:g} s"
        ) from None
    except OSError as error:
        raise RemoteUnreachable(
            f"{mount.mountpoint}: cannot be listed ({error.strerror})"
        ) from None
    if state is State.DEAD:
        raise MountDied(await mount.wait())
    ends = time.monotonic() + within_s
    while True:
        try:
            await mount.queue()
            return
        except ControlError as error:
            if mount.ended is not None:
                raise MountDied(mount.ended) from None
            if time.monotonic() > ends:
                raise RemoteUnreachable(f"the mounter does not answer ({error})") from None
            await anyio.sleep(LOOK_EVERY_S)


async def _until_in_mountinfo(mount: Mount, say: Callable[[str], None]) -> endpoints.Mounted:
    said = heard = time.monotonic()
    while (found := endpoints.top(mount.mountpoint)) is None:
        if mount.ended is not None:
            raise MountDied(mount.ended)
        if time.monotonic() - said >= STILL_STARTING_SAID_S:
            said = time.monotonic()
            say("mounting: the mounter still takes in what its cache holds")
            if await mount.answers():
                heard = time.monotonic()
            elif time.monotonic() - heard >= MUTE_AFTER_S and mount.ended is None:
                mount.kill()
                raise RemoteUnreachable(
                    f"the mounter has not mounted, and not answered for {MUTE_AFTER_S:g} s"
                )
        await anyio.sleep(LOOK_EVERY_S)
    return found


async def probe(mount: Mount, *, read_only: bool, within_s: float = PROBE_WITHIN_S) -> None:
    """Prove that a write arrives. Raises RemoteRefused, RemoteUnreachable, MountDied.

    Cancellation, or the end of the process, may leave the probe file; `sweep_probes` removes it.
    """
    if read_only or await _answer(mount.has_buckets_only(), mount):
        return
    name = f"{PROBE_PREFIX}{secrets.token_hex(4)}"
    path = mount.mountpoint / name
    ends = time.monotonic() + within_s
    try:
        await _touching(lambda: _write(path), mount, ends)
        await _until_arrived(mount, name, ends)
    finally:
        with anyio.CancelScope(shield=True), contextlib.suppress(RemoteUnreachable, MountDied):
            await _touching(lambda: path.unlink(missing_ok=True), mount, time.monotonic() + 5.0)


async def _until_arrived(mount: Mount, name: str, ends: float) -> None:
    why = "it is still waiting"
    while True:
        try:
            await mount.hurry(name)  # not what an earlier run left: it would come first
            uploads = {upload.name: upload for upload in (await mount.queue()).uploads}
            # Out of the queue first: the file is there before its upload is checked and done.
            upload = uploads.get(name)
            if upload is None and await mount.ask_remote(name) == len(PROBE_TEXT):
                return
            if upload is not None and upload.why:
                why = upload.why
                if failures.credentials(why):
                    raise RemoteRefused(
                        f"the remote can be read but not written to ({why}); allow writing, or set"
                        " mount.read_only"
                    )
        except ControlError as error:
            if mount.ended is not None:
                raise MountDied(mount.ended) from None
            why = str(error)
        if time.monotonic() > ends:
            raise RemoteUnreachable(f"a file written to test the remote did not arrive: {why}")
        await anyio.sleep(LOOK_EVERY_S)


async def sweep_probes(mount: Mount, *, within_s: float) -> None:
    """Remove probe files that a killed hookd left at the top of the mount."""

    def sweep() -> None:
        with os.scandir(mount.mountpoint) as entries:
            left = [entry.path for entry in entries if entry.name.startswith(PROBE_PREFIX)]
        for path in left:
            Path(path).unlink(missing_ok=True)

    with contextlib.suppress(OSError, TimeoutError):
        await bounded(sweep, within_s)


async def resumed(mount: Mount, *, within_s: float, say: Callable[[str], None]) -> int:
    """Upload first what an earlier run left; returns how many of those files still wait.

    Files that tasks write meanwhile are not waited for. Raises MountDied.
    """
    ends = time.monotonic() + within_s
    queue = await _answer(mount.queue(), mount)
    began = {u.name for u in queue.uploads if not u.name.startswith(PROBE_PREFIX)}
    left = set(began)
    said = -STILL_STARTING_SAID_S
    while left and time.monotonic() < ends:
        if time.monotonic() - said >= STILL_STARTING_SAID_S:
            said = time.monotonic()
            say(
                f"resuming: {len(left)} of {len(began)} files of an earlier run are not uploaded yet"
            )
        try:
            await mount.hurry()
            queue = await mount.queue()
            left &= {upload.name for upload in queue.uploads if upload.tries < GIVEN_UP_TRIES}
        except ControlError:
            if mount.ended is not None:
                raise MountDied(mount.ended) from None
        if left:
            await anyio.sleep(min(1.0, max(LOOK_EVERY_S * 5, len(left) / 500)))
    return len(began & {upload.name for upload in (await _answer(mount.queue(), mount)).uploads})


async def settle(mount: Mount, names: Collection[str]) -> None:
    """As the files of an earlier run arrive on the remote, have the mount look at them anew.

    A file that is written tells the mount what it has become on the remote; one that rclone took in
    from its cache does not: it would go on with the size that the remote had before, and be read as a
    part of itself, for as long as rclone keeps a listing (5 minutes) or longer.
    """
    left = set(names)
    last = False
    while left or (names and not last):
        last = not left  # once more at the end: some remotes list what they took a moment later
        try:
            waiting = {upload.name for upload in (await mount.queue()).uploads}
            await mount.arrived(names if last else left - waiting)
            left &= waiting
        except ControlError:
            if mount.ended is not None:
                return
        await anyio.sleep(SETTLE_EVERY_S)


async def _answer(question: Awaitable[T], mount: Mount) -> T:
    """What the mounter says. Raises MountDied, RemoteUnreachable."""
    try:
        return await question
    except ControlError as error:
        if mount.ended is not None:
            raise MountDied(mount.ended) from None
        raise RemoteUnreachable(f"the mounter does not answer ({error})") from None


def _write(path: Path) -> None:
    with open(path, "xb") as file:
        file.write(PROBE_TEXT)
    if path.read_bytes() != PROBE_TEXT:
        raise OSError(errno.EIO, "reads back otherwise than it was written", str(path))


async def _touching(call: Callable[[], None], mount: Mount, ends: float) -> None:
    """A call into the mount, bounded. Raises RemoteRefused, RemoteUnreachable, MountDied."""
    try:
        await bounded(call, max(0.1, ends - time.monotonic()))
    except TimeoutError:
        raise RemoteUnreachable(f"{mount.mountpoint}: writing a test file hangs") from None
    except OSError as error:
        if mount.ended is not None:
            raise MountDied(mount.ended) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RemoteRefused(
                f"{mount.mountpoint}: the remote can be read but not written to"
                f" ({error.strerror}); allow writing, or set mount.read_only"
            ) from None
        raise RemoteUnreachable(
            f"{mount.mountpoint}: a test file cannot be written ({error.strerror})"
        ) from None
