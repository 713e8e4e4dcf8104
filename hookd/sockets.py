"""Unix sockets that only the right processes can serve and reach.

Order matters: the locks first (two daemons never share a socket, and a stale one may be removed
safely), then the folder, then bind. The socket is never chmod-ed after somebody could connect: the
umask is set around bind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import socket
import stat
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hookd.errors import Exit, UserError

_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """The kernel's word on who connected."""
    return Peer(
        *_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    )


def allowed_uids(users: Collection[str | int]) -> frozenset[int]:
    """Root, our own user, and the configured ones. Raises UserError for a name nobody has."""
    uids = {0, os.geteuid()}
    for user in users:
        try:
            uids.add(user if isinstance(user, int) else pwd.getpwnam(user).pw_uid)
        except KeyError:
            raise UserError(
                f"hook.allow_users: there is no user {user!r}", code=Exit.CONFIG
            ) from None
    return frozenset(uids)


def out_of_reach(folder: Path, user: str | int, bits: int) -> Path | None:
    """The first folder, from `/` down to `folder`, that keeps `user` out; None where none does.

    `bits`: what it must be allowed in `folder` itself (`os.X_OK`, `os.W_OK`); on the way to it, to pass.
    By owner, group and mode; who is let in by an access list shows in the group's bits.
    """
    try:
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:  # an id without a name is in no group that we know of
        assert isinstance(user, int)
        uid, groups = user, set()
    else:
        uid, groups = entry.pw_uid, {*os.getgrouplist(entry.pw_name, entry.pw_gid)}
    if uid == 0:
        return None
    resolved = Path(os.path.realpath(folder))
    for each in reversed([resolved, *resolved.parents]):
        found, wanted = each.stat(), bits if each == resolved else os.X_OK
        shift = 6 if uid == found.st_uid else 3 if found.st_gid in groups else 0
        if found.st_mode >> shift & wanted != wanted:
            return each
    return None


def lock_file(path: Path, what: str, *, folder_mode: int = 0o700) -> int:
    """Hold `path` for this process; returns the descriptor that holds it.

    `folder_mode` is for a folder that has to be made. Raises UserError naming the process that has it.
    """
    make_folder(path.parent, what, folder_mode)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UserError(f"{what}: {path}: {error.strerror}", code=Exit.CONFIG) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise UserError(
            f"{what}: another hookd (pid {holder}) holds {path}; stop it first",
            code=Exit.UNAVAILABLE,
        ) from None
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def lock_folder(folder: Path, what: str) -> int:
    """Hold a folder, made if it is not there, for this process; returns the descriptor that holds it.

    The folder itself is locked: no file more lies in it, and its other names are locked with it. Raises
    UserError.
    """
    make_folder(folder, what)
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{what}: {folder}: {error.strerror}", code=Exit.CONFIG) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(
            f"{what}: another hookd uses {folder}; stop it first, or give each one a folder of its own",
            code=Exit.UNAVAILABLE,
        ) from None
    return handle


def make_folder(folder: Path, what: str, mode: int = 0o700) -> None:
    """A folder that nobody else can put things into: made (0700 as a rule), or found and checked.

    One that was made, with its parents, is there after a power cut. Raises UserError for one that belongs
    to another user or that others can write to.
    """
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
        for each in made:
            _sync_folder(each.parent)
        found = folder.stat()
    except OSError as error:
        raise UserError(f"{what}: {folder}: {error.strerror}", code=Exit.CONFIG) from error
    if found.st_uid != os.geteuid():
        raise UserError(
            f"{what}: {folder} belongs to user {found.st_uid}, not to {os.geteuid()};"
            " give hookd a folder of its own",
            code=Exit.CONFIG,
        )
    if found.st_mode & 0o022:
        raise UserError(
            f"{what}: others can write to {folder} (mode {stat.S_IMODE(found.st_mode):04o});"
            " give hookd a folder of its own, mode 0700",
            code=Exit.CONFIG,
        )


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # one may be allowed to make something in a folder and not to read it
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def listen(path: Path, what: str, *, mode: int, backlog: int) -> socket.socket:
    """A listening, non-blocking socket at `path`; the caller holds the lock of it.

    Raises UserError where something that is no socket is in the way, or one that somebody serves
    without the lock, such as systemd for a hookd that it would start itself.
    """
    make_folder(path.parent, what)
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UserError(f"{what}: {path} exists and is no socket; remove it", code=Exit.CONFIG)
        if _is_served(path):
            raise UserError(
                f"{what}: another process listens on {path} (a systemd socket unit?); start hookd by"
                " its unit, or stop that process",
                code=Exit.UNAVAILABLE,
            )
        path.unlink()
    except FileNotFoundError:
        pass
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o777 & ~mode)
    try:
        server.bind(os.fspath(path))
    except OSError as error:
        server.close()
        raise UserError(f"{what}: {path}: {error.strerror or error}", code=Exit.CONFIG) from error
    finally:
        os.umask(before)
    server.listen(backlog)
    server.setblocking(False)
    return server


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(os.fspath(path))
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
        return True
