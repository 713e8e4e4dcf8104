"""The hook socket from the service manager (sd_listen_fds(3)): it stays open while hookd restarts, so
shims wait in its backlog instead of spooling.

What is passed is checked: exactly one descriptor, a listening unix stream socket, bound to the
configured path, which is still there. It belongs to the manager: it is never unlinked here.

What is wrong for good ends with 78; a path that is gone with 69, for the manager passes another socket to
the next start if it was just stopping this one.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

from hookd.errors import Exit, UserError

FIRST = 3
"""Where the descriptors begin (SD_LISTEN_FDS_START)."""


def hook_socket(environ: MutableMapping[str, str], path: Path) -> socket.socket | None:
    """The listening, non-blocking socket that was passed for `path`; None: none was passed.

    Takes the variables out of `environ`: programs that we start have none of it. Raises UserError.
    """
    pid, fds = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not fds.isdecimal() or int(fds) == 0:
        return None
    for fd in range(FIRST, FIRST + int(fds)):
        os.set_inheritable(fd, False)
    if int(fds) != 1:
        raise _wrong(f"{fds} sockets were passed ({', '.join(names)}), expected one")
    return _checked(FIRST, path)


def _checked(fd: int, path: Path) -> socket.socket:
    try:
        found = socket.socket(fileno=fd)
    except OSError as error:
        raise _wrong(f"what was passed is no socket ({error.strerror})") from None
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM:
        raise _wrong("the passed socket is no unix stream socket; write ListenStream=PATH")
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise _wrong("the passed socket does not listen; write Accept=no")
    bound = found.getsockname()
    if not isinstance(bound, str) or _real(Path(bound)) != _real(path):
        raise _wrong(f"the passed socket is {bound!r}, expected {str(path)!r}; make the two equal")
    try:
        there = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        raise _wrong(
            f"{path} is not there any more; if that stays so, restart the socket unit",
            Exit.UNAVAILABLE,
        ) from None
    if not there:
        raise _wrong(f"{path} is no socket any more; restart the socket unit")
    found.setblocking(False)
    return found


def _real(path: Path) -> str:
    return os.path.join(os.path.realpath(path.parent), path.name)


def _wrong(reason: str, code: Exit = Exit.CONFIG) -> UserError:
    return UserError(f"hook.socket: {reason}", code=code)
