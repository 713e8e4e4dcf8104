"""The life of the zdb that this daemon answers: whether it still runs, and what it has closed.

Two sources, because either alone can mislead: zdb's listener (a hook child that has not closed its
inherited descriptors yet keeps it open for a moment) and the flock on `.lockfile` in both roots
(0-db libzdb/filesystem.c), looked up in /proc/locks, never taken: a lock of ours would keep the next
zdb from starting.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hookd import event as ev

CONNECT_LIMIT_S = 0.5
SOCKET, SPOOL = b"HOOKD_SOCKET", b"HOOKD_SPOOL"
DEFAULT_SOCKET, DEFAULT_SPOOL = b"/run/hookd/hook.sock", b"/var/lib/hookd/spool"
"""Of the shim (shim/hookd-shim.c), for a variable that is not set or empty."""

HEARD = "zdb_heard"
"""In the journal: where zdb listened, as its hooks said."""

_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Too few descriptors, or too little memory, to look at anything: no answer."""

LINGER_S = 0.5
"""How long a client of ours stays after a command that started a hook.

zdb 2.0.7 dies of one that hangs up just then (5 of 25 tries): the hook's process has the client's socket
too until it closes it, so epoll names the socket once more after zdb has freed the client.
"""


@dataclass(slots=True)
class ZdbLife:
    """What the events of one zdb run have said so far."""

    address: str | None = None
    """`tcp://host:port` or `unix:///path`: configured, else the id of the newest event."""
    heard_before: str | None = None
    """Where it listened in an earlier run of this daemon. Good enough to ask there, no proof of
    anything: somebody else may listen there by now."""
    started: bool = False
    """Whether a run has begun whose closing hooks are still owed."""
    closing: bool = False
    """Whether its `close` hook has come."""
    closed: set[str] = field(default_factory=set)
    """Namespaces whose namespace-closing has come."""
    configured: bool = field(init=False)

    def __post_init__(self) -> None:
        self.configured = self.address is not None

    def see(self, event: ev.Event) -> None:
        """Follow one event."""
        if event.zdb and not self.configured:
            self.address = event.zdb
        match event:
            case ev.NamespacesInit() | ev.Ready():
                self.started, self.closing = True, False
                self.closed.clear()
            case ev.Closing() | ev.Crashed():
                self.started, self.closing = True, True
            case ev.NamespaceClosing(namespace=name):
                self.started = True
                self.closed.add(name)
            case ev.NamespaceCreated(namespace=name):
                self.started = True
                self.closed.discard(name)
            case _:
                self.started = True

    def owes(self, namespaces: Iterable[str]) -> list[str]:
        """Which of the namespaces on disk have not said namespace-closing yet."""
        return sorted(set(namespaces) - self.closed) if self.started else []


def place_of(address: str) -> str | tuple[str, int]:
    """The path of a unix socket, or host and port; one that listens everywhere is met on localhost.

    Raises ValueError for what is no id of a zdb.
    """
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        return rest
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    return ("localhost" if host in ("", "::", "0.0.0.0", "*") else host), int(port)


def listens(address: str | None) -> bool:
    """Whether somebody accepts connections there. Blocking, bounded by CONNECT_LIMIT_S."""
    if not address:
        return False
    try:
        place = place_of(address)
        if isinstance(place, str):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(CONNECT_LIMIT_S)
                client.connect(place)
                return True
        with socket.create_connection(place, timeout=CONNECT_LIMIT_S):
            return True
    except (TimeoutError, BlockingIOError):
        return True  # a zdb that is busy in a hook accepts late; it is there
    except OSError as error:
        return error.errno in _NONE_LEFT  # then nobody can tell
    except ValueError:
        return False


def holds_lock(roots: Iterable[Path]) -> bool:
    """Whether a process in our pid namespace holds zdb's lock in one of the roots, or may do so: where
    nobody can tell.
    """
    try:
        return bool(_lock_holders(roots))
    except OSError:
        return True


def lock_holders(roots: Iterable[Path]) -> list[str]:
    """Ids of the processes in our pid namespace that hold zdb's lock in one of the roots, as far as can
    be told.
    """
    try:
        return _lock_holders(roots)
    except OSError:
        return []


def _lock_holders(roots: Iterable[Path]) -> list[str]:
    """Raises OSError where nobody can tell: a disk that does not answer, no descriptor left.

    The device in /proc/locks is the file system's, which on btrfs is not the one that stat gives: an
    inode number that fits is believed if the device does, or if its process has the file open.
    """
    wanted: dict[str, tuple[str, Path]] = {}
    for root in roots:
        path = root / ".lockfile"
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISREG(found.st_mode):
            device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
            wanted[str(found.st_ino)] = (device, path)
    try:
        lines = Path("/proc/locks").read_text().splitlines() if wanted else []
    except FileNotFoundError:  # a system without: the listener has to do
        return []
    holders: list[str] = []
    for line in lines:
        parts = line.split()
        if len(parts) < 6 or parts[5].count(":") != 2:
            continue
        device, _, inode = parts[5].rpartition(":")
        if inode in wanted:
            expected, path = wanted[inode]
            if device == expected or _has_open(parts[4], path):
                holders.append(parts[4])
    return list(dict.fromkeys(holders))


