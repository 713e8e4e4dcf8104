"""A stop signal at any moment: in the start, in a scan that hangs, while zdb's shims ask in vain."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import REPOSITORY, WITHIN_S, ZDB, Daemon
from tests.e2e.test_daemon import fill
from tests.e2e.test_drain import draining, find_store, lose_store, whole
from tests.fakes.zdb import FakeZdb

pytest_plugins = ["tests.shim_build"]

HANGS = """if True:
    import sys
    from hookd import scan
    from hookd.__main__ import main

    def hang(*arguments, **options):
        print("hookd: the scan hangs", file=sys.stderr, flush=True)
        open(sys.argv[-1] + ".gate").read()
        return []

    scan.unannounced = hang
    sys.exit(main())
"""
"""A daemon whose look at zdb's disk never comes back (a FIFO that nobody writes to)."""


@contextmanager
def reading_its_configuration(daemon: Daemon) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that is so early in its start that it has not read its configuration yet. Afterwards it
    reads it, and ends.
    """
    text = daemon.config.read_text()
    fifo = daemon.folder / "fifo.toml"
    os.mkfifo(fifo)
    with daemon.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "hookd", "serve", "--config", str(fifo)],
            stderr=log,
            cwd=REPOSITORY,
        )
    with process:
        file = fifo.open("w")  # which waits until it reads
        yield process
        with contextlib.suppress(BrokenPipeError), file:
            file.write(text)
        process.wait(WITHIN_S)


class TestStart:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_before_anything(self, daemon: Daemon, number: int) -> None:
        """The stop waits until there is something to stop, and drains it."""
        with reading_its_configuration(daemon) as process:
            process.send_signal(number)
        assert process.returncode == Exit.OK
        assert daemon.announced()[-1].startswith("drained: nothing is left")

    def test_with_something_in_the_spool(self, daemon: Daemon) -> None:
        """A stop that comes so early is a drain like any other."""
        daemon.expect("zdb ended without its closing hooks")
        (daemon.data / "ns").mkdir()
        files = [daemon.data / "ns" / name for name in ("d0", "d1")]
        for file in files:
            file.write_bytes(os.urandom(300))
        assert daemon.hook("jump-data", ZDB, *map(str, files)).code == 0
        with reading_its_configuration(daemon) as process:
            process.send_signal(signal.SIGTERM)
        assert process.returncode == Exit.OK
        assert daemon.stored() == daemon.local()

    @pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGHUP,)])
    def test_now(self, daemon: Daemon, numbers: tuple[int, ...]) -> None:
        """A second signal, or one for a new start, does not wait."""
        with reading_its_configuration(daemon) as process:
            for number in numbers:
                process.send_signal(number)
            assert process.wait(WITHIN_S) == Exit.TEMPFAIL
            assert daemon.announced()[-1].startswith("stopped while starting")

    @pytest.mark.parametrize("delay_s", [0.1, 0.2, 0.4, 0.8])
    def test_later_in_it(self, daemon: Daemon, delay_s: float) -> None:
        """Wherever it is by then."""
        with reading_its_configuration(daemon) as process:
            pass_on = subprocess.Popen(["sh", "-c", f"sleep {delay_s}; kill {process.pid}"])
        with pass_on:
            assert process.returncode == Exit.OK


def test_a_second_signal_in_a_scan_that_hangs(shim: Path, tmp_path: Path) -> None:
    """A disk that does not answer keeps nobody from stopping now."""
    daemon = Daemon(tmp_path, shim, launcher=(sys.executable, "-c", HANGS))
    os.mkfifo(f"{tmp_path}/hookd.toml.gate")
    try:
        daemon.start()
        daemon.wait_for_line("the scan hangs")
        daemon.send_signal()
        daemon.until(lambda s: s["phase"] == "draining")
        daemon.send_signal()
        assert daemon.wait() == Exit.TEMPFAIL
        assert "(a second signal came)" in daemon.announced()[-1]
    finally:
        daemon.close()


def test_a_shim_whose_zdb_died_in_namespaces_init(daemon: Daemon, zdb: FakeZdb) -> None:
    """It asks for ever, and announces nothing: no stop waits for it."""
    fill(daemon, zdb)
    shutil.rmtree(daemon.index / "default")
    shutil.rmtree(daemon.data / "default")
    daemon.start()
    lose_store(daemon)
    daemon.expect("zdb waits")
    shim = daemon.start_hook("namespaces-init", ZDB, str(daemon.index), str(daemon.data))
    daemon.until(lambda s: s["restore"]["waiting"])
    assert daemon.stop() == Exit.OK
    assert shim.poll() is None
    shim.kill()
    shim.communicate()


def test_zdb_that_is_started_again_in_a_drain(daemon: Daemon, zdb: FakeZdb) -> None:
    """The door stays open as long as it runs, and what it did is stored too."""
    daemon.start()
    assert zdb.start() == 0
    zdb.churn("default", 30)
    lose_store(daemon)
    zdb.churn("default", 30)
    daemon.send_signal()
    draining(daemon)
    zdb.stop()
    daemon.until(lambda s: s["drain"]["waiting_for"].startswith("storing"))
    daemon.expect("zdb is there again")
    assert zdb.start() == 0
    find_store(daemon)
    daemon.until(lambda s: s["drain"]["waiting_for"].startswith("waiting for zdb"))
    daemon.until_stored()
    time.sleep(1.0)  # more than one look
    assert daemon.running
    before = len(zdb.calls)
    zdb.churn("default", 60)
    assert {call.code for call in zdb.finish_hooks()[before:]} == {0}
    assert not list(daemon.spool.glob("*.event"))
    zdb.stop()
    assert daemon.wait() == Exit.OK
    assert whole(daemon, zdb)
