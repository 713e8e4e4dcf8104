"""hookd under a service manager: its notices, and a hook socket that outlives it."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.e2e.daemon import LAUNCHER, WITHIN_S, ZDB, Daemon
from tests.fakes import manager as fake
from tests.fakes.manager import Manager
from tests.fakes.zdb import FakeZdb

pytest_plugins = ["tests.shim_build"]

NO_CLOSING = "zdb ended without its closing hooks"
WATCHDOG_S = 0.6


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(f"{tmp_path}/notify")
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[socket.socket]:
    with fake.hook_socket(tmp_path / "run" / "hook.sock") as made:
        yield made


@pytest.fixture
def daemon(shim: Path, tmp_path: Path, manager: Manager, server: socket.socket) -> Iterator[Daemon]:
    """As hookd.service and hookd.socket start it."""
    made = Daemon(
        tmp_path,
        shim,
        launcher=(sys.executable, fake.__file__, str(server.fileno()), *LAUNCHER),
        environment={
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}",
        },
        passes=(server.fileno(),),
    )
    yield made
    made.close()


def restart(daemon: Daemon) -> None:
    """Another hookd, with zdb running on."""
    daemon.send_signal(signal.SIGHUP)
    assert daemon.wait() == Exit.TEMPFAIL
    assert "(to be started again)" in daemon.announced()[-1]
    daemon.start()


def listen(manager: Manager, for_s: float) -> list[str]:
    """All that it hears meanwhile; its queue holds ten messages or so."""
    ends, heard = time.monotonic() + for_s, manager.heard()
    while time.monotonic() < ends:
        time.sleep(0.02)
        heard += manager.heard()
    return heard


def test_notices(daemon: Daemon, manager: Manager) -> None:
    """More time while it starts, READY once hooks are served, fed while it runs, more time to stop."""
    daemon.start(wait=False)
    heard: list[str] = []
    ends = time.monotonic() + WITHIN_S
    while not any("READY=1" in message for message in heard):
        assert time.monotonic() < ends
        heard += manager.heard()
    assert (
        daemon.hook("jump-data", ZDB, "/nowhere/d0", "/nowhere/d1").code == 1
    )  # answered: refused
    before = "\n".join(heard).partition("READY=1")[0]
    assert "STATUS=starting: reading the journal" in before
    assert "EXTEND_TIMEOUT_USEC=600000000" in before
    assert heard[-1] == "READY=1\nSTATUS=nothing to store; 0 files stored since the start"
    heard = listen(manager, 3 * WATCHDOG_S)
    assert heard.count("WATCHDOG=1") >= 3
    assert not any("EXTEND" in message for message in heard)
    daemon.expect("refused")
    assert daemon.stop() == Exit.OK
    heard = manager.heard()
    assert heard[heard.index("STOPPING=1\nSTATUS=draining") :]


def test_a_frozen_daemon_is_not_fed(daemon: Daemon, manager: Manager) -> None:
    """With the event loop standing still nothing is sent; it goes on where it goes on."""
    daemon.start()
    daemon.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    manager.heard()
    assert listen(manager, 2 * WATCHDOG_S) == []
    daemon.send_signal(signal.SIGCONT)
    assert "WATCHDOG=1" in listen(manager, 2 * WATCHDOG_S)
    assert daemon.stop() == Exit.OK


def test_a_drain_that_waits_for_zdb_asks_for_time(
    daemon: Daemon, manager: Manager, zdb: FakeZdb
) -> None:
    """However long it takes, with a status that says what for."""
    daemon.start()
    assert zdb.start() == 0
    zdb.create("ns")
    zdb.churn("ns", 40)
    daemon.send_signal()
    heard = listen(manager, 2 * WATCHDOG_S)
    heard = heard[heard.index("STOPPING=1\nSTATUS=draining") :]
    assert heard.count("EXTEND_TIMEOUT_USEC=60000000") >= 2
    assert any("waiting for zdb to stop" in message for message in heard)
    zdb.stop()
    assert daemon.wait() == Exit.OK
    assert daemon.stored() == daemon.local()


def test_shims_wait_in_the_backlog(daemon: Daemon, zdb: FakeZdb) -> None:
    """zdb works on through restarts of hookd, stopped or killed: no shim spools, nothing is lost."""
    daemon.expect(NO_CLOSING)
    daemon.start()
    assert zdb.start() == 0
    zdb.create("ns")
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            zdb.churn("ns", 20)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(2):
            restart(daemon)
            time.sleep(0.3)
            daemon.kill()
            time.sleep(0.3)
            daemon.start()
            time.sleep(0.3)
    finally:
        ended.set()
        worker.join()
    assert len([call for call in zdb.calls if call.argv[0] == "jump-index"]) > 5
    spool = daemon.stats()["spool"]
    assert [spool[key] for key in ("waiting", "bad", "taken")] == [0, 0, 0]
    zdb.stop()
    assert {call.code for call in zdb.finish_hooks()} == {0}
    assert daemon.stop() == Exit.OK
    assert not daemon.logged("taken from the spool")
    assert daemon.stored() == daemon.local()


def test_after_the_drain(daemon: Daemon, server: socket.socket, tmp_path: Path) -> None:
    """The socket stays. Who connects with nobody behind it waits his time and spools; the next start
    finds the event twice, in the backlog and in the spool, and takes it once.
    """
    daemon.start()
    assert daemon.stop() == Exit.OK
    path = tmp_path / "run" / "hook.sock"
    assert path.is_socket()
    assert not (tmp_path / "run" / "stats.sock").exists()
    for name, content in (("index/ns/i0", b"i" * 50), ("data/ns/d0", b"d" * 50)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    files = [str(tmp_path / "index/ns/i0"), str(tmp_path / "data/ns/d0")]
    late = daemon.hook("namespace-closing", ZDB, "ns", *files, "", HOOKD_TIMEOUT_S="0.4")
    assert late.code == 0
    assert "spooled" in late.text
    assert 0.3 < late.seconds < 5
    assert len(list(daemon.spool.glob("*.event"))) == 1
    daemon.start()
    daemon.until_stored()
    events = daemon.until(lambda stats: stats["totals"]["events"]["duplicate"])
    assert events["totals"]["events"]["accepted"] == 1
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == daemon.local()


@pytest.mark.parametrize("behind_s", [0.0, 0.2])
def test_closing_hooks_of_many_namespaces(daemon: Daemon, zdb: FakeZdb, behind_s: float) -> None:
    """zdb and hookd are told to stop at once; of its closing hooks none is left in the backlog."""
    daemon.expect(NO_CLOSING)
    daemon.start()
    assert zdb.start() == 0
    for number in range(12):
        zdb.create(f"ns{number}")
        zdb.churn(f"ns{number}", 15)
    daemon.send_signal()
    time.sleep(behind_s)
    zdb.stop()
    assert daemon.wait() == Exit.OK
    assert {call.code for call in zdb.finish_hooks()} == {0}
    assert not [path for path in daemon.spool.iterdir() if path.name not in ("bad", "owner")]
    assert daemon.stored() == daemon.local()


def test_started_by_hand_beside_the_unit(daemon: Daemon, shim: Path, tmp_path: Path) -> None:
    """A second hookd must not take the socket's place while the service manager listens there."""
    daemon.config  # noqa: B018 writes the file
    other = Daemon(tmp_path, shim)
    other.start(wait=False)
    assert other.wait() == Exit.UNAVAILABLE
    assert "another process listens on" in other.announced()[-1]
    assert (tmp_path / "run" / "hook.sock").is_socket()


def test_another_path(daemon: Daemon, tmp_path: Path) -> None:
    """hookd.socket and hook.socket disagree: told at once, nothing is served."""
    daemon.configure(hook__socket=f"{tmp_path}/run/other.sock")
    daemon.start(wait=False)
    assert daemon.wait() == Exit.CONFIG
    assert "make the two equal" in daemon.announced()[-1]
