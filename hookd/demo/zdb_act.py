"""Second act: a living zdb, a client that writes all the time, and the same misfortunes.

Here the demo has no part in the hooks: zdb calls the shim itself. What the client was promised is
asked of a second zdb at the end, one that starts from nothing but a copy of the store.
"""

from __future__ import annotations

import random
import shutil
import time
from contextlib import AbstractContextManager

from hookd.admin.words import count
from hookd.demo import check
from hookd.demo.living_zdb import LivingZdb
from hookd.demo.report import Report
from hookd.demo.resp import RespError
from hookd.demo.screen import Doing, Screen, stored
from hookd.demo.stage import DemoFailed, Stage

NAMESPACE = "photos"
VALUE_BYTES = 64 * 1024
PART = 32
"""Values written in each part: four data files."""

SIGTERM_EXIT = 128 + 15


class ZdbAct:
    """Runs once."""

    def __init__(self, stage: Stage, screen: Screen, report: Report) -> None:
        self._stage = stage
        self._screen = screen
        self._report = report
        self._random = random.Random(0)
        self._values: dict[bytes, bytes] = {}

    def run(self) -> None:
        """All of it. Raises DemoFailed when it cannot go on."""
        began = time.monotonic()
        stage = self._stage
        with self._step("hookd serve starts, then zdb") as done:
            stage.start()
            self._zdb = LivingZdb(stage.folder, hook=stage.shim, environment=stage.environment)
            done.note = f"zdb calls {stage.shim.name}"
        try:
            self._write_on()
            self._ask_back()
            self._drain()
        except (OSError, RespError) as error:
            raise DemoFailed(f"zdb: {error}") from error
        finally:
            self._zdb.close()
        with self._step("everything in the store is compared") as done:
            before = len(self._report.claims)
            self.verify()
            done.note = count(len(self._report.claims) - before, "check")
        self._start_anew()
        self._report.seconds = time.monotonic() - began

    # -- the scenes ------------------------------------------------------------------------------

    def _write_on(self) -> None:
        stage, zdb = self._stage, self._zdb
        with self._step("a client writes and rewrites") as done:
            zdb.client.ask("NSNEW", NAMESPACE)
            zdb.client.ask("SELECT", NAMESPACE)
            done.note = self._write()
        with self._step("the store goes away, the client goes on") as done:
            stage.take_store_away()
            done.note = away = self._write()
            waiting = stage.stats()["queue"]["files"]
            self._report.claim("no file waits while the store is away", waiting > 0)
        self._report.mishaps.append(
            ("the store was away from a living zdb", f"{away}; {count(waiting, 'file')} waited")
        )
        with self._step("kill -9 of hookd, the client goes on") as done:
            stage.kill()
            done.note = killed = self._write()
        with self._step("hookd and the store come back") as done:
            stage.bring_store_back()
            stage.start()
            done.note = stored(*stage.until_stored(but_blocked=True))
            stage.note()
            spooled = stage.stats()["spool"]["taken"] - stage.duplicates
        self._report.mishaps.append(
            ("kill -9 of hookd under a living zdb", f"{killed}; {count(spooled, 'event')} spooled")
        )

    def _ask_back(self) -> None:
        """Evict what is full and stored, and read a value that lies in it."""
        with self._step("full data files are removed, a client reads from one") as done:
            stage, folder = self._stage, self._stage.data / NAMESPACE
            full = sorted(folder.glob("d*"), key=lambda path: int(path.name[1:]))[:-1]
            for path in full[1::2]:
                self._report.claim(
                    f"{path.name} was removed before it was stored",
                    (stage.store / "data" / NAMESPACE / path.name).exists(),
                )
                path.unlink()
            removed = len(full[1::2])
            began = time.monotonic()
            wrong = self._wrong(self._zdb)
            took = time.monotonic() - began
            self._report.claim(f"{wrong} values were wrong after a retrieve", wrong == 0)
            done.note = (
                f"{count(removed, 'file')} removed; all {len(self._values)} values right,"
                f" {took:.1f} s"
            )
        self._report.mishaps.append(
            (
                f"{count(removed, 'data file')} removed under a living zdb",
                f"asked back while a client read: {len(self._values) - wrong} values right",
            )
        )

    def _drain(self) -> None:
        with self._step("SIGTERM to hookd, then to zdb") as done:
            self._stage.stop()
            waited = self._stage.draining()
            left = self._zdb.stop()
            self._report.claim(f"zdb exited {left}, expected {SIGTERM_EXIT}", left == SIGTERM_EXIT)
            code = self._stage.ended()
            self._report.claim(f"hookd exited {code}, expected 0", code == 0)
            done.note = f"{waited}; hookd exits {code}"

    def verify(self) -> None:
        """Compare the store with zdb's own folders."""
        stage, report = self._stage, self._report
        events = check.journal_events(stage.journal)
        announced = check.announced_files(argv for argv, _ in events)
        check.compare(report, check.local_files(stage.folder), announced, stage.store)
        report.events = check.count_events(events, stage.duplicates)
        report.claim("no event was spooled while hookd was dead", report.events.spool > 0)

    def _start_anew(self) -> None:
        """Nothing but the store: a zdb that never saw these files has to answer every key."""
        with self._step("another zdb starts from a copy of the store") as done:
            folder = self._stage.folder / "anew"
            for root in ("index", "data"):
                shutil.copytree(self._stage.store / root, folder / root)
            zdb = LivingZdb(folder)
            try:
                zdb.client.ask("SELECT", NAMESPACE)
                wrong = self._wrong(zdb)
                zdb.stop()
            except (OSError, RespError) as error:
                raise DemoFailed(f"the zdb on the copy: {error}") from error
            finally:
                zdb.close()
            total = len(self._values)
            self._report.claim(f"{wrong} of {total} values are wrong on the copy", wrong == 0)
            done.note = f"{total - wrong} of {total} values right"

    # -- the client --------------------------------------------------------------------------------

    def _step(self, doing: str) -> AbstractContextManager[Doing]:
        return self._screen.step(doing, self._report)

    def _write(self) -> str:
        """PART values, a quarter of them under old keys; returns what there is to say of it."""
        client, slowest = self._zdb.client, 0.0
        for number in range(PART):
            old = sorted(self._values)
            key = self._random.choice(old) if old and number % 4 == 3 else b"%04d" % len(old)
            value = self._random.randbytes(VALUE_BYTES)
            began = time.monotonic()
            client.ask("SET", key, value)
            slowest = max(slowest, time.monotonic() - began)
            self._values[key] = value
        return f"{count(PART, 'value')} written, the slowest took {slowest * 1000:.0f} ms"

    def _wrong(self, zdb: LivingZdb) -> int:
        """How many values zdb does not answer as they were written."""
        wrong = 0
        for key, value in self._values.items():
            try:
                wrong += zdb.client.ask("GET", key) != value
            except RespError:
                wrong += 1
        return wrong


def zdb_is_here() -> bool:
    """Whether there is a zdb on PATH."""
    return shutil.which("zdb") is not None
