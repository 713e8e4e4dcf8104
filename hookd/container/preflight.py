"""Stage start, first of all: everything without which the container cannot do its work.

Each finding is one line that names the thing and the cure, and ends the container at once: a container
that starts and then fails in one of its five services is a puzzle. Nothing is changed here but folders
that are made.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hookd.container import backends, layout, mounts, zstor_toml
from hookd.errors import ConfigError, Exit, UserError
from hookd.rclone import program

if TYPE_CHECKING:
    from hookd.config import Config

_SYS_ADMIN = 21
"""Bit of CAP_SYS_ADMIN (capability.h)."""
_FUSE = "/dev/fuse"
_ANONYMOUS = re.compile(r"/[0-9a-f]{64}/_data$")
_MEMORY = frozenset({"tmpfs", "ramfs"})
_ROOM_BYTES = 64 << 20
"""Below this on /data a start is warned about."""


def check(environ: Mapping[str, str]) -> list[str]:
    """Look at everything; lines worth knowing. Blocking; the backends last, for some seconds at most.

    Raises UserError for the first thing that is wrong.
    """
    settings = layout.read_settings(environ)
    found = None
    if layout.stores_in_zstor(environ):
        found, _ = zstor_toml.check(layout.ZSTOR_CONFIG, settings.mountpoint)
    check_fuse()
    check_mount()
    make_folders()
    check_hookd(environ)
    told = check_logins(found) if found is not None else []
    return [*(f"warning: {line}" for line in (*told, *warnings(settings))), *left()]


def check_fuse(device: str = _FUSE) -> None:
    """/dev/fuse is there and may be opened. Raises UserError."""
    advice = "start the container with --device /dev/fuse (and `modprobe fuse` on the host)"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.ENOENT:
            reason = "is not there"
        elif error.errno in (errno.ENODEV, errno.ENXIO):
            reason = "is there, but the host's kernel has no FUSE"
        else:
            reason = f"cannot be opened ({error.strerror})"
        raise UserError(f"{device} {reason}; {advice}", code=Exit.NOPERM) from None


def check_mount(status: Path = Path("/proc/self/status")) -> None:
    """This container may mount. Raises UserError."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    if found is None or not int(found[1], 16) >> _SYS_ADMIN & 1:
        raise UserError(
            "the capability SYS_ADMIN is missing, without which nothing can be mounted; start the"
            " container with --cap-add SYS_ADMIN (or --privileged)",
            code=Exit.NOPERM,
        )
    if (error := mounts.may_mount()) is not None:
        raise UserError(
            f"mounting is forbidden ({error.strerror}) though SYS_ADMIN is there: AppArmor or seccomp;"
            " start the container with --security-opt apparmor=unconfined (or --privileged)",
            code=Exit.NOPERM,
        )


def make_folders() -> None:
    """The folders under /data. Raises UserError."""
    for folder in (layout.ZDB_INDEX, layout.ZDB_DATA, layout.STATE, layout.SPOOL):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be made ({error.strerror}): /data has to be a volume that this"
                " container can write to",
                code=Exit.CONFIG,
            ) from None
    if not os.access(layout.STATE, os.W_OK):
        raise UserError(f"{layout.STATE} cannot be written to", code=Exit.CONFIG)


def check_logins(found: zstor_toml.Backends) -> list[str]:
    """Enough backends let zstor in, or may do so when they are back, to read what is stored.

    A line for each that turns it away: one that has lost its namespace is what erasure coding is for.
    Raises ConfigError where too many do, which zstor would try again for ever.
    """
    denied = backends.denied((*found.meta_logins, *found.data_logins))
    told = {
        login: f"{login.where}: the backend refuses namespace {login.namespace!r} with the password that"
        f" is given, or its absence ({said})"
        for login, said in denied
    }
    for kind, logins, needed in (
        ("metadata", found.meta_logins, zstor_toml.READS_NEED),
        ("data", found.data_logins, found.minimal_shards),
    ):
        lines = [told[login] for login in logins if login in told]
        if lines and len(logins) - len(lines) < needed:
            raise ConfigError(
                str(layout.ZSTOR_CONFIG),
                f"{lines[0]}, as {len(lines)} of {len(logins)} {kind} backends do; reads need {needed}:"
                " correct them",
            )
    return [
        f"{line}; reads do without it, but stores may wait: correct it, or put another one in its place"
        for line in told.values()
    ]


