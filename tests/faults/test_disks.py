"""Disks that are full, read-only or not there, under a zdb that goes on writing.

Each time the right answer comes at once, and with room again everything is stored.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.fakes.disk import fill, small_disk
from tests.fakes.zdb import Call
from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]

CANNOT_COMMIT = (
    "cannot commit, the shim spools",
    "journal unavailable",
    "scan failed",
    "alarms not kept",
    "finding not kept",
)
STORE_DOWN = ("store is down", "store is back")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB: the journal's log grows to four."""
    with small_disk(tmp_path / "disk", size_kib=8192) as path:
        yield path


def work(world: World) -> list[Call]:
    """Two data files become full; the hooks that were called meanwhile, all ended."""
    before = len(world.zdb.calls)
    for _ in range(2):
        world.zdb.churn("default", 6)
        world.zdb.rotate("default")
    world.zdb.update("default")
    return world.zdb.finish_hooks()[before:]


def codes(calls: list[Call], hook: str) -> set[int | None]:
    """What zdb was answered."""
    return {call.code for call in calls if call.argv[0] == hook}


def end(world: World) -> None:
    """zdb stops, the daemon drains."""
    world.zdb.stop()
    world.drain()
    world.check_end()


def test_no_room_for_snapshots(world: World, disk: Path) -> None:
    """jump-index says 1, the events are kept; a restart with the disk still full changes nothing."""
    world.daemon.expect("no snapshot, will freeze later", "will retry")
    world.staging = disk / "staging"
    world.daemon.configure(snapshot__staging=str(world.staging))
    world.start()
    assert world.zdb.start() == 0
    assert codes(work(world), "jump-index") == {0}
    world.daemon.until_stored()
    ballast = fill(disk)
    calls = work(world)
    assert codes(calls, "jump-index") == {1}
    assert codes(calls, "jump-data") == codes(calls, "namespace-updated") == {0}
    assert world.daemon.stats()["staging"]["refused"]
    assert world.spooled() == []
    world.daemon.kill()
    world.check_promises()
    world.start()
    ballast.unlink()
    end(world)


def test_no_room_for_the_journal(world: World, disk: Path) -> None:
    """The shims keep their events, with the daemon there and after it died."""
    world.daemon.expect(*CANNOT_COMMIT)
    world.daemon.journal = disk / "state" / "journal.db"
    world.staging = world.daemon.folder / "staging"
    world.daemon.configure(
        journal__path=str(world.daemon.journal), snapshot__staging=str(world.staging)
    )
    world.start()
    assert world.zdb.start() == 0
    ballast = fill(disk)
    while not world.spooled():  # the file has a few pages to spare
        calls = work(world)
    assert codes(calls, "jump-data") == {0}
    assert world.daemon.stats()["journal"]["state"] == "error"
    world.daemon.kill()
    world.check_promises()
    assert codes(work(world), "jump-index") == {1}
    world.check_promises()
    ballast.unlink()
    world.start()
    end(world)


def test_no_room_to_start(world: World, disk: Path) -> None:
    """Without room for a journal there is no daemon: one line says so. The shims spool."""
    journal = disk / "state" / "journal.db"
    world.staging = world.daemon.folder / "staging"
    world.daemon.configure(journal__path=str(journal), snapshot__staging=str(world.staging))
    with world.zdb.unheard():
        assert world.zdb.start() == 0
    journal.parent.mkdir(0o700)
    ballast = fill(disk)
    world.start(wait=False)
    assert world.daemon.wait() == Exit.SOFTWARE
    assert "journal.path" in world.daemon.announced()[-1]
    work(world)
    ballast.unlink()
    world.daemon.journal = journal
    world.start()
    end(world)


def test_no_room_to_spool(world: World, disk: Path) -> None:
    """No daemon and no room: 111, nothing was promised; a scan finds what zdb went on to write."""
    world.daemon.spool = disk / "spool"
    world.daemon.configure(hook__spool=str(world.daemon.spool))
    world.zdb.look_for_spool(world.daemon.spool)
    world.start()
    assert world.zdb.start() == 0
    world.daemon.kill()
    ballast = fill(disk)
    calls = work(world)
    assert {call.code for call in calls} == {111}
    assert sorted(os.listdir(world.daemon.spool)) == ["bad", "owner"]
    ballast.unlink()
    assert {call.code for call in work(world)} == {0, 1}
    world.start()
    end(world)


# -- the store's folder ----------------------------------------------------------------------------


def full(store: Path) -> Callable[[], object]:
    """Not a byte is left."""
    return fill(store.parent).unlink


def read_only(store: Path) -> Callable[[], object]:
    """The kernel has remounted it so."""

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(store.parent)], check=True)

    remount("ro")
    return lambda: remount("rw")


def gone(store: Path) -> Callable[[], object]:
    """Unmounted."""
    away = store.with_name("away")
    store.rename(away)
    return lambda: away.rename(store)


def another(store: Path) -> Callable[[], object]:
    """Unmounted, and the folder below the mount point is empty: it stays so."""
    away = store.with_name("away")
    store.rename(away)
    store.mkdir()

    def back() -> None:
        assert list(store.iterdir()) == []
        store.rmdir()
        away.rename(store)

    return back


@pytest.mark.parametrize("trouble", [full, read_only, gone, another])
def test_store_in_trouble(
    world: World, disk: Path, trouble: Callable[[Path], Callable[[], object]]
) -> None:
    """zdb is answered as ever; the files wait, and are stored when the folder is well again."""
    world.daemon.expect(*STORE_DOWN)
    move_store(world, disk / "store")
    world.start()
    assert world.zdb.start() == 0
    work(world)
    world.daemon.until_stored()
    back = trouble(world.daemon.store)
    calls = work(world)
    assert {call.code for call in calls} == {0}
    stats = world.daemon.until(lambda s: s["store"]["state"] == "down")
    assert stats["queue"]["files"] >= 2
    assert set(stats["errors"]) == {"unreachable"}
    back()
    world.daemon.until_stored()
    assert world.daemon.stats()["store"]["state"] == "up"
    end(world)


@pytest.mark.parametrize("trouble", [gone, another])
def test_start_without_the_store(
    world: World, disk: Path, trouble: Callable[[Path], Callable[[], object]]
) -> None:
    """An empty folder is not taken for the store that was there before, nor made; the shims spool."""
    move_store(world, disk / "store")
    world.start()
    assert world.zdb.start() == 0
    work(world)
    world.daemon.until_stored()
    world.daemon.kill()
    trouble(world.daemon.store)
    work(world)
    world.start(wait=False)
    assert world.daemon.wait() == Exit.UNAVAILABLE
    assert "not the store" in world.daemon.announced()[-1]
    assert world.daemon.store.exists() == (trouble is another)
    shutil.rmtree(world.daemon.store, ignore_errors=True)
    os.rename(disk / "away", world.daemon.store)
    world.start()
    end(world)


def move_store(world: World, path: Path) -> None:
    """Before the first start."""
    world.watch.store = world.daemon.store = path
    world.daemon.configure(store__directory__path=str(path))
