"""Stage intake, the other way in: events that shims wrote to the spool while the daemon was away.

A spool file is one EVENT frame under a name that sorts by time (`NANOSECONDS-ID.event`). It is
removed only after the commit that holds its event; the id makes a second reading harmless. What is
no frame is moved to `bad/`, counted and logged, never removed. `.tmp-ID` is a shim at work; one that is
left behind (its shim was killed) is taken in all the same if it is whole. What cannot be read stays,
and `problems` says so. `owner` is not an event, see there.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from hookd import faults
from hookd.admin.words import count, verb
from hookd.errors import FrameError, JournalError
from hookd.intake.owner import OWNER, UNFINISHED
from hookd.log import get
from hookd.sockets import make_folder
from hookd.wire import ANSWER_SPOOL, HEADER_SIZE, MAX_BODY, Answer, EventFrame, decode_one

log = get("spool")

BAD = "bad"
TEMPORARY = ".tmp-"
_NAMED = re.compile(r"(?:[0-9]+-|\.tmp-)(?P<id>[0-9a-f]{32})(?:\.event)?", re.ASCII)
_OURS = frozenset({BAD, OWNER, UNFINISHED})
ABANDONED_S = 30.0
"""A `.tmp-` file older than this has no shim any more: writing one takes milliseconds."""
_NO_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})
"""What opening or reading a symbolic link, a folder and a socket fails with; anything else that fails
(no descriptors, a disk that errs) says nothing about the event."""

SWEEP_EVERY_S = 5.0
"""The watch is a courtesy, the sweep is the promise (inotify may overflow or be absent)."""


class Spool:
    """The folder, its watch and its sweep."""

    def __init__(
        self,
        folder: Path,
        *,
        admit: Callable[[EventFrame, str], Awaitable[Answer]],
        expect: Callable[[Sequence[bytes]], Awaitable[None]] | None = None,
    ):
        """`admit` keeps an event; ANSWER_SPOOL from it leaves the file where it is. `expect` is told the
        event ids that the names of the next files say (`Recall`).
        """
        self.folder = folder
        self._admit = admit
        self._expect = expect
        self._wake = anyio.Event()
        self._lock = anyio.Lock()
        self.taken = 0
        self.bad = 0
        """Files moved to bad/ since the start of this process."""
        self._set_aside_now: set[str] = set()
        """Their names there."""
        self._unreadable: set[str] = set()
        """Names of the files that the newest sweep could not read, and left."""

    def prepare(self) -> None:
        """Make the folder. Raises UserError for one of another owner."""
        make_folder(self.folder, "hook.spool")
        make_folder(self.folder / BAD, "hook.spool")

    def waiting(self) -> int:
        """How many files wait to be taken in. Raises OSError where the folder cannot be listed."""
        return len(self._names())

    def coming(self) -> int:
        """How many files are still to be taken in, those that shims are writing too; without those that
        cannot be read. 0 where the folder cannot be listed: `problems` says so.
        """
        try:
            return len(set(self._names(abandoned_s=0.0)) - self._unreadable)
        except OSError:
            return 0

    def problems(self) -> list[str]:
        """A line for each reason why events of this run are kept here and not taken in. Blocking."""
        try:
            names = set(self._names(abandoned_s=0.0))
            bad = self._set_aside_now.intersection(os.listdir(self.folder / BAD))
        except OSError as error:
            return [
                f"the spool {self.folder} cannot be read ({error.strerror}): events may lie there"
            ]
        lines = []
        if unreadable := len(self._unreadable & names):
            lines.append(f"{count(unreadable, 'file')} in the spool {self.folder} cannot be read")
        if bad:
            were = verb(len(bad), "was no event", "were no events")
            lines.append(
                f"{count(len(bad), 'file')} from the spool {were} and {verb(len(bad), 'lies', 'lie')} in"
                f" {self.folder / BAD}: what zdb announced with it may not be stored"
            )
        return lines

    def bad_files(self) -> int:
        """How many files lie in bad/, from this run and earlier ones."""
        try:
            return len(os.listdir(self.folder / BAD))
        except OSError:
            return 0

    async def run(self) -> None:
        """Sweep when the folder changes, and every few seconds anyway. Until cancelled."""
        observer = Observer()
        observer.schedule(_Waker(self), os.fspath(self.folder))
        try:
            await anyio.to_thread.run_sync(observer.start)
        except OSError as error:
            log.warning("spool is swept, not watched", error=str(error))
        try:
            while True:
                self._wake = anyio.Event()
                await self.sweep()
                with anyio.move_on_after(SWEEP_EVERY_S):
                    await self._wake.wait()
        finally:
            if observer.is_alive():
                # what watchdog reads while it is stopped is an error to it, and to nobody else
                logging.getLogger("watchdog.observers.inotify").disabled = True
                observer.stop()

    def wake(self) -> None:
        """Something changed in the folder (on the event loop)."""
        self._wake.set()

    async def sweep(self, *, abandoned: bool = False) -> int:
        """Take in all that lies there, oldest first; returns how many events were kept.

        `abandoned`: no shim lives, so that whole `.tmp-` files are taken in however young they are.
        """
        kept = 0
        async with self._lock:
            list_names = partial(self._names, abandoned_s=0.0 if abandoned else ABANDONED_S)
            try:
                names = await anyio.to_thread.run_sync(list_names, abandon_on_cancel=True)
            except OSError as error:
                log.error("spool cannot be read", error=str(error))
                return 0
            self._unreadable.intersection_update(names)
            if names and self._expect is not None:
                with suppress(JournalError):  # then each is looked for by itself
                    await self._expect(_ids(names))
            for name in names:
                if await self._take(name):
                    kept += 1
        return kept

    def _names(self, *, abandoned_s: float = ABANDONED_S) -> list[str]:
        found: list[str] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name in _OURS:
                    continue
                if entry.name.startswith(TEMPORARY) and _is_young(entry, abandoned_s):
                    continue
                found.append(entry.name)
        return sorted(found, key=lambda name: (name.startswith("."), name))

    async def _take(self, name: str) -> bool:
        path = self.folder / name
        try:
            frame = await anyio.to_thread.run_sync(_read, path, abandon_on_cancel=True)
        except FileNotFoundError:
            return False  # a .tmp- file that its shim has just given its name
        except FrameError as error:
            if not await anyio.to_thread.run_sync(_is_at_work, path):
                await self._refuse(name, str(error))
            return False
        except OSError as error:
            if error.errno in _NO_FILE:
                await self._refuse(name, str(error))
            else:
                self._unreadable.add(name)
                log.error("spool file cannot be read, stays", file=name, error=str(error))
            return False
        self._unreadable.discard(name)
        faults.point("spool-read")
        answer = await self._admit(frame, "spool")
        if answer.code == ANSWER_SPOOL:
            return False
        faults.point("spool-committed")
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # its id is known: reading it again does no harm
            log.error("spool file cannot be removed", file=name, error=str(error))
        self.taken += 1
        log.info(
            "taken from the spool", hook=frame.argv[0] if frame.argv else "", answer=answer.code
        )
        return True

    async def _refuse(self, name: str, reason: str) -> None:
        try:
            await anyio.to_thread.run_sync(self._set_aside, name)
        except OSError as error:
            self._unreadable.add(name)
            log.error("no event, and cannot be moved to bad/", file=name, error=str(error))
            return
        self.bad += 1
        log.error("moved to bad/", file=name, error=reason)

    def _set_aside(self, name: str) -> None:
        target = self.folder / BAD / f"{time.time_ns():020d}-{name.lstrip('.')}"
        os.rename(self.folder / name, target)
        self._set_aside_now.add(target.name)


def events_in(folder: str) -> int:
    """How many files that may be events lie in some folder; 0 where it cannot be listed. Blocking."""
    try:
        return sum(
            name.endswith(".event") or name.startswith(TEMPORARY) for name in os.listdir(folder)
        )
    except OSError:
        return 0


def _ids(names: Iterable[str]) -> list[bytes]:
    """The event ids in the names that shims give their files."""
    found = (_NAMED.fullmatch(name) for name in names)
    return [bytes.fromhex(each["id"]) for each in found if each]


def _is_young(entry: os.DirEntry[str], seconds: float) -> bool:
    """Whether it was written to less than so long ago, or is gone already."""
    try:
        return 0 <= time.time() - entry.stat(follow_symlinks=False).st_mtime < seconds
    except FileNotFoundError:
        return True


def _is_at_work(path: Path) -> bool:
    """Whether half a frame may become a whole one: a shim that we do not see may be writing it."""
    try:
        age_s = time.time() - path.stat(follow_symlinks=False).st_mtime
    except OSError:
        return False
    return path.name.startswith(TEMPORARY) and 0 <= age_s < ABANDONED_S


def _read(path: Path) -> EventFrame:
    """The one event of a file. Blocking. Raises FrameError, OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with open(handle, "rb", closefd=False) as file:  # it would not close that of a folder
            data = file.read(HEADER_SIZE + MAX_BODY + 1)
    finally:
        os.close(handle)
    frame = decode_one(data)
    if not isinstance(frame, EventFrame):
        raise FrameError(f"read a {type(frame).__name__}, expected an event")
    return frame


class _Waker(FileSystemEventHandler):
    """watchdog's thread tells the event loop."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._token = anyio.lowlevel.current_token()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "moved", "closed"):
            try:
                anyio.from_thread.run_sync(self._spool.wake, token=self._token)
            except RuntimeError:
                pass  # the loop has ended
