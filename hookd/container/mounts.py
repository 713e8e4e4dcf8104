"""Mounts as the kernel tells them, and the system calls on them.

Never a stat of a mountpoint in this process: below a dead or hung zdbfs it fails or hangs (`look` asks in
another one). /proc/self/mountinfo and umount2 with MNT_DETACH do not touch the file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hookd.errors import HookdError

GUARD = "qsfs-guard"
"""The source of a guard, as the mount table shows it."""

LOOK_WITHIN_S = 20.0
"""Longer than a killed zdbfs, and whoever looks, need on a machine that swaps. One that is alive may need
longer: its zdb waits up to 60 s for a file from the store, and for a restore without a limit.
"""

_LOOK = """
import os, sys
try:
    os.statvfs(sys.argv[1])
    with os.scandir(sys.argv[1]) as entries:
        next(entries, None)
except OSError as error:
    sys.exit(error.errno)
"""
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.ESTALE)

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    point: str
    kind: str
    """`ext4`, `fuse.zdbfs`, ..."""
    root: str
    """Which folder of its file system is mounted."""
    shared: bool
    """Whether it propagates to peers: on the host, for a bind mount with rshared."""
    source: str
    """`/dev/sda1`, `zdbfs`, `none`, ..."""
    number: int
    parent: int
    """`number` of what it is mounted on; of nothing in this table for the root."""


def mounts(table: str | None = None) -> list[Mount]:
    """All of this mount namespace, in order of mounting."""
    text = Path("/proc/self/mountinfo").read_text() if table is None else table
    found = []
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        found.append(
            Mount(
                point=_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]),
                kind=tail.split(" ")[0],
                source=tail.split(" ")[1],
                number=int(fields[0]),
                parent=int(fields[1]),
                root=fields[3],
                shared=any(field.startswith("shared:") for field in fields[6:]),
            )
        )
    return found


def top(point: Path, table: str | None = None) -> Mount | None:
    """What is mounted at `point`, the uppermost if several are."""
    return next((m for m in reversed(mounts(table)) if m.point == str(point)), None)


def holding(path: Path, table: str | None = None) -> Mount | None:
    """What `path` lies on: the mount at it, or at the closest folder above."""
    above = {str(path), *map(str, path.parents)}
    found = [m for m in mounts(table) if m.point in above]
    return max(reversed(found), key=lambda m: len(m.point), default=None)


def is_fuse(mount: Mount | None) -> bool:
    """Whether it is a FUSE file system."""
    return mount is not None and mount.kind.split(".")[0] == "fuse"


class Taken(HookdError):
    """Somebody's file system is mounted there, and is alive or may be."""


class Life(enum.Enum):
    """Of what is mounted at a folder."""

    ALIVE = "alive"
    """It answers, be it with an error of its own."""
    SILENT = "silent"
    """No answer in time: it waits for something, or hangs. Who serves it has not ended."""
    DEAD = "dead"
    """Nobody serves it any more, as the kernel says."""


def look(point: Path, within_s: float = LOOK_WITHIN_S) -> Life:
    """Whether what is mounted at `point` lives. Blocks for `within_s`.

    Asked in a process of its own: one that hangs there cannot always be killed, and is left behind.
    """
    asker = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LOOK, str(point)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return Life.DEAD if asker.wait(within_s) in _DEAD else Life.ALIVE
    except subprocess.TimeoutExpired:
        asker.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            asker.wait(1)
        return Life.SILENT


def detach_dead(point: Path, within_s: float = LOOK_WITHIN_S) -> int:
    """Take away every FUSE mount that lies uppermost at `point` and is dead; returns how many.

    Detached: whoever has files open there keeps them until they close them. On a shared mount the
    host's copy of the mount goes too, and that of every other container on it: so one that is alive
    stays, and one that is silent, for it may be. Raises Taken for those, after `within_s` at most;
    OSError.
    """
    count = 0
    while is_fuse(found := top(point)):
        source = found.source if found else ""
        life = look(point, within_s)
        if life is Life.ALIVE:
            raise Taken(
                f"{point}: {source} is mounted there and alive; nothing is mounted over it: stop what"
                " serves it, or choose another folder (QSFS_MOUNTPOINT)"
            )
        if life is Life.SILENT:
            raise Taken(
                f"{point}: {source} is mounted there and has not answered for {within_s:g} s; it may be"
                " alive, so it is left alone: wait until it answers, stop what serves it, or take it away"
                f" (umount -l {point})"
            )
        _umount(str(point))
        count += 1
        if count > 64:
            raise OSError(f"{point} is mounted again and again")
    return count


def is_guard(mount: Mount | None) -> bool:
    """Whether `guard` made it, here or in an earlier container."""
    return mount is not None and mount.kind == "tmpfs" and mount.source == GUARD


def guard(point: Path) -> bool:
    """Put an empty read-only file system on `point`, if none lies uppermost yet; whether it did.

    What is written there before zdbfs is mounted on top, or while it is started again, then fails instead
    of going into the folder below, where the next mount hides it. It propagates as the mount on top of
    it will: below a mount that is shared the host has it, too, also after this container was killed,
    until the next one takes it over or `unguard` takes it away. Raises OSError.
    """
    if is_guard(top(point)):
        return False
    _mount(str(point), _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"mode=555,size=4k", GUARD)
    return True


def unguard(point: Path) -> int:
    """Take away every guard that lies uppermost at `point`; returns how many. Raises OSError."""
    count = 0
    while is_guard(top(point)):
        _umount(str(point))
        count += 1
    return count


def shared_itself(point: Path, table: str | None = None) -> Mount | None:
    """The mount at `point` that is one of the host's by itself, if there is one.

    What a folder below it got by propagation is none: that can be taken away from here, on the host too.
    """
    found = mounts(table)
    by_number = {m.number: m for m in found}
    for mount in found:
        if mount.point != str(point) or not mount.shared:
            continue
        below = by_number.get(mount.parent)
        own = below is None or below.point == "/"  # which some runtimes make shared, too
        if own or (below and below.point != mount.point and not below.shared):
            return mount
    return None


def may_mount() -> OSError | None:
    """Try a mount and take it away; why it failed, or None."""
    with tempfile.TemporaryDirectory(prefix="qsfs-mount-") as folder:
        try:
            _mount(folder, 0, b"", "none")
        except OSError as error:
            return error
        _umount(folder)
    return None


def _mount(point: str, flags: int, options: bytes, source: str) -> None:
    """A tmpfs."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = source.encode()
    if libc.mount(name, os.fsencode(point), b"tmpfs", ctypes.c_ulong(flags), options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), point)


def _umount(point: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), point)
