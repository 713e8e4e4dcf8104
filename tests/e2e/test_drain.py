"""Stopping: SIGTERM or SIGINT, what is waited for, what ends the waiting, and the exit code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import ZDB, Daemon
from tests.fakes.zdb import FakeZdb
from tests.fakes.zdb_files import answers

pytest_plugins = ["tests.shim_build"]

STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]


def draining(daemon: Daemon) -> str:
    """Wait until a drain has looked around; returns what it waits for."""
    found = daemon.until(lambda s: s["drain"])
    return str(found["drain"]["waiting_for"])


def lose_store(daemon: Daemon) -> None:
    """Like a mount that is gone."""
    daemon.store.rename(daemon.folder / "elsewhere")
    daemon.expect("store is down", "store is back")


def find_store(daemon: Daemon) -> None:
    """It is mounted again."""
    (daemon.folder / "elsewhere").rename(daemon.store)


def whole(daemon: Daemon, zdb: FakeZdb) -> bool:
    """Whether the store is what zdb has, and answers every key as clients were promised."""
    return (
        daemon.stored() == daemon.local()
        and answers(daemon.store / "index", daemon.store / "data") == zdb.truth
    )


@pytest.mark.parametrize("limit", [1500, 2200])
def test_a_small_staging_folder(daemon: Daemon, zdb: FakeZdb, limit: int) -> None:
    """Indexes that wait for each other hold all room of a folder that none more fits into: it ends."""
    daemon.configure(snapshot__max_bytes=limit)
    daemon.expect("no snapshot, will freeze later", "will retry")
    daemon.expect("gave its room away, will freeze again")
    daemon.start()
    assert zdb.start() == 0
    lose_store(daemon)
    for _ in range(6):
        zdb.churn("default", 40)
    daemon.until(lambda s: s["store"]["state"] == "down")
    assert daemon.stats()["totals"]["events"]["deferred"] > 0
    find_store(daemon)
    for _ in range(3):
        zdb.churn("default", 40)
    zdb.stop()
    assert daemon.stop() == Exit.OK
    assert whole(daemon, zdb)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_takes_events_until_zdb_is_gone(daemon: Daemon, zdb: FakeZdb, number: int) -> None:
    """Told to stop, it waits for zdb, stores what comes meanwhile, and ends by itself."""
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 30)
    daemon.send_signal(number)
    assert "zdb" in draining(daemon)
    calls = len(zdb.calls)
    zdb.churn("default", 60)
    assert [call.code for call in zdb.finish_hooks()[calls:]].count(0) == len(zdb.calls) - calls > 2
    time.sleep(1.0)  # more than one look at zdb
    assert daemon.running
    zdb.stop()
    assert daemon.wait() == Exit.OK
    assert {call.code for call in zdb.finish_hooks()} == {0}
    assert whole(daemon, zdb)
    assert daemon.announced()[-1].startswith("drained: nothing is left")


def test_says_how_far_it_is(daemon: Daemon, zdb: FakeZdb) -> None:
    """Whoever waits for the stop reads files, bytes, and what is waited for."""
    daemon.start()
    assert zdb.start() == 0
    lose_store(daemon)
    zdb.churn("default", 60)
    zdb.finish_hooks()
    left = daemon.until(lambda s: s["store"]["state"] == "down")["queue"]["files"]
    assert left > 0
    daemon.send_signal()
    draining(daemon)
    [line] = [line for line in daemon.announced() if line.startswith("draining: ")]
    assert line.startswith(f"draining: 0 of {left} files, 0.0 of ")
    assert line.endswith("waiting for zdb to stop (it still runs)")
    find_store(daemon)
    zdb.stop()
    assert daemon.wait() == Exit.OK
    assert whole(daemon, zdb)


def test_waits_for_the_closing_hooks(daemon: Daemon, zdb: FakeZdb) -> None:
    """They outlive zdb: it may be gone before the first of them has even begun."""
    daemon.configure(drain__quiet_s=25)
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 30)
    zdb.create("late")
    zdb.churn("late", 5)
    active = {name: len(list((daemon.index / name).glob("i*"))) - 1 for name in zdb.truth}
    daemon.send_signal()
    draining(daemon)
    zdb.kill()
    began = time.monotonic()
    daemon.until(lambda s: "closing hooks of default, late" in s["drain"]["waiting_for"])
    for name, number in active.items():
        time.sleep(0.5)
        assert daemon.running
        files = (str(daemon.index / name / f"i{number}"), str(daemon.data / name / f"d{number}"))
        assert daemon.hook("namespace-closing", zdb.id, name, *files, "0").code == 0
    assert daemon.wait() == Exit.OK
    assert time.monotonic() - began < 20  # the hooks ended it, not the quiet
    assert not daemon.logged("zdb ended without its closing hooks")
    assert whole(daemon, zdb)


def test_waits_for_a_shim_that_has_not_come_yet(daemon: Daemon, tmp_path: Path) -> None:
    """A shim is alive that will come to this socket: nothing is over before it has ended."""
    shim = tmp_path / "bin" / "hookd-shim"
    shim.parent.mkdir()
    shutil.copy(shutil.which("sleep") or "", shim)
    daemon.start()
    with subprocess.Popen([shim, "1.5"], env={**os.environ, **daemon.environment}) as alive:
        while Path(f"/proc/{alive.pid}/comm").read_text().strip() != "hookd-shim":
            time.sleep(0.01)
        assert daemon.stop() == Exit.OK
        assert alive.poll() is not None


def test_zdb_that_was_killed(daemon: Daemon, zdb: FakeZdb) -> None:
    """No closing hook ever comes: after a quiet time its files are stored as they lie there."""
    daemon.expect("zdb ended without its closing hooks")
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 40)
    zdb.finish_hooks()
    zdb.kill()
    assert daemon.stop() == Exit.OK
    assert whole(daemon, zdb)
    assert daemon.logged("zdb ended without its closing hooks")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_second_signal_stops_at_once(daemon: Daemon, zdb: FakeZdb, number: int) -> None:
    """What is left stays in the journal, the exit code says so, and the next start finishes."""
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 40)
    lose_store(daemon)
    zdb.churn("default", 40)
    zdb.stop()
    zdb.finish_hooks()
    left = daemon.until(lambda s: s["store"]["state"] == "down")["queue"]["files"]
    daemon.send_signal(number)
    draining(daemon)
    began = time.monotonic()
    assert daemon.stop(number) == Exit.TEMPFAIL
    assert time.monotonic() - began < 3
    last = daemon.announced()[-1]
    assert last.startswith(f"stopped with {left} files not stored (a second signal came)")
    assert str(daemon.journal) in last
    find_store(daemon)
    daemon.start()
    daemon.until_stored()
    assert daemon.stop() == Exit.OK
    assert whole(daemon, zdb)


def test_configured_time_is_over(daemon: Daemon, zdb: FakeZdb) -> None:
    """`drain.timeout_s` ends a drain, and what is left is stored after the next start."""
    daemon.configure(drain__timeout_s=1)
    daemon.start()
    assert zdb.start() == 0
    lose_store(daemon)
    zdb.churn("default", 20)
    zdb.stop()
    zdb.finish_hooks()
    began = time.monotonic()
    assert daemon.stop() == Exit.TEMPFAIL
    assert 1 <= time.monotonic() - began < 4
    assert "(the configured time is over)" in daemon.announced()[-1]
    find_store(daemon)
    daemon.start()
    assert daemon.stop() == Exit.OK
    assert whole(daemon, zdb)


def test_quarantined_files_are_not_waited_for(daemon: Daemon) -> None:
    """They need a person: exit 75 and their number; once skipped, the next stop is clean."""
    daemon.expect("quarantined", "will retry", "zdb ended without its closing hooks")
    daemon.start()
    gone = [str(daemon.data / "default" / name) for name in ("d0", "d1")]
    (daemon.data / "default").mkdir()
    assert daemon.hook("jump-data", ZDB, *gone).code == 0
    daemon.until(lambda s: s["queue"]["states"]["quarantined"]["files"] == 1)
    assert daemon.stop() == Exit.TEMPFAIL
    assert daemon.announced()[-1].startswith(
        "stopped with 1 files not stored: they are quarantined"
    )
    daemon.expect("withdrawn", "skipped")
    daemon.start()
    assert not daemon.ask("skip data/default/d0").startswith("error")
    assert daemon.stop() == Exit.OK


def test_with_nothing_to_do(daemon: Daemon) -> None:
    """A stop that has nothing to wait for takes a moment."""
    daemon.start()
    began = time.monotonic()
    assert daemon.stop() == Exit.OK
    assert time.monotonic() - began < 3
    assert daemon.announced()[-1].startswith("drained: nothing is left; 0 files")


def test_a_hook_after_the_end(daemon: Daemon, zdb: FakeZdb) -> None:
    """Nobody is there any more: the shim keeps the event, and the next daemon takes it in."""
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 5)
    zdb.stop()
    zdb.finish_hooks()
    assert daemon.stop() == Exit.OK
    with (daemon.data / "default" / "d0").open("ab") as file:
        file.write(b"more")
    files = [
        str(folder / "default" / name)
        for folder, name in ((daemon.index, "i0"), (daemon.data, "d0"))
    ]
    assert daemon.hook("namespace-closing", zdb.id, "default", *files, "").code == 0
    assert len(list(daemon.spool.glob("*.event"))) == 1
    daemon.start()
    assert daemon.stop() == Exit.OK
    assert not list(daemon.spool.glob("*.event"))
    assert daemon.stored() == daemon.local()
