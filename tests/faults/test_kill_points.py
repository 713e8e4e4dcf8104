"""The daemon dies (kill -9) at each named step, or a disk fails there; nothing is lost.

What "nothing" means is `World.check_promises` at the death, `World.check_end` at the end, and the
watch on the store in between.
"""

from __future__ import annotations

import signal

import pytest

from hookd import faults
from tests.fakes.zdb_files import Unreadable
from tests.faults.history import SKIPPED
from tests.faults.launcher import Fault
from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]


def before(world: World) -> None:
    """A zdb that runs without a daemon: files that nobody announced, events in the spool."""
    zdb = world.zdb
    with zdb.unheard():
        assert zdb.start() == 0
        zdb.create("files")
        zdb.create(SKIPPED)
        for name in ("default", "files", SKIPPED):
            zdb.churn(name, 8)
    zdb.rotate("files")
    zdb.finish_hooks()
    assert [frame.argv[0] for frame in world.spooled()] == ["jump-index", "jump-data"]


def work(world: World) -> None:
    """Every kind of hook, data files that are asked back, and the end of zdb."""
    zdb = world.zdb
    for _ in range(2):
        for name in ("files", SKIPPED):
            zdb.churn(name, 10)
            zdb.rotate(name)
    zdb.update("files")
    for number in (0, 1):
        world.until_stored(f"data/files/d{number}")
        ask_back(world, number)
    zdb.churn("default", 5)
    zdb.stop()
    zdb.finish_hooks()


def ask_back(world: World, number: int) -> None:
    """A stored data file is removed, and comes back as it was."""
    # it may be in the store and not settled yet: its job finds it gone until it is back
    world.daemon.expect("will retry", "quarantined")
    path = world.zdb.data / "files" / f"d{number}"
    content = path.read_bytes()
    path.unlink()
    key = world.zdb.key_in("files", number)
    assert world.zdb.get("files", key) == world.zdb.truth["files"][key]
    assert path.read_bytes() == content


@pytest.mark.parametrize("step", faults.STEPS)
def test_killed_at(world: World, step: str) -> None:
    """The first passing of each step, in the middle of a zdb's life."""
    before(world)
    world.start("--fault", step, wait=False)
    with world.supervised():
        work(world)
    assert world.deaths == [-signal.SIGKILL]
    assert world.daemon.faults() == [Fault(step)]
    world.drain()
    world.check_end()


@pytest.mark.parametrize(
    ("step", "crash"),
    [
        ("commit-done", False),
        ("snapshot-synced", False),
        ("put-done", False),
        ("staged-removed", False),
        ("job-frozen", True),
        ("settled", True),
    ],
)
def test_killed_in_a_drain(world: World, step: str, crash: bool) -> None:
    """The daemon that was told to end dies; the next one stores what zdb left, hooks or no hooks."""
    world.daemon.expect("zdb ended without its closing hooks")
    zdb, armed = world.zdb, world.daemon.folder / "armed"
    world.start("--fault", step, "--armed", str(armed))
    assert zdb.start() == 0
    zdb.churn("default", 10)
    zdb.rotate("default")
    zdb.churn("default", 5)
    world.until_stored("data/default/d0")
    world.daemon.send_signal(signal.SIGTERM)
    world.daemon.wait_for_line("waiting for zdb to stop")
    armed.touch()
    with world.supervised():
        zdb.kill() if crash else zdb.stop()
        zdb.finish_hooks()
        world.until(lambda: world.deaths, f"{step} was not come to")
    assert world.deaths == [-signal.SIGKILL]
    world.drain()
    world.check_end()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        # the second snapshot is an event's or a job's, whichever comes first
        ("snapshot-copied:1:ENOSPC", ["no snapshot, will freeze later"]),
        ("snapshot-synced:2:EIO", ["no snapshot, will freeze later", "will retry"]),
        ("commit-begin:3:ENOSPC", []),
        ("job-frozen:1:EIO", ["will retry"]),
        ("put-begin:1:ENOSPC", ["will retry"]),
        ("put-done:2:EIO", ["will retry"]),
        ("verified:1:EIO", ["will retry"]),
        ("settled:1:EIO", ["internal error"]),
    ],
)
def test_an_error_at(world: World, fault: str, said: list[str]) -> None:
    """A disk that fails once, there: it is said, what was meant to happen happens later."""
    world.daemon.expect(*said)
    before(world)
    world.start("--fault", fault)
    with world.supervised():
        work(world)
    assert world.daemon.faults() == [Fault.parse(fault)]
    assert world.deaths == []
    # a newer snapshot of the file may have taken the place of the job that failed
    superseded = world.rows("SELECT id FROM jobs WHERE state = 'superseded'")
    assert not said or superseded or any(world.daemon.logged(each) for each in said)
    world.drain()
    world.check_end()


@pytest.mark.parametrize("step", ["retrieve-staged", "retrieve-verified"])
def test_an_error_in_a_retrieve(world: World, step: str) -> None:
    """zdb hears of it; when it asks again, the file is there."""
    world.daemon.expect("not retrieved")
    before(world)
    world.start("--fault", f"{step}:1:EIO")
    world.until_stored("data/files/d0")
    world.until(  # settled, too: nobody reads the live file any more
        lambda: "data/files/d0" not in world.daemon.ask("queue --json"), "data/files/d0 is open"
    )
    (world.zdb.data / "files" / "d0").unlink()
    key = world.zdb.key_in("files", 0)
    with pytest.raises(Unreadable):
        world.zdb.get("files", key)
    assert world.zdb.get("files", key) == world.zdb.truth["files"][key]
    world.zdb.stop()
    world.drain()
    world.check_end()
