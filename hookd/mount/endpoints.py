"""Stage mount, endpoints: what is mounted at a path, whether it lives, and how it goes away.

Blocking; call it through `bounded`. /proc/self/mountinfo is the truth: on a dead FUSE mount stat
says ENOTCONN, and `os.path.exists` and `os.path.ismount` say no.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
MOST_LAYERS = 16
FUSERMOUNT_WITHIN_S = 5.0

_GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.ESTALE)


class State(enum.Enum):
    """What a look at a mount point says."""

    ANSWERS = "answers"
    DEAD = "dead"
    """Its mounter is gone (ENOTCONN)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounted:
    """One line of mountinfo."""

    number: int
    kind: str
    source: str

    @property
    def is_fuse(self) -> bool:
        """Whether a process serves it."""
        return self.kind == "fuse" or self.kind.startswith("fuse.")


def real(path: Path) -> Path:
    """`path` as mountinfo has it; its last part is not looked at, for it may be dead."""
    return Path(os.path.realpath(path.parent)) / path.name


def mounts_at(path: Path) -> list[Mounted]:
    """What is mounted exactly there, the topmost last."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            head, _, tail = line.rstrip("\n").partition(" - ")
            fields, (kind, source, *_) = head.split(" "), tail.split(" ")
            if _unescape(fields[4]) == str(path):
                number = int(fields[0])
                found.append(Mounted(number=number, kind=kind, source=_unescape(source)))
    return found


def top(path: Path) -> Mounted | None:
    """The topmost mount there, if it is a FUSE one."""
    found = mounts_at(path)
    return found[-1] if found and found[-1].is_fuse else None


def look(path: Path) -> State:
    """Stat and list. Hangs where the mounter does. Raises OSError for other errors."""
    try:
        os.stat(path)
        with os.scandir(path) as entries:
            next(entries, None)
    except OSError as error:
        if error.errno in _GONE:
            return State.DEAD
        raise
    return State.ANSWERS


def unmount(path: Path, *, lazy: bool) -> bool:
    """Take the topmost FUSE mount away; False if there is none. Raises OSError (EBUSY unless lazy)."""
    if top(path) is None:
        return False
    try:
        _umount(path, MNT_DETACH if lazy else 0)
    except PermissionError:
        if (program := fusermount()) is None:
            raise
        return _by_fusermount(program, path, lazy)
    return True


def detach_top(path: Path) -> None:
    """Take the topmost mount away, of whatever kind, lazily. Raises OSError."""
    _umount(path, MNT_DETACH)


def clear(path: Path) -> int:
    """Take away every dead FUSE mount at `path`, lazily; returns how many. Raises OSError."""
    taken = 0
    while taken < MOST_LAYERS and top(path) is not None and look(path) is State.DEAD:
        unmount(path, lazy=True)
        taken += 1
    return taken


def fusermount() -> str | None:
    """The program that mounts for rclone."""
    return shutil.which("fusermount3") or shutil.which("fusermount")


def open_for_writing(path: Path) -> list[str]:
    """Names below the mount point that some process holds open for writing, as far as /proc tells."""
    found, prefix = set(), f"{path}/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            handles = os.listdir(f"/proc/{pid}/fd")
        except OSError:  # gone, or not ours to look at
            continue
        for handle in handles:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{handle}")
                if target.startswith(prefix) and _writes(pid, handle):
                    found.add(target.removeprefix(prefix))
            except OSError:
                continue
    return sorted(found)


def _writes(pid: str, handle: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{handle}") as lines:
        for line in lines:
            if line.startswith("flags:"):
                return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def _umount(path: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), UMOUNT_NOFOLLOW | flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _by_fusermount(program: str, path: Path, lazy: bool) -> bool:
    done = subprocess.run(
        [program, "-uz" if lazy else "-u", "--", str(path)],
        capture_output=True,
        text=True,
        timeout=FUSERMOUNT_WITHIN_S,
        check=False,
    )
    if done.returncode == 0:
        return True
    busy = "busy" in done.stderr
    raise OSError(errno.EBUSY if busy else errno.EPERM, done.stderr.strip() or "fusermount failed")


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, line end and backslash as octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
