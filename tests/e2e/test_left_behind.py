"""What a daemon does not store although it should: seen while it runs, and no stop calls it nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hookd.errors import Exit
from hookd.intake.spool import ABANDONED_S
from hookd.wire import EventFrame, encode
from tests.e2e.daemon import ZDB, Daemon
from tests.e2e.test_daemon import fill
from tests.fakes.zdb import FakeZdb

pytest_plugins = ["tests.shim_build"]

NO_CLOSING = "zdb ended without its closing hooks"

LOCK = """if True:
    import fcntl, sys
    file = open(sys.argv[1], "a")
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def told(daemon: Daemon, spool: Path) -> Iterator[None]:
    """A zdb, as far as its lock and its environment go, whose shims spool to `spool`."""
    environment = {**os.environ, **daemon.environment, "HOOKD_SPOOL": str(spool)}
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(daemon.index / ".lockfile")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "locked\n"
        yield
        process.stdin.close()


class TestNames:
    """zdb takes any name but one with a slash."""

    def test_no_text(self, daemon: Daemon, zdb: FakeZdb) -> None:
        """hookd cannot keep it: it says so, at its start and after, and does all the rest."""
        daemon.expect("a namespace that cannot be stored: its name is no UTF-8", "refused")
        strange = os.fsdecode(b"caf\xe9")
        for root, name in ((daemon.index, "i0"), (daemon.index, "i1"), (daemon.data, "d0")):
            (root / strange).mkdir(exist_ok=True)
            (root / strange / name).write_bytes(bytes(100))
        daemon.start()
        assert zdb.start() == 0
        paths = [str(daemon.index / strange / name) for name in ("i0", "i1")]
        assert daemon.hook("jump-index", ZDB, *paths, "").code == 1
        zdb.churn("default", 40)
        view = daemon.until(lambda s: s["nameless"])
        assert view["nameless"] == [r"caf\xe9"]
        assert daemon.ask("health").startswith("failing\nnamespace caf\\xe9 is not stored")
        zdb.stop()
        assert daemon.stop() == Exit.TEMPFAIL
        assert r"namespace caf\xe9 is not stored" in daemon.announced()[-1]
        kept = {key: content for key, content in daemon.local().items() if strange not in key}
        assert daemon.stored() == kept

    def test_hidden(self, daemon: Daemon) -> None:
        """A name that begins with a dot is one like any other."""
        for root, name in ((daemon.index, "i0"), (daemon.index, "i1"), (daemon.data, "d0")):
            (root / ".hidden").mkdir(exist_ok=True)
            (root / ".hidden" / name).write_bytes(os.urandom(100))
        daemon.start()
        assert daemon.stop() == Exit.OK
        assert daemon.stored() == daemon.local() != {}


class TestHeld:
    """What zdb announces of a held namespace is kept, and nobody stores it."""

    def hold(self, daemon: Daemon, zdb: FakeZdb) -> None:
        """A namespace whose files are neither all here nor all there."""
        fill(daemon, zdb)
        newest = max((daemon.store / "data/default").iterdir(), key=lambda path: int(path.name[1:]))
        for path in (daemon.store / "index/default/i1", newest):
            path.unlink()
        (daemon.index / "default" / "i1").unlink()
        daemon.expect("held", "refused", "restoring", "alarm")  # i1 is nowhere
        daemon.start()
        assert zdb.start() == 1
        assert daemon.stats()["held"]

    def test_with_something_new(self, daemon: Daemon, zdb: FakeZdb) -> None:
        """The stop names it and what decides."""
        self.hold(daemon, zdb)
        new = [(daemon.index, "i"), (daemon.data, "d")]
        for root, letter in new:
            for number in (50, 51):
                (root / "default" / f"{letter}{number}").write_bytes(os.urandom(300))
        index, data = (
            [str(root / "default" / f"{letter}{number}") for number in (50, 51)]
            for root, letter in new
        )
        assert daemon.hook("jump-index", ZDB, *index, "0").code == 0
        assert daemon.hook("jump-data", ZDB, *data).code == 0
        assert daemon.stats()["queue"]["files"] == 0
        daemon.expect(NO_CLOSING, "no hook announced it")
        assert daemon.stop() == Exit.TEMPFAIL
        last = daemon.announced()[-1]
        assert "namespace default is held, 4 files of it not stored" in last
        assert "`hookd restore default --take local|remote` decides" in last


