"""A real `hookd serve` in a folder of its own, and the real shim that speaks to it.

The folder holds all there is: zdb's roots, the directory store, sockets, spool, journal, and `log`,
what every daemon of this folder wrote to stderr. `Daemon.close` is where a test's last claim is
checked: no daemon wrote a warning that the test did not `expect`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hookd.wire import Answer, Decoder, EventFrame, encode

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = (sys.executable, "-m", "hookd")
ZDB = "tcp://127.0.0.1:9"
"""An id under which nobody listens (port 9 is discard)."""

QUIET_S = 0.3
WITHIN_S = 30.0
"""How long anything may take here."""

PATIENCE_S = "20"
"""HOOKD_TIMEOUT_S of shims that have a daemon: a busy machine must not make them spool."""


@dataclass(frozen=True, slots=True)
class Called:
    """What became of one shim."""

    code: int
    text: str
    seconds: float


class Daemon:
    """One folder, and at most one daemon at a time in it."""

    def __init__(
        self,
        folder: Path,
        shim: Path,
        *,
        settings: Mapping[str, object] | None = None,
        launcher: Sequence[str] = LAUNCHER,
        environment: Mapping[str, str] | None = None,
        passes: Sequence[int] = (),
    ) -> None:
        """`settings` (dotted keys) are added to, or replace, those of `_defaults`; None drops one.

        `launcher` is what `serve` is appended to: fault tests have one of their own. `environment` and
        the descriptors `passes` are what a service manager would add.
        """
        self.folder = folder
        self.index, self.data = folder / "index", folder / "data"
        self.store, self.spool = folder / "store", folder / "spool"
        self.journal = folder / "state" / "journal.db"
        self.log = folder / "log"
        self._shim = shim
        self._launcher = launcher
        self._added = dict(environment or {})
        self._passes = passes
        self._settings = {**self._defaults(), **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._shims: list[subprocess.Popen[bytes]] = []
        self._expected = {
            "files that no hook announced",
            "no hook announced it",
            "manifest not written, will retry",
        }
        for root in (self.index, self.data):
            root.mkdir(exist_ok=True)

    def _defaults(self) -> dict[str, object]:
        return {
            "zdb.index": str(self.index),
            "zdb.data": str(self.data),
            "store.kind": "directory",
            "store.directory.path": str(self.store),
            "hook.socket": str(self.folder / "run" / "hook.sock"),
            "hook.spool": str(self.spool),
            "stats.socket": str(self.folder / "run" / "stats.sock"),
            "journal.path": str(self.journal),
            "drain.quiet_s": QUIET_S,
            "dispatch.backoff_base_s": 0.05,
            "dispatch.backoff_max_s": 0.2,
        }

    # -- the process -----------------------------------------------------------------------------

    def configure(self, **changes: object) -> None:
        """Change settings for the next start; `__` stands for the dot."""
        self._settings.update({key.replace("__", "."): value for key, value in changes.items()})

    def setting(self, key: str) -> object:
        """The value of a dotted key."""
        return self._settings[key]

    @property
    def config(self) -> Path:
        """The configuration file, written anew."""
        path = self.folder / "hookd.toml"
        # a TOML string, number or list of these is written as in JSON
        lines = [f"{k} = {json.dumps(v)}" for k, v in self._settings.items() if v is not None]
        path.write_text("\n".join(lines) + "\n")
        return path

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start; with `wait` until it says that it is ready."""
        assert not self.running
        began_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._launcher, "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**_clean_environment(), **self._added},
                cwd=REPOSITORY,
                pass_fds=self._passes,
            )
        if wait:
            self.wait_for_line("hookd is ready", after=began_at)

    def wait_for_line(self, text: str, *, after: int = 0) -> None:
        """Until the log says `text` beyond byte `after`."""
        ends = time.monotonic() + WITHIN_S
        while text.encode() not in self.log.read_bytes()[after:]:
            assert self.running, f"hookd ended:\n{self.log.read_text()}"
            assert time.monotonic() < ends, f"no {text!r}:\n{self.log.read_text()}"
            time.sleep(0.01)

    def send_signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, within_s: float = WITHIN_S) -> int:
        """Until it has ended; returns its exit code."""
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            said = "\n".join(self._lines()[-30:])
            raise AssertionError(f"hookd has not ended within {within_s} s:\n{said}") from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self, *, check: bool = True) -> None:
        """End what still runs; then, with `check`, no daemon has warned of anything unexpected."""
        for process in (self._process, *self._shims):
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                process.wait()
        if check:
            assert not self.complaints(), "\n".join(self.complaints())

    # -- what it wrote -----------------------------------------------------------------------------

    def expect(self, *events: str) -> None:
        """Warnings and errors (the field `event`) that are part of the test."""
        self._expected.update(events)

    def complaints(self) -> list[str]:
        """Lines of level warning and up that nobody expected, and what is no log line at all."""
        return [line for line in self._lines() if self._complains(line)]

    def announced(self) -> list[str]:
        """The lines for whoever started the daemon, without their `hookd: `."""
        return [line[7:] for line in self._lines() if line.startswith("hookd: ")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Every log line of that event."""
        found = [json.loads(line) for line in self._lines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def _complains(self, line: str) -> bool:
        if not line.startswith("{"):
            return not line.startswith("hookd: ")
        found = json.loads(line)
        return found["level"] not in ("debug", "info") and found["event"] not in self._expected

    # -- hooks -------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What the shim finds this daemon by. Its patience is short: a test may be without one."""
        return {
            "HOOKD_SOCKET": str(self._settings["hook.socket"]),
            "HOOKD_SPOOL": str(self.spool),
            "HOOKD_TIMEOUT_S": "0.3",
            "HOOKD_WAIT_S": "2",
        }

    def hook(self, *argv: str, **environment: str) -> Called:
        """Run the shim; `argv` is the hook's name, zdb's id and the arguments."""
        began = time.monotonic()
        process = self.start_hook(*argv, **environment)
        _, text = process.communicate(timeout=WITHIN_S)
        return Called(process.returncode, text.decode(), time.monotonic() - began)

    def start_hook(self, *argv: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start the shim and do not wait for it. With a daemon there, it has all the time it needs."""
        patience = {"HOOKD_TIMEOUT_S": PATIENCE_S} if self.running else {}
        process = subprocess.Popen(
            [str(self._shim), *argv],
            env={**os.environ, **self.environment, **patience, **environment},
            stderr=subprocess.PIPE,
            cwd="/",
        )
        self._shims.append(process)
        return process

    def hand_in(self, frame: EventFrame) -> Answer:
        """Hand in a frame as a shim would, over the socket; returns the answer."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WITHIN_S)
            client.connect(str(self._settings["hook.socket"]))
            client.sendall(encode(frame))
            decoder = Decoder()
            while chunk := client.recv(65536):
                for found in decoder.feed(chunk):
                    if isinstance(found, Answer):
                        return found
        raise AssertionError("the daemon hung up without an answer")

    # -- what can be seen of it --------------------------------------------------------------------

    def ask(self, line: str) -> str:
        """One question to the stats socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WITHIN_S)
            client.connect(str(self._settings["stats.socket"]))
            client.sendall(line.encode() + b"\n")
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b"")).decode()

    def stats(self) -> dict[str, Any]:
        """What holds now: the socket may also answer with what it found a moment ago."""
        began = time.time()
        while True:
            found: dict[str, Any] = json.loads(self.ask("stats"))
            if found["started_at"] + found["uptime_s"] >= began:
                return found
            time.sleep(0.005)

    def until(self, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first stats for which `holds` is true."""
        ends = time.monotonic() + WITHIN_S
        while not holds(found := self.stats()):
            assert time.monotonic() < ends, json.dumps(found, indent=1)
            time.sleep(0.02)
        return found

    def until_stored(self) -> dict[str, Any]:
        """Until the queue and the spool are empty, but for indexes that point into a data file which zdb
        still writes: whether there are such depends on when a scan looked.
        """

        def stored(stats: dict[str, Any]) -> bool:
            states = stats["queue"]["states"]
            left = sum(each["files"] for name, each in states.items() if name != "blocked")
            return not left and not stats["spool"]["waiting"]

        return self.until(stored)

    def stored(self) -> dict[str, bytes]:
        """`index/NS/iN` → content, of everything in the store's folder but its own records."""
        return contents(self.store)

    def local(self) -> dict[str, bytes]:
        """The same of zdb's roots."""
        return contents(self.folder, "index", "data")

    def rows(self, question: str) -> list[tuple[Any, ...]]:
        """What the journal says to an SQL question; a running daemon has it for itself."""
        with contextlib.closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as db:
            return db.execute(question).fetchall()


def contents(folder: Path, *roots: str) -> dict[str, bytes]:
    """Relative path → bytes of the files in `roots` (index and data), zdb's locks left out."""
    found: dict[str, bytes] = {}
    for root in roots or ("index", "data"):
        for path in (folder / root).rglob("*"):
            if path.is_file() and path.name != ".lockfile":
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HOOKD_")}
