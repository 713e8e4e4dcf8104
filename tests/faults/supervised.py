"""A daemon that dies and is started again, and what is durable in its folder meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from hookd.digest import digest_of
from hookd.wire import EventFrame, decode_one
from tests.e2e.daemon import Daemon
from tests.faults.launcher import SAID, Fault

LAUNCHER = (sys.executable, "-m", "tests.faults.launcher")
LOOK_EVERY_S = 0.005
WITHIN_S = 90.0

CLOSED = ("settled", "superseded")
OPEN = ("pending", "running", "quarantined")


class FaultyDaemon(Daemon):
    """The daemon, started through the launcher."""

    def arm(self, *options: str) -> None:
        """The launcher's options from the next start on; none: no fault."""
        self._launcher = (*LAUNCHER, *options)

    def stats(self) -> dict[str, Any]:
        """With a clock of its own the daemon cannot tell us when it looked."""
        if "--clock" not in self._launcher:
            return super().stats()
        found: dict[str, Any] = json.loads(self.ask("stats"))
        return found

    def faults(self) -> list[Fault]:
        """Those that have happened."""
        said = [line for line in self._lines() if line.startswith(SAID)]
        return [Fault.parse(line.removeprefix(SAID)) for line in said]


class Watch(threading.Thread):
    """Looks at the store all the time."""

    def __init__(self, store: Path, compare: Callable[[str, bytes], str | None]) -> None:
        """`compare` is given each content that was not there at the last look, and says what is wrong
        with it: a line, or None.
        """
        super().__init__(name="watch", daemon=True)
        self.store = store
        self._compare = compare
        self._seen: dict[str, tuple[int, int]] = {}
        self._ended = threading.Event()
        self.wrong: list[str] = []
        """What must not be; a line each."""

    def run(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self.look()

    def end(self) -> None:
        """Look once more, and stop."""
        self._ended.set()
        self.join()
        self.look()

    def look(self) -> None:
        """Each file that has changed since the last look."""
        with contextlib.suppress(FileNotFoundError):  # the folder itself may go, while it is read
            for path in self.store.glob("*/*/*"):
                if path.parts[-3] != ".hookd":
                    self._look_at(path)

    def _look_at(self, path: Path) -> None:
        name = "/".join(path.parts[-3:])
        with contextlib.suppress(FileNotFoundError):
            if self._seen.get(name) == _identity(path.stat()):
                return
            with path.open("rb") as file:
                self._seen[name] = _identity(os.fstat(file.fileno()))
                if wrong := self._compare(name, file.read()):
                    self.wrong.append(wrong)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_mtime_ns


class Supervised:
    """One folder with a daemon that may die at any time, and what is durable there.

    What must hold whenever no daemon runs is said by `check_promises`.
    """

    def __init__(self, folder: Path, shim: Path, **settings: object) -> None:
        """`settings`: keys of the configuration, `__` for the dot."""
        self.daemon = FaultyDaemon(folder, shim, launcher=LAUNCHER)
        self.daemon.configure(**settings)
        self.staging = folder / "state" / "staging"
        """Where the daemon keeps its snapshots."""
        self.deaths: list[int] = []
        """How daemons ended that nobody had told to, while `supervised`."""

    def check_promises(self) -> None:
        """Each promise is stored, or something durable stands for it. While no daemon runs."""
        raise NotImplementedError

    # -- daemons -------------------------------------------------------------------------------

    def start(self, *options: str, wait: bool = True) -> None:
        """A daemon with these options of the launcher; with `wait` until it is ready."""
        log = self.daemon.log
        self._log_at = log.stat().st_size if log.exists() else 0
        self.daemon.arm(*options)
        self.daemon.start(wait=wait)

    @contextlib.contextmanager
    def supervised(self, pause_s: Callable[[], float] = lambda: 0.0) -> Iterator[None]:
        """Meanwhile a daemon that dies is followed by one without faults; promises are checked.

        `pause_s`: how long there is none, each time.
        """
        over = threading.Event()
        errors: list[BaseException] = []

        def keep_alive() -> None:
            try:
                while not over.wait(0.01):
                    if not self.daemon.running:
                        self.deaths.append(self.daemon.wait())
                        self.check_promises()
                        time.sleep(pause_s())
                        self.start(wait=False)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=keep_alive, name="supervisor", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if errors:  # what else went wrong may well follow from it
                raise errors[0]
        self.daemon.wait_for_line("hookd is ready", after=self._log_at)

    def signal(self, number: int) -> None:
        """To the daemon, if one runs."""
        if self.daemon.running:
            self.daemon.send_signal(number)

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Until something holds."""
        ends = time.monotonic() + WITHIN_S
        while not holds():
            assert time.monotonic() < ends, f"{what}:\n{self.daemon.log.read_text()}"
            time.sleep(0.02)

    def owed(self) -> dict[str, list[bytes | None]]:
        """Name → the contents that open jobs have, None for one that reads the live file.

        A snapshot that is in the journal has a copy that was never synced: it is spoiled here, as
        a loss of power would.
        """
        found: dict[str, list[bytes | None]] = {}
        rows = self.rows(
            "SELECT key, staged, digest, content FROM jobs"
            " LEFT JOIN snapshots ON snapshots.job = jobs.id WHERE state IN",
            OPEN,
        )
        for name, staged, digest, content in rows:
            if staged is not None:
                copy = self.staging / staged
                if content is None:
                    content = copy.read_bytes()
                else:
                    copy.write_bytes(b"")
                assert digest_of(content) == digest, f"{staged} is not what the journal says"
            found.setdefault(name, []).append(content if staged is not None else None)
        return found

    def check_journal(
        self, *, closed: Collection[str] = CLOSED, outcomes: Collection[str] = ("accepted",)
    ) -> None:
        """The ledger is what is stored; jobs are in no other states than `closed`, and events had no
        other `outcomes`.
        """
        stored = self.daemon.stored()
        ledger = {
            name: (size, digest)
            for name, size, digest in self.rows(
                "SELECT key, size_bytes, digest FROM ledger WHERE retired_at IS NULL"
            )
        }
        assert ledger == {name: (len(data), digest_of(data)) for name, data in stored.items()}
        states = {state for (state,) in self.rows("SELECT DISTINCT state FROM jobs")}
        assert states <= set(closed), states
        found = {outcome for (outcome,) in self.rows("SELECT DISTINCT outcome FROM events")}
        assert found <= set(outcomes), found
        assert self.rows("SELECT event_id FROM events GROUP BY event_id HAVING count(*) > 1") == []

    def check_leftovers(self) -> None:
        """No snapshot, no spooled event, nothing half is left."""
        assert [path.name for path in self.staging.iterdir()] == []
        assert sorted(path.name for path in self.daemon.spool.rglob("*")) == ["bad", "owner"]
        assert list((self.daemon.store / ".hookd" / "tmp").iterdir()) == []

    # -- what is durable -----------------------------------------------------------------------

    def stored(self, name: str) -> bytes | None:
        """What the store's folder has under a name."""
        return _read(self.daemon.store / name)

    def spooled(self) -> list[EventFrame]:
        """The events in the spool, oldest first."""
        found = []
        for path in sorted(self.daemon.spool.glob("*.event")):
            with contextlib.suppress(FileNotFoundError):
                frame = decode_one(path.read_bytes())
                assert isinstance(frame, EventFrame)
                found.append(frame)
        return found

    def rows(self, question: str, values: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        """What the journal on disk says now; `values` is for a question that ends with IN."""
        if not self.daemon.journal.exists():
            return []
        if values:
            question += f" ({', '.join('?' * len(values))})"
        with tempfile.TemporaryDirectory() as folder:
            for path in self.daemon.journal.parent.glob("journal.db*"):
                if path.suffix != ".lock":
                    shutil.copy(path, folder)
            with contextlib.closing(sqlite3.connect(Path(folder, "journal.db"))) as db:
                return db.execute(question, values).fetchall()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
