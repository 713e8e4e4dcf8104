"""A real zdb that calls the real shim, through all of its life; and another one on what was stored.

The claim behind all of hookd: a zdb that starts from nothing but a copy of the store answers every
key as the clients of the first one were promised.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.demo.living_zdb import LivingZdb
from hookd.errors import Exit
from tests.e2e.daemon import Daemon
from tests.real.world import NO_CLOSING, PASSWORD, TERMINATED, World, copy_store, sealed

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("zdb") is None, reason="zdb is not on PATH"),
]
pytest_plugins = ["tests.shim_build"]


@pytest.fixture
def world(shim: Path, tmp_path: Path) -> Iterator[World]:
    daemon = Daemon(tmp_path, shim)
    made = World(daemon, shim)
    yield made
    if made.zdb is not None:
        made.zdb.close()
    daemon.close()


@pytest.mark.parametrize("mode", ["user", "seq"])
def test_whole_life(world: World, tmp_path: Path, mode: str) -> None:
    """Rotation, updates, deletes, evicted files, a restart, kill -9, and a clean stop."""
    daemon = world.daemon
    daemon.start()
    zdb = world.start()
    world.create("ns", mode)
    world.write("ns", 40)
    assert len(sealed(daemon, "ns")) >= 3

    daemon.until(lambda s: not s["queue"]["states"]["running"]["files"])
    evicted = [
        path for path in sealed(daemon, "ns") if (daemon.store / "data/ns" / path.name).exists()
    ]
    assert len(evicted) >= 3
    for path in evicted[::2]:
        path.unlink()
    assert not world.wrong(zdb)
    assert daemon.stats()["retrieve"]["done"] > 0
    assert daemon.stats()["retrieve"]["failed"] == 0

    assert zdb.stop() == TERMINATED
    zdb = world.start()
    world.write("ns", 30)
    assert not world.wrong(zdb)

    zdb.close()  # kill -9
    zdb = world.start()
    assert not world.wrong(zdb)
    world.write("ns", 30)

    daemon.send_signal()
    daemon.until(lambda s: s["drain"] and "zdb" in s["drain"]["waiting_for"])
    world.write("ns", 20)
    assert not world.wrong(zdb)
    assert zdb.stop() == TERMINATED
    assert daemon.wait() == Exit.OK
    assert daemon.stored() == daemon.local()
    world.check_store(tmp_path / "anew")


def test_everything_is_killed(world: World, tmp_path: Path) -> None:
    """Both processes die at once; the next daemon, alone, brings what lies there into the store."""
    daemon = world.daemon
    daemon.expect(NO_CLOSING)
    daemon.start()
    zdb = world.start()
    world.create("ns", "user")
    world.write("ns", 50)
    daemon.kill()
    zdb.close()
    daemon.start()
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == daemon.local()
    world.check_store(tmp_path / "anew")


def test_store_at_any_moment(world: World, tmp_path: Path) -> None:
    """Copied at an instant, the store is a whole: what it answers, it answers right.

    Keys may be missing, or have an older value; none may have bytes that were never written to it.
    """
    daemon = world.daemon
    daemon.start()
    world.start()
    world.create("ns", "user")
    answered = 0
    for moment in range(6):
        world.write("ns", 15)
        time.sleep(moment * 0.01)
        daemon.send_signal(signal.SIGSTOP)
        folder = tmp_path / f"moment{moment}"
        copy_store(daemon, folder)
        daemon.send_signal(signal.SIGCONT)
        if not (folder / "index" / "ns").exists():
            continue  # nothing was stored yet
        zdb = LivingZdb(folder)
        try:
            zdb.client.ask("SELECT", "ns", PASSWORD)
            for key, values in world.ever.items():
                answer = zdb.client.ask("GET", key)  # raises for an `Internal Error`
                assert answer is None or answer in values
                answered += answer is not None
        finally:
            zdb.close()
    assert answered > 50
    assert world.zdb is not None
    world.zdb.stop()
    assert daemon.stop() == Exit.OK
    world.check_store(tmp_path / "anew")


def test_empty_machine(world: World) -> None:
    """Without its files zdb does not serve before they are back; then it has every key and goes on."""
    daemon = world.daemon
    daemon.expect("restoring", "restored", NO_CLOSING)
    daemon.start()
    zdb = world.start()
    world.create("ns", "seq")
    world.write("ns", 30)
    zdb.stop()
    assert daemon.stop() == Exit.OK
    before = daemon.stored()
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root)
        root.mkdir()

    daemon.start()
    zdb = world.start()
    assert not world.wrong(zdb)
    assert daemon.until_stored()["held"] == {}
    assert [line["namespace"] for line in daemon.logged("restored")] == ["default", "ns"]
    assert {name: daemon.stored()[name] for name in before} == before
    world.write("ns", 10)
    zdb.stop()
    assert daemon.stop() == Exit.OK
    assert daemon.stored() == daemon.local()
