"""`hookd verify`: through a daemon and without one; what it says, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

from hookd.errors import Exit
from tests.e2e.daemon import Daemon
from tests.e2e.test_admin import hookd
from tests.fakes.zdb import FakeZdb

pytest_plugins = ["tests.shim_build"]


def lived(daemon: Daemon, zdb: FakeZdb) -> None:
    """A zdb that wrote, rotated and ended; all of it stored."""
    daemon.expect("zdb ended without its closing hooks")
    assert zdb.start() == 0
    for number in range(30):
        zdb.set("default", b"key%d" % number, b"value" * 100)
        if number % 10 == 9:
            zdb.rotate("default")
    zdb.stop()
    zdb.finish_hooks()
    daemon.until_stored()


def audited(daemon: Daemon, times: int = 1) -> None:
    daemon.until(lambda s: s["audit"]["runs"]["done"] >= times)


def test_through_the_daemon(daemon: Daemon, zdb: FakeZdb) -> None:
    """Nothing wrong: one line and 0, deep as well. What the store lost is stored again: named, and 1."""
    daemon.start()
    lived(daemon, zdb)
    audited(daemon)
    run = hookd(daemon, "verify")
    assert run.returncode == Exit.OK, run.stdout + run.stderr
    assert "all is as it should be" in run.stdout
    run = hookd(daemon, "verify", "--deep")
    assert run.returncode == Exit.OK, run.stdout
    assert "retrieved and hashed: all is as it should be" in run.stdout
    gone = daemon.store / "data" / "default" / "d0"
    before = gone.read_bytes()
    gone.unlink()
    run = hookd(daemon, "verify")
    assert run.returncode == Exit.FAILED
    assert run.stdout.startswith("data/default/d0: the store does not have it any more")
    daemon.until_stored()
    assert gone.read_bytes() == before
    assert hookd(daemon, "verify").returncode == Exit.OK
    assert daemon.ask("health").startswith("ok")


def test_an_alarm(daemon: Daemon, zdb: FakeZdb) -> None:
    """Failing, named in status, health and metrics, across a restart, until it is mended."""
    daemon.expect("alarm")
    daemon.start()
    lived(daemon, zdb)
    victim = daemon.data / "default" / "d0"
    whole = victim.read_bytes()
    os.truncate(victim, len(whole) // 2)
    run = hookd(daemon, "verify", "--json", "--namespace", "default")
    assert run.returncode == Exit.FAILED
    found = json.loads(run.stdout)
    assert found["problems"] == {"truncated": 1}
    assert hookd(daemon, "status").returncode == Exit.FAILED
    for restarted in (False, True):
        if restarted:
            daemon.stop()
            daemon.start()
        assert "data/default/d0: it has" in daemon.ask("health")
        assert 'hookd_audit_alarms{problem="truncated"} 1.0' in daemon.ask("metrics")
    victim.write_bytes(whole)
    run = hookd(daemon, "verify")
    assert run.returncode == Exit.OK, run.stdout
    assert daemon.ask("health").startswith("ok")
    assert daemon.logged("alarm")[0]["file"] == "data/default/d0"


def test_without_a_daemon(daemon: Daemon, zdb: FakeZdb) -> None:
    """On a copy of the journal; it changes nothing, here or in the store."""
    daemon.start()
    lived(daemon, zdb)
    assert daemon.stop() == Exit.OK
    before = daemon.stored(), daemon.local(), daemon.journal.read_bytes()
    for words in ((), ("--deep",)):
        run = hookd(daemon, "verify", *words)
        assert run.returncode == Exit.OK, run.stdout + run.stderr
    assert (daemon.stored(), daemon.local(), daemon.journal.read_bytes()) == before
    victim = daemon.store / "data" / "default" / "d1"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    found = victim.stat()
    victim.write_bytes(content)
    os.utime(victim, ns=(found.st_atime_ns, found.st_mtime_ns))
    (daemon.store / "index" / "default" / "i0").unlink()
    run = hookd(daemon, "verify", "--deep", "--json")
    assert run.returncode == Exit.FAILED
    told = {(row["file"], row["problem"]) for row in json.loads(run.stdout)["findings"]}
    assert ("index/default/i0", "absent") in told
    assert ("data/default/d1", "store-differs") in told
    assert not (daemon.store / "index" / "default" / "i0").exists()
    assert not list((daemon.folder / "state" / "staging").glob("*"))


def test_without_store_or_journal(daemon: Daemon, zdb: FakeZdb) -> None:
    """The store away: 69, and nothing is made where it was. The journal away: the store is believed."""
    daemon.start()
    lived(daemon, zdb)
    assert daemon.stop() == Exit.OK
    aside = daemon.folder / "aside"
    daemon.store.rename(aside)
    run = hookd(daemon, "verify")
    assert (run.returncode, run.stdout) == (Exit.UNAVAILABLE, "")
    assert run.stderr.count("\n") == 1 and "store.directory.path" in run.stderr
    assert not daemon.store.exists()
    aside.rename(daemon.store)
    shutil.rmtree(daemon.journal.parent)
    run = hookd(daemon, "verify")
    assert run.returncode == Exit.OK, run.stdout + run.stderr
    (daemon.store / "data" / "default" / "d0").unlink()
    run = hookd(daemon, "verify")
    assert run.returncode == Exit.FAILED
    assert run.stdout.startswith("data/default/d0: it is not known to be stored")


def test_beside_a_daemon_that_does_not_answer(daemon: Daemon) -> None:
    """Its journal is never read under its hands."""
    daemon.start()
    daemon.stop()
    lock = daemon.journal.with_name(daemon.journal.name + ".lock")
    handle = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        run = hookd(daemon, "verify")
    finally:
        os.close(handle)
    assert run.returncode == Exit.UNAVAILABLE
    assert run.stderr.count("\n") == 1 and "a daemon holds" in run.stderr


def test_the_command_line(daemon: Daemon) -> None:
    """One clear line, and the code for it."""
    run = hookd(daemon, "verify", "--after", "data/ns/d0")
    assert run.returncode == Exit.USAGE and "--deep" in run.stderr
    assert hookd(daemon, "verify", "--deep", "--after", "d0").returncode == Exit.USAGE
    daemon.start()
    assert daemon.ask("audit --sideways").startswith("error: read '--sideways'")
    assert daemon.ask("audit-report 99").startswith("error: there is no audit 99")
    assert daemon.ask("audit-cancel x").startswith("error: read 'x'")


def test_a_lost_journal(daemon: Daemon, zdb: FakeZdb, tmp_path: Path) -> None:
    """Nothing is uploaded again, and an evicted data file comes into the ledger again."""
    daemon.start()
    lived(daemon, zdb)
    assert daemon.stop() == Exit.OK
    for name in ("journal.db", "journal.db-wal"):
        (daemon.journal.parent / name).unlink(missing_ok=True)
    (daemon.data / "default" / "d0").unlink()
    stamps = {p: p.stat().st_ctime_ns for p in (daemon.store / "data").rglob("d*")}
    daemon.start()
    audited(daemon)
    found = daemon.until_stored()
    assert found["totals"]["already_there"] == found["totals"]["settled_files"] > 0
    assert stamps == {p: p.stat().st_ctime_ns for p in (daemon.store / "data").rglob("d*")}
    run = hookd(daemon, "verify")
    assert run.returncode == Exit.OK, run.stdout
    daemon.stop()
    assert daemon.rows("SELECT sealed FROM ledger WHERE key = 'data/default/d0'") == [(1,)]
