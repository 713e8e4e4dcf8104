"""Stage mount, the ground: the folder itself, below everything that is mounted at its place.

    checked → held by a lock → guarded ⟲ (mounts come and go on top) → looked at → guard lifted

Owns two invariants: no two side-tasks mount on one folder, and what was written into the folder while it
was ours is never left there in silence. With a guard nothing can be; a task that does not get our mounts
(a private bind of the folder), or a hookd without the right to mount a guard, still can.

A record beside the cache says that the folder is ours, from the first mount to an end that left nothing
there. So a start after a kill knows what came meanwhile from what was there before.

Blocking; may hang where the disk of the folder does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookd.errors import ConfigError, Exit, UserError
from hookd.log import get
from hookd.mount import endpoints, guard

log = get("mount")

FEW = 3
_KEY = "mount.local_path"
_CLOSED, _OURS = 0o555, 0o700
"""Modes of an unguarded folder: while nothing is mounted, and while a mounter mounts there, for which
fusermount wants it writable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """The folder as it was when it became ours."""

    hidden: frozenset[str] = frozenset()
    """Names in it that were there before; the mount may hide them."""
    since_ns: int = 0
    mode: int | None = None
    """Of an unguarded folder, to give back."""


class Ground:
    """The folder of one mount."""

    def __init__(self, path: Path, record: Path) -> None:
        """`record` lies beside the cache of this mount."""
        self._path = path
        self._record_path = record
        self._record: _Record | None = None
        self._made = False
        self._bare: int | None = None
        self._locks: list[int] = []

    def take(self, *, may_hide: bool) -> None:
        """Make the folder or check the one that is there, hold it, guard it.

        Raises ConfigError for one with files in it that came before a mount of ours, unless
        `may_hide`; UserError (78) if another side-task is at it.
        """
        try:
            self._take(self._make(), self._known(), may_hide)
        except UserError:
            self._drop()
            raise

    def _take(self, names: list[str], known: _Record | None, may_hide: bool) -> None:
        self._hold()
        if guard.lies(self._path):  # of a run that was killed: what it covers counts
            self._bare = guard.open_under(self._path)
            names = [] if self._bare is None else os.listdir(self._bare)
        else:
            self._bare = os.dup(self._locks[0])
        if known is None:
            if names and not may_hide:
                raise _not_empty(self._path, names)
            known = _Record(hidden=frozenset(names), since_ns=time.time_ns())
        self._record = known
        guarded = self.guard()
        self._keep()
        if guarded:
            return
        if known.mode is None:
            self._close_off()
        self.open_up(False)

    def guard(self) -> bool:
        """Lay the guard if it is not there; whether it is. Raises UserError (78) as `take` does."""
        if guard.lies(self._path):
            return True
        try:
            guard.lay(self._path)
        except OSError as error:
            log.info("no guard below the mount", path=str(self._path), error=str(error))
            return False
        # Who came between our lock and the guard has locked the guard.
        self._hold()
        return True

    def open_up(self, opened: bool) -> None:
        """Before and after a mounter mounts on a folder without a guard: let it in, nobody else."""
        if self._record is not None and self._record.mode is not None and self._bare is not None:
            with contextlib.suppress(OSError):
                os.fchmod(self._bare, _OURS if opened else _CLOSED)

    def strays(self) -> list[str]:
        """What was written into the folder since it is ours, by name. Raises OSError."""
        if self._record is None or self._bare is None:
            return []
        return _strays(self._bare, self._record)

    def release_former(self) -> list[str]:
        """For a cache whose last run was killed, and mounted elsewhere: what that left is taken away.

        Returns the paths of what was written there beside the mount. Not for a folder that another
        side-task has by now.
        """
        try:
            path, record = self._read()
            if path == self._path:
                return []
            endpoints.clear(path)
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError, KeyError, TypeError):  # no record, no folder, or a live mount
            return []
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            guard.lift(path)
        except OSError:
            return []
        finally:
            os.close(handle)
        if endpoints.top(path) is not None:
            return []
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return [str(path / name) for name in _strays(handle, record)]
            finally:
                os.close(handle)
        return []

    def leave(self, *, remove: bool) -> None:
        """Lift the guard, let go; with `remove`, or if it was made here, remove the folder if empty."""
        if self._record is None:
            self._drop()
            return
        clean = False
        with contextlib.suppress(OSError):
            clean = not self.strays()
        if self._record.mode is not None and self._bare is not None:
            with contextlib.suppress(OSError):
                os.fchmod(self._bare, self._record.mode)
        try:
            guard.lift(self._path)  # before the lock is gone: nobody takes a guard that goes
        except OSError as error:
            log.error("the guard stays", path=str(self._path), error=str(error))
        if self._made or remove:
            with contextlib.suppress(OSError):
                self._path.rmdir()
        if clean:
            with contextlib.suppress(OSError):
                self._record_path.unlink(missing_ok=True)
        self._drop()

    # -- its parts -------------------------------------------------------------------------------

    def _make(self) -> list[str]:
        """Names in the folder. Raises ConfigError."""
        try:
            self._path.mkdir(parents=True)
            self._made = True
            return []
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigError(
                _KEY,
                f"{self._path} cannot be made ({error.strerror}); create it, or choose another",
            ) from None
        try:
            return os.listdir(self._path)
        except NotADirectoryError:
            raise ConfigError(_KEY, f"{self._path} is no folder; choose another") from None
        except OSError as error:
            raise ConfigError(_KEY, f"{self._path} cannot be used ({error.strerror})") from None

    def _hold(self) -> None:
        """Lock what is there, where the file system knows locks. Raises UserError (78).

        Another side-task may have mounted since the place was looked at: a lock of its mount is none of
        the folder, and a guard on top would end it.
        """
        handle = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        free = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:
            pass  # no locks here
        if (
            not free
            or endpoints.top(self._path) is not None
            or not os.path.samestat(os.fstat(handle), os.stat(self._path))
        ):
            os.close(handle)
            raise UserError(
                f"{self._path}: another hookd mount is starting or runs there; give each side-task a"
                " folder of its own",
                code=Exit.CONFIG,
            )
        self._locks.append(handle)

    def _drop(self) -> None:
        for handle in (*self._locks, self._bare):
            if handle is not None:
                os.close(handle)
        self._locks, self._bare, self._record = [], None, None

    def _known(self) -> _Record | None:
        """The record of an earlier run at this folder that did not end, or left something."""
        try:
            path, found = self._read()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if path == self._path else None

    def _read(self) -> tuple[Path, _Record]:
        """Raises OSError, ValueError, KeyError, TypeError."""
        found: dict[str, Any] = json.loads(self._record_path.read_bytes())
        return Path(os.fsdecode(bytes.fromhex(found["path"]))), _Record(
            hidden=frozenset(os.fsdecode(bytes.fromhex(name)) for name in found["hidden"]),
            since_ns=int(found["since_ns"]),
            mode=found["mode"],
        )

    def _keep(self) -> None:
        """Write the record, whole or not at all. Names are hexadecimal: they need not be UTF-8."""
        assert self._record is not None
        found = {
            "path": os.fsencode(self._path).hex(),
            "hidden": sorted(os.fsencode(name).hex() for name in self._record.hidden),
            "since_ns": self._record.since_ns,
            "mode": self._record.mode,
        }
        temporary = self._record_path.with_suffix(".tmp")
        try:
            with temporary.open("w") as file:
                file.write(json.dumps(found))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._record_path)
        except OSError as error:  # a full disk: the mount is what makes room there
            log.warning(
                "it cannot be noted that the folder is ours",
                path=str(self._record_path),
                error=str(error),
            )

    def _close_off(self) -> None:
        """Without a guard: nobody but root may write into our own folder while it is uncovered."""
        assert self._bare is not None and self._record is not None
        found = os.fstat(self._bare)
        if found.st_uid != os.geteuid() or os.geteuid() == 0:
            return
        self._record = _Record(
            hidden=self._record.hidden,
            since_ns=self._record.since_ns,
            mode=found.st_mode & 0o7777,
        )
        self._keep()


def _strays(folder: int, record: _Record) -> list[str]:
    found = []
    for name in os.listdir(folder):
        if name not in record.hidden:
            found.append(name)
        else:
            found += _newer(folder, name, record.since_ns)
    return sorted(found)


def _newer(folder: int, name: str, since_ns: int) -> list[str]:
    """Files below `name` that changed since then: a write into what the mount hides."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        entry = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(entry.st_mode):
            return [name] if entry.st_ctime_ns > since_ns else []
        for place, _, names, inside in os.fwalk(name, dir_fd=folder, onerror=_raise):
            for each in names:
                with contextlib.suppress(FileNotFoundError):
                    changed = os.stat(each, dir_fd=inside, follow_symlinks=False).st_ctime_ns
                    if changed > since_ns:
                        found.append(os.path.join(place, each))
    return found


def _raise(error: OSError) -> None:
    raise error


def _not_empty(path: Path, names: list[str]) -> ConfigError:
    shown = ", ".join(repr(name) for name in sorted(names)[:FEW])
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ConfigError(
        _KEY,
        f"{path} is not empty ({shown}{more}): the mount would hide what is in it; move it"
        " away, or set mount.allow_non_empty",
    )