def check_hookd(environ: Mapping[str, str]) -> None:
    """hookd's own settings are right and keep everything on the volume. Raises ConfigError."""
    from hookd import config

    loaded = config.load(None, environ)
    fixed: list[tuple[str, object]] = [
        ("zdb.index", layout.ZDB_INDEX),
        ("zdb.data", layout.ZDB_DATA),
        ("hook.spool", layout.SPOOL),
        ("hook.socket", layout.HOOK_SOCKET),
        ("stats.socket", layout.STATS_SOCKET),
        ("zdb.address", f"unix://{layout.ZDB_SOCKET}"),
        ("journal.path", layout.STATE / "journal.db"),
    ]
    if layout.stores_in_zstor(environ):
        fixed.append(("store.zstor.config", layout.ZSTOR_CONFIG))
    for key, wanted in fixed:
        if (value := loaded.value(key)) != wanted:
            raise ConfigError(key, f"is {value}, but in this container it is {wanted}; unset it")
    state = os.path.realpath(layout.STATE)
    if not Path(os.path.realpath(loaded.staging_path)).is_relative_to(state):
        raise ConfigError(
            "snapshot.staging",
            f"is {loaded.staging_path}, but in this container it has to be in {layout.STATE}, where it"
            " outlives the container; unset it",
        )
    check_store(loaded, layout.read_settings(environ).mountpoint)
    if loaded.store.kind == "rclone" and loaded.store.rclone is not None:
        # the image has none: without it hookd ends at once, again and again
        program.find(loaded.store.rclone.program, "store.rclone.program", environ.get("PATH"))


def check_store(loaded: Config, mountpoint: Path) -> None:
    """A store that is a folder outlives the container. Raises ConfigError.

    /data is told of by itself (`warnings`); any other volume may be one. Blind where a remote of rclone
    leads to a folder by another name (alias, crypt, ...).
    """
    store = loaded.store
    if store.kind == "directory" and store.directory is not None:
        key, path = "store.directory.path", store.directory.path
    elif (
        store.kind == "rclone" and store.rclone is not None and store.rclone.remote.startswith("/")
    ):
        key, path = "store.rclone.remote", Path(store.rclone.remote)
    else:
        return
    real = Path(os.path.realpath(path))
    if real.is_relative_to(mountpoint):
        raise ConfigError(
            key, f"is {path}, which lies in the file system that it has to keep, {mountpoint}"
        )
    mount = mounts.holding(real)
    if not real.is_relative_to(os.path.realpath(layout.DATA)) and (
        mount is None or mount.point == "/" or mount.kind in _MEMORY
    ):
        where = "in memory" if mount and mount.kind in _MEMORY else "on the container's own disk"
        raise ConfigError(
            key,
            f"is {path}, which is {where} and gone with the container; add -v NAME:{path}, or choose a"
            f" folder in {layout.DATA}",
        )
    waited_for = store.directory is not None and store.directory.must_exist
    if store.kind == "directory" and not waited_for and not (real.is_dir() or real.parent.is_dir()):
        # hookd makes one folder, not two
        raise ConfigError(key, f"is {path}, but there is no folder {real.parent}; make it")


def warnings(settings: layout.Settings) -> Iterator[str]:
    """Lines about what works, but not as somebody might think."""
    volume = mounts.top(layout.STATE) or mounts.top(layout.DATA)
    if volume is None or _ANONYMOUS.search(volume.root):
        yield (
            "/data is no volume with a name: what is not stored yet is hard to find again once this"
            " container is removed; add -v NAME:/data"
        )
    free = shutil.disk_usage(layout.STATE).free
    if free < _ROOM_BYTES:
        yield f"/data has only {free >> 20} MiB left"
    shared = mounts.shared_itself(settings.mountpoint)
    if mounts.is_guard(shared):
        yield (
            f"the host's folder that is shared as {settings.mountpoint} still has the read-only guard of"
            f" a killed container ({mounts.GUARD} in its mount table); after this one's stop take it away"
            " there with `umount`"
        )
    elif shared is not None:
        yield (
            f"{settings.mountpoint} is itself the mount that is shared with the host: after a kill -9"
            " of this container docker will not start it again before `umount -l` on the host;"
            " QSFS_MOUNTPOINT=/mnt/fs avoids that"
        )


def left() -> Iterator[str]:
    """What an earlier container left in the journal; the daemon finishes it."""
    from hookd.admin.away import journal_left

    found = journal_left(layout.STATE / "journal.db") or {}
    if files := sum(state["files"] for state in found.values()):
        mib = sum(state["bytes"] for state in found.values()) / (1 << 20)
        yield f"{files} files ({mib:.1f} MiB) were left by the last stop; they are stored now"
