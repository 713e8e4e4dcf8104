"""Stage mount, the guard: an empty read-only file system below the mount; no write goes beside it.

A mounter that is replaced leaves its folder uncovered, for seconds while the remote is away. What a task
writes there succeeds, is hidden by the next mount, and never reaches the remote. With a guard between
folder and mount the task gets EROFS. The guard is mounted where the mount will be, so it goes to the same
peers (other containers, the host), and the mount comes on top of it there as well.

Blocking. Never looks into what is mounted on top, which may be dead.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from hookd.mount import endpoints

SOURCE = "hookd-guard"
"""How mountinfo names it."""

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_OPEN_TREE = 428
"""The system call, the same on every machine; Linux 5.2."""
_OPEN_TREE_CLONE = 1
_AT_FDCWD = -100


def lies(path: Path) -> bool:
    """Whether a guard is the topmost there."""
    found = endpoints.mounts_at(path)
    return bool(found) and _is_guard(found[-1])


def lies_below(path: Path) -> bool:
    """Whether there is a guard at all, perhaps with something mounted on it."""
    return any(map(_is_guard, endpoints.mounts_at(path)))


def lay(path: Path) -> None:
    """Mount one. Raises OSError, EPERM without the right to mount."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    options = b"mode=555,size=4k,nr_inodes=2"
    if libc.mount(SOURCE.encode(), os.fsencode(path), b"tmpfs", flags, options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def lift(path: Path) -> int:
    """Take away every one that is topmost; returns how many. Raises OSError.

    Lazily: there is nothing in it that could be lost, and a task may stand in it.
    """
    taken = 0
    while taken < endpoints.MOST_LAYERS and lies(path):
        endpoints.detach_top(path)
        taken += 1
    return taken


def open_under(path: Path) -> int | None:
    """The folder itself, whatever is mounted at `path`; None if the kernel does not show it.

    A copy of the file system around it has none of the mounts on top. Of the root of a bind mount it is
    the folder that the bind mount covers.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
    tree = libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path.parent), flags)
    if tree < 0:
        return None
    try:
        return os.open(
            path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tree
        )
    except OSError:
        return None
    finally:
        os.close(tree)


def _is_guard(mounted: endpoints.Mounted) -> bool:
    return mounted.kind == "tmpfs" and mounted.source == SOURCE
