"""Collects what the services write and puts it on stdout line by line, each named by its service.

A service's stdout and stderr are a FIFO that this process holds open for reading and writing: opening
it never blocks, and a service that ends ends nothing else. (A filter in each service's pipeline would be
in the process group that zinit signals, and die with the last lines still in it.) They are read whether
anybody takes the container's log or not (`outlet`): a service, or zinit, never waits for that.
"""

from __future__ import annotations

import math
import os
import re
import selectors
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from hookd.container.outlet import Outlet
from hookd.log import scrub

MAX_LINE_BYTES = 1 << 16
TAIL_EVERY_S = 0.25
LAST_WORDS_S = 0.1
"""What was written to a terminal is readable a moment later. (Since Linux 4.5 a read that finds nothing
has waited for it: `n_tty_read`.)
"""
_READ_BYTES = 1 << 16
_SETTLE, _END = b"?", b"."
_CHATTER = b": DEBUG "
"""zstor 0.4.0 always writes these: a dozen for each file. They stay in its own file."""
_COLOURS = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


class Lines:
    """Bytes of one service in, finished lines out."""

    def __init__(self, name: str, *, without: bytes | None = None) -> None:
        """Lines that have `without` in them are left out."""
        self._name = name.encode()
        self._without = without
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The lines that `data` completes, each with its name and line end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        return b"".join(map(self._named, lines))

    def end(self) -> bytes:
        """What was begun and not finished."""
        rest, self._rest = self._rest, b""
        return self._named(rest) if rest else b""

    def _named(self, line: bytes) -> bytes:
        line = _COLOURS.sub(b"", line).rstrip(b"\r")
        if line.startswith(self._name + b": "):
            line = line[len(self._name) + 2 :]
        if not line.strip() or (self._without is not None and self._without in line):
            return b""
        text = scrub(line.decode("utf-8", "surrogateescape"))
        return b"%b: %b\n" % (self._name, text.encode("utf-8", "surrogateescape"))


class Tail:
    """Follows a file that is appended to, and renamed and begun anew now and then. Never raises."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self.lines = lines
        self._path = path
        self._handle: int | None = None

    def read(self) -> bytes:
        """The lines that came since the last call."""
        out = []
        while True:
            data = b"" if self._handle is None else os.read(self._handle, _READ_BYTES)
            if data:
                out.append(self.lines.feed(data))
            elif not self._reopen():
                return b"".join(out)

    def _reopen(self) -> bool:
        """Open the file that has the name now, if it is another one."""
        try:
            now = os.stat(self._path)
            if self._handle is not None:
                was = os.fstat(self._handle)
                if (was.st_dev, was.st_ino) == (now.st_dev, now.st_ino):
                    return False
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not there yet, or between two
            return False
        if self._handle is not None:
            os.close(self._handle)
        self._handle = handle
        return True


class LogPump(threading.Thread):
    """Reads the FIFOs of all services, and the files of those that write only there, until `finish`."""

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        files: Mapping[str, Path] | None = None,
        output: int = 1,
        *,
        terminals: Collection[str] = (),
        listeners: Mapping[str, Callable[[bytes], None]] = MappingProxyType({}),
    ) -> None:
        """Makes `folder`/NAME for each of `names`; `files` are name → path. Raises OSError.

        `listeners` are given the finished lines of their service too, in this thread.

        Those in `terminals` are a terminal instead of a FIFO: C programs keep their output back in a
        buffer of some KiB otherwise, and lose it when they are killed.
        """
        super().__init__(name="logs", daemon=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._outlet = Outlet(output)
        self._tails = [
            Tail(path, Lines(name, without=_CHATTER)) for name, path in (files or {}).items()
        ]
        self._listeners = listeners
        self._heard: list[selectors.SelectorKey] = []
        """Those with a listener."""
        self._asked = threading.Event()
        """Of the newest `settle`: set once all is read."""
        self._selector = selectors.DefaultSelector()
        self._ends = os.pipe2(os.O_CLOEXEC)
        self._selector.register(self._ends[0], selectors.EVENT_READ, None)
        for name in names:
            path = folder / name
            path.unlink(missing_ok=True)
            if name in terminals:
                handle, other_end = os.openpty()  # held open: else reading fails between two lives
                os.set_blocking(handle, False)
                path.symlink_to(os.ttyname(other_end))
            else:
                os.mkfifo(path, 0o600)
                handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            key = self._selector.register(handle, selectors.EVENT_READ, (name, Lines(name)))
            if name in listeners:
                self._heard.append(key)

    def run(self) -> None:
        """Pump until told to end, and then what is left."""
        self._outlet.start()
        ending, asked, due = False, None, math.inf
        while True:
            hurry = ending or asked is not None
            ready = self._selector.select(LAST_WORDS_S if hurry else TAIL_EVERY_S)
            for tail in self._tails:
                self._outlet.put(tail.read())
            for key, _ in ready:
                if key.data is not None:
                    self._take(key)
                elif os.read(key.fd, 1) == _SETTLE:
                    asked, due = self._asked, time.monotonic() + LAST_WORDS_S
                else:
                    ending = True
                    self._selector.unregister(key.fd)
            # A terminal holds more than one read gives, so only a pass that finds nothing counts.
            if asked and time.monotonic() >= due and not any(map(self._take, self._heard)):
                asked.set()
                asked = None
            if ending and not ready:
                break
        for tail in self._tails:
            self._outlet.put(tail.lines.end())
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                name, lines = key.data
                self._pass_on(name, lines.end())

    def settle(self, within_s: float = 5.0) -> bool:
        """Wait until listeners have heard all that was written before this call; whether they have. By
        one thread alone.
        """
        asked = self._asked = threading.Event()
        os.write(self._ends[1], _SETTLE)
        return asked.wait(within_s)

    def finish(self, within_s: float = 5.0) -> None:
        """Read and write what is there, and end, or leave off when `within_s` is over."""
        ends = time.monotonic() + within_s
        os.write(self._ends[1], _END)
        self.join(within_s)
        self._outlet.finish(max(0.0, ends - time.monotonic()))

    def say(self, line: str) -> None:
        """A line of this process itself. Never blocks."""
        self._outlet.put(b"qsfs: %b\n" % scrub(line).encode("utf-8", "surrogateescape"), own=True)

    def _take(self, key: selectors.SelectorKey) -> bool:
        """Read once; whether there was something."""
        try:
            data = os.read(key.fd, _READ_BYTES)
        except OSError:  # nothing there after all
            return False
        name, lines = key.data
        self._pass_on(name, lines.feed(data))
        return bool(data)

    def _pass_on(self, name: str, lines: bytes) -> None:
        if lines and (listener := self._listeners.get(name)):
            listener(lines)
        self._outlet.put(lines)
