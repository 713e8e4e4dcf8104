"""`hookd checkpoint` on a running daemon: the fake zdb's files, a store in a folder, and what dies."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import PATIENCE_S, Daemon
from tests.fakes.zdb import FakeZdb
from tests.fakes.zdb_files import answers

pytest_plugins = ["tests.shim_build"]


def run(daemon: Daemon, *options: str) -> subprocess.CompletedProcess[str]:
    """`hookd checkpoint` to its end."""
    command = [sys.executable, "-m", "hookd", "checkpoint", "--config", str(daemon.config)]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)


def stored(daemon: Daemon) -> dict[str, dict[bytes, bytes]]:
    """What a zdb on a copy of the store would say for each key."""
    return answers(daemon.store / "index", daemon.store / "data")


def test_what_was_written_is_in_the_store(daemon: Daemon, zdb: FakeZdb) -> None:
    """Without a stop: the store alone answers every key."""
    daemon.start()
    zdb.start()
    zdb.create("ns")
    zdb.churn("ns", 100)
    zdb.churn("default", 3)
    before = daemon.stats()["recovery"]
    assert before["files"] and before["bytes"]
    written_at = time.time()
    done = run(daemon)
    assert done.returncode == Exit.OK and done.stdout.startswith("safe until 20")
    assert stored(daemon) == zdb.truth
    found = daemon.stats()
    assert found["recovery"]["age_s"] == 0 and found["recovery"]["files"] == 0
    assert found["checkpoint"]["safe_until"] >= written_at
    assert found["checkpoint"]["last"]["jumped"] == ["default", "ns"]


def test_killed_afterwards(daemon: Daemon, zdb: FakeZdb) -> None:
    """What came after the moment may be lost, what came before is not."""
    daemon.start()
    zdb.start()
    for _ in range(4):
        zdb.churn("default", 40)
        assert run(daemon).returncode == Exit.OK
        truth = dict(zdb.truth["default"])
        zdb.churn("default", 5)
        assert stored(daemon).get("default", {}).items() >= {
            (key, value) for key, value in truth.items() if zdb.truth["default"].get(key) == value
        }
    daemon.kill()


def test_over_the_socket(daemon: Daemon, zdb: FakeZdb) -> None:
    """`echo checkpoint | nc -U`: lines how far it is, the last one says it; with --json each is JSON."""
    daemon.start()
    zdb.start()
    zdb.churn("default", 3)
    *_, last = daemon.ask("checkpoint").splitlines()
    assert last.startswith("safe until 20")
    zdb.churn("default", 3)
    daemon.ask("pause")
    daemon.expect("paused", "checkpoint failed")
    *progress, outcome = map(json.loads, daemon.ask("checkpoint --json --timeout 2").splitlines())
    assert progress and all(line.keys() == {"doing"} for line in progress)
    assert "paused" in progress[-1]["doing"] and "paused" in outcome["problems"][0]
    assert (outcome["safe"], outcome["code"]) == (False, Exit.TEMPFAIL)
    daemon.ask("resume")
    for wrong in ("--timeout", "--timeout 0", "--timeout nan", "soon"):
        assert daemon.ask(f"checkpoint {wrong}").startswith("error: read ")


def test_an_idle_zdb_gets_no_new_files(daemon: Daemon, zdb: FakeZdb) -> None:
    daemon.start()
    zdb.start()
    zdb.churn("default", 3)
    assert run(daemon).returncode == Exit.OK
    before = sorted(daemon.local())
    for _ in range(3):
        assert run(daemon).returncode == Exit.OK
    assert sorted(daemon.local()) == before


def test_the_store_is_away(daemon: Daemon, zdb: FakeZdb) -> None:
    """75 after its time, with what is missing; the daemon goes on."""
    daemon.start()
    zdb.start()
    daemon.store.rename(daemon.folder / "elsewhere")
    daemon.expect("store is down", "store is back", "checkpoint failed")
    daemon.expect("manifest not written, will retry")
    zdb.churn("default", 3)
    done = run(daemon, "--timeout", "10")
    assert done.returncode == Exit.TEMPFAIL and done.stdout == ""
    assert "not within 10 s: storing: 0 of " in done.stderr
    (daemon.folder / "elsewhere").rename(daemon.store)
    daemon.until_stored()
    assert run(daemon).returncode == Exit.OK
    assert stored(daemon) == zdb.truth


def test_zdb_was_killed(daemon: Daemon, zdb: FakeZdb) -> None:
    """A checkpoint as well: the files are taken as they lie there."""
    daemon.start()
    zdb.start()
    zdb.churn("default", 30)
    zdb.kill()
    assert run(daemon).returncode == Exit.OK
    assert daemon.stored() == daemon.local()


def test_no_daemon(daemon: Daemon) -> None:
    done = run(daemon)
    assert done.returncode == Exit.UNAVAILABLE and "not running" in done.stderr


def test_the_daemon_dies_meanwhile(daemon: Daemon, zdb: FakeZdb) -> None:
    """69, and what was acknowledged is stored after the next start."""
    daemon.start()
    zdb.start()
    zdb.churn("default", 3)
    assert daemon.ask("pause").startswith("storing is paused")
    daemon.expect("paused")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(run, daemon)
        daemon.until(lambda s: "paused" in (s["checkpoint"]["doing"] or ""))
        daemon.kill()
        done = asked.result()
    assert done.returncode == Exit.UNAVAILABLE and "went away" in done.stderr
    daemon.start()
    daemon.until_stored()
    assert stored(daemon) == zdb.truth


def test_many_at_once_are_few(daemon: Daemon, zdb: FakeZdb) -> None:
    """They share: the one that runs, and one after it; too many are refused, and status answers."""
    daemon.start()
    zdb.start()
    zdb.churn("default", 3)
    daemon.ask("pause")
    daemon.expect("paused", "checkpoint failed")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(daemon.ask, "checkpoint") for _ in range(12)]
        daemon.until(lambda s: "paused" in (s["checkpoint"]["doing"] or ""))
        ends = time.monotonic() + 20
        while sum(each.done() for each in asked) < 4 and time.monotonic() < ends:
            time.sleep(0.05)
        daemon.ask("resume")
        lines = [each.result().splitlines()[-1] for each in asked]
    assert sum(line.startswith("safe until") for line in lines) == 8
    assert sum("wait for a checkpoint already" in line for line in lines) == 4
    assert daemon.local().keys() >= {"data/default/d1"} and "data/default/d2" not in daemon.local()


def test_whoever_hangs_up_leaves_nothing_behind(daemon: Daemon, zdb: FakeZdb) -> None:
    daemon.start()
    zdb.start()
    zdb.churn("default", 3)
    daemon.ask("pause")
    daemon.expect("paused")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.setting("stats.socket")))
        client.sendall(b"checkpoint\n")
        daemon.until(lambda s: "paused" in (s["checkpoint"]["doing"] or ""))
    daemon.until(lambda s: s["checkpoint"]["doing"] is None)
    daemon.ask("resume")
    assert run(daemon).returncode == Exit.OK


@pytest.mark.parametrize("admin", [None, "r00t s3cret"])
def test_by_itself(daemon: Daemon, shim: Path, admin: str | None) -> None:
    """With an interval nobody has to ask; no secret is in log, stats or what zdb hears."""
    daemon.configure(checkpoint__interval_s=1)
    if admin is not None:
        daemon.configure(zdb__admin_password=admin)
    daemon.start()
    finds = {**daemon.environment, "HOOKD_TIMEOUT_S": PATIENCE_S}
    zdb = FakeZdb(daemon.folder, shim=shim, environment=finds, admin=admin)
    try:
        zdb.start()
        zdb.create("ns")
        zdb.churn("ns", 4)
        daemon.until(lambda s: s["checkpoint"]["taken"] and not s["recovery"]["files"])
        assert stored(daemon)["ns"] == zdb.truth["ns"]
        time.sleep(1.5)
        assert "data/ns/d2" not in daemon.local()
        if admin is not None:
            heard = b" ".join(zdb.heard).decode()
            assert "AUTH SECURE" in heard
            for text in (heard, daemon.log.read_text(), json.dumps(daemon.stats())):
                assert admin not in text
    finally:
        zdb.kill()
        zdb.finish_hooks()


def test_by_itself_only_while_the_store_is_there(daemon: Daemon, zdb: FakeZdb) -> None:
    """No new files while it is down; the reason is in status; the next one as soon as it is back."""
    daemon.configure(checkpoint__interval_s=3)
    daemon.expect("store is down", "store is back", "checkpoint put off")
    daemon.expect("manifest not written, will retry")
    daemon.start()
    zdb.start()
    daemon.store.rename(daemon.folder / "elsewhere")
    zdb.churn("default", 3)
    zdb.rotate("default")
    zdb.churn("default", 3)
    newest = max(daemon.local())
    found = daemon.until(lambda s: s["checkpoint"]["put_off"])
    assert "the store is down" in found["checkpoint"]["put_off"]
    assert max(daemon.local()) == newest and found["recovery"]["age_s"] > 0
    (daemon.folder / "elsewhere").rename(daemon.store)
    daemon.until(lambda s: s["checkpoint"]["taken"] and not s["recovery"]["files"])
    assert stored(daemon) == zdb.truth


def test_where_zdb_listens_is_remembered(daemon: Daemon, zdb: FakeZdb) -> None:
    """A daemon that was killed and started anew beside a zdb that calls no hook."""
    daemon.start()
    zdb.start()
    daemon.kill()
    zdb.churn("default", 3)
    daemon.start()
    assert run(daemon).returncode == Exit.OK
    assert stored(daemon) == zdb.truth