def _has_open(pid: str, path: Path) -> bool:
    """By name first: to follow a link into a file system that hangs would hang here, too."""
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
        return any(
            os.readlink(each).endswith(f"/{path.name}") and each.samefile(path) for each in links
        )
    except OSError as error:
        if error.errno in _NONE_LEFT:
            raise
        return False


def runs(life: ZdbLife, roots: Iterable[Path]) -> bool:
    """Whether zdb runs, as far as can be seen from here. Blocking, well under a second.

    Where nobody can tell it does: whoever took it for gone would end a drain, or write below it.

    The lock first: zdb 2.0.7 dies of a client that hangs up while a hook of it has just been forked
    (the child has the client's socket too, so epoll names it once more after it was freed).
    """
    return holds_lock(roots) or listens(life.address)


def may_run(life: ZdbLife, roots: Iterable[Path]) -> bool:
    """As `runs`, for whoever must not be wrong: also if anybody listens where zdb did in an earlier run
    of this daemon. A zdb in another pid namespace, idle since, is seen by nothing else.
    """
    return runs(life, roots) or listens(life.heard_before)


def shims(socket_path: Path) -> dict[int, str]:
    """Process id → hook of the shims in our pid namespace that will come to this socket. Raises OSError
    where nobody can tell.
    """
    return {pid: hook for pid, (hook, _) in _shims(socket_path).items()}


def shims_alive(socket_path: Path) -> int:
    """How many shims in our pid namespace will come to this socket with something to be stored.

    The hooks that ask for something (NEVER_SPOOLED) announce nothing: once zdb is gone nobody waits for
    their answer, and the shim of a namespaces-init asks for ever. Raises OSError where nobody can tell.
    """
    return sum(hook not in ev.NEVER_SPOOLED for hook in shims(socket_path).values())


def spools_elsewhere(socket_path: Path, spool: Path, roots: Iterable[Path]) -> set[str]:
    """Folders other than `spool` that zdb has told its shims: those that live, and those of zdb itself.

    Of processes whose environment we may read and names our socket; who is told nothing of it may have
    another hook. A relative folder is left out: whose it is relative to nobody knows any more.
    """
    told = {pid: environment for pid, (_, environment) in _shims(socket_path).items()}
    told |= {int(pid): _environment(pid) for pid in lock_holders(roots)}
    found: set[str] = set()
    for pid, environment in told.items():
        folder = os.fsdecode(environment.get(SPOOL) or DEFAULT_SPOOL)
        ours = (environment.get(SOCKET) or DEFAULT_SOCKET) == os.fsencode(socket_path)
        if ours and folder.startswith("/") and not _is_same(pid, folder, spool):
            found.add(folder)
    return found


def _is_same(pid: int, folder: str, spool: Path) -> bool:
    """Whether what the process calls `folder` is our `spool`; it may have mounts of its own."""
    if os.path.realpath(folder) == os.path.realpath(spool):
        return True
    try:
        return os.path.samefile(f"/proc/{pid}/root{folder}", spool)
    except OSError:
        return False


def _shims(socket_path: Path) -> dict[int, tuple[str, dict[bytes, bytes]]]:
    """Process id → (hook, environment)."""
    found: dict[int, tuple[str, dict[bytes, bytes]]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if Path(f"/proc/{entry}/comm").read_text().strip() != "hookd-shim":
                continue
            environment = _environment(entry, strict=True)
            argv = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError as error:
            if error.errno in _NONE_LEFT:
                raise
            continue
        if _comes_to(environment, socket_path):
            found[int(entry)] = (os.fsdecode(argv[1]) if len(argv) > 1 else "", environment)
    return found


def _environment(pid: str, *, strict: bool = False) -> dict[bytes, bytes]:
    """As the process was started; empty where we may not look. Raises OSError if `strict`."""
    try:
        items = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        if strict:
            raise
        return {}
    found: dict[bytes, bytes] = {}
    for name, equals, value in (item.partition(b"=") for item in items):
        if equals:
            found.setdefault(name, value)
    return found


def _comes_to(environment: dict[bytes, bytes], socket_path: Path) -> bool:
    return environment.get(SOCKET, os.fsencode(socket_path)) == os.fsencode(socket_path)