class TestSpool:
    """Events that a shim kept."""

    def test_a_shim_killed_before_the_rename(self, daemon: Daemon) -> None:
        """Its event is whole: with no shim alive it is not left until it is old."""
        (daemon.data / "ns").mkdir()
        files = [daemon.data / "ns" / name for name in ("d0", "d1")]
        for file in files:
            file.write_bytes(os.urandom(300))
        daemon.start()
        argv = ("jump-data", ZDB, *map(str, files))
        frame = encode(EventFrame(os.urandom(16), argv, "/", 5000))
        (daemon.spool / f".tmp-{os.urandom(16).hex()}").write_bytes(frame)
        daemon.expect(NO_CLOSING)
        assert daemon.stop() == Exit.OK
        assert sorted(os.listdir(daemon.spool)) == ["bad", "owner"]
        assert daemon.stored() == daemon.local()

    def test_half_an_event(self, daemon: Daemon) -> None:
        """What it was is not known: it is kept, and the stop is no clean one. The next one is."""
        daemon.start()
        daemon.expect("moved to bad/")
        old = time.time() - ABANDONED_S + 1
        half = daemon.spool / ".tmp-00112233445566778899aabbccddeeff"
        half.write_bytes(b"HKD\x01 half a frame")
        os.utime(half, (old, old))
        assert daemon.stop() == Exit.TEMPFAIL
        assert "1 file from the spool was no event" in daemon.announced()[-1]
        assert len(os.listdir(daemon.spool / "bad")) == 1
        daemon.start()
        assert daemon.stop() == Exit.OK

    def test_folder_gone(self, daemon: Daemon) -> None:
        """A stop says so, with the code for it, and no traceback."""
        daemon.start()
        daemon.expect("spool cannot be read", "spool is swept, not watched")
        (daemon.spool / "bad").rmdir()
        (daemon.spool / "owner").unlink()
        daemon.spool.rmdir()
        assert "the spool cannot be read" in daemon.ask("health")
        assert daemon.stop() == Exit.TEMPFAIL
        assert str(daemon.spool) in daemon.announced()[-1]

    def test_another_one(self, daemon: Daemon, tmp_path: Path) -> None:
        """zdb was told another folder than hookd: seen while it runs, and not forgotten with it."""
        daemon.expect("zdb's shims spool to another folder than hook.spool", NO_CLOSING)
        wrong = tmp_path / "wrong"
        files = [str(daemon.data / "ns" / name) for name in ("d0", "d1")]
        spooled = daemon.hook("jump-data", ZDB, *files, HOOKD_SPOOL=str(wrong))
        assert (spooled.code, len(os.listdir(wrong))) == (0, 1)
        with told(daemon, wrong):
            daemon.start()
            view = daemon.until(lambda s: s["spool"]["elsewhere"])
            assert view["spool"]["elsewhere"] == {str(wrong): 1}
            assert daemon.ask("health").startswith("degraded\nzdb's HOOKD_SPOOL is ")
        assert daemon.stop() == Exit.TEMPFAIL
        assert (
            f"HOOKD_SPOOL is {wrong}, hook.spool is {daemon.spool}: 1 event"
            in (daemon.announced()[-1])
        )

    def test_the_same_one(self, daemon: Daemon) -> None:
        """By another name it is no other one."""
        link = daemon.folder / "link"
        link.symlink_to(daemon.spool)
        with told(daemon, link):
            daemon.start()
            assert daemon.until(lambda s: s["zdb"]["running"])["spool"]["elsewhere"] == {}
        assert daemon.stop() == Exit.OK


@pytest.mark.parametrize("told_to_stop", [False, True])
def test_nothing_left_behind(daemon: Daemon, zdb: FakeZdb, told_to_stop: bool) -> None:
    """The counter-proof: none of it is seen where there is none."""
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 20)
    view = daemon.stats()
    assert (view["nameless"], view["spool"]["elsewhere"], view["spool"]["problem"]) == (
        [],
        {},
        None,
    )
    if told_to_stop:
        daemon.send_signal()
    zdb.stop()
    assert daemon.stop() == Exit.OK if not told_to_stop else daemon.wait() == Exit.OK
