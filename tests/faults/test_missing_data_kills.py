"""Who dies while a data file is brought back: the shim, zdb. (The daemon: test_kill_points, retrieve-*.)

The store cannot be read at first, so that the kill is in the middle; at the end every key answers.
"""

from __future__ import annotations

import threading

import pytest

from tests.fakes.zdb_files import Unreadable
from tests.faults.test_restore_kills import unreadable
from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]

AGAIN = "retrieve failed, again"
NUMBER = 0
NAME = f"data/files/d{NUMBER}"


def lived(world: World) -> bytes:
    """A zdb that has left a data file behind, which is stored and gone from here."""
    world.daemon.expect(AGAIN)
    world.start()
    zdb = world.zdb
    assert zdb.start() == 0
    zdb.create("files")
    for _ in range(2):
        zdb.churn("files", 10)
        zdb.rotate("files")
    zdb.finish_hooks()
    world.until(lambda: not world.daemon.stats()["queue"]["files"], "not all is stored")
    path = world.daemon.folder / NAME
    content = path.read_bytes()
    path.unlink()
    return content


def ask(world: World) -> threading.Thread:
    """A client asks for a key of it; zdb waits in its hook. Returns once the daemon has tried."""
    key = world.zdb.key_in("files", NUMBER)
    calls = len(world.zdb.calls)

    def get() -> None:
        with pytest.raises(Unreadable):
            world.zdb.get("files", key)

    thread = threading.Thread(target=get)
    thread.start()
    world.until(lambda: world.daemon.logged(AGAIN), "nothing is brought back")
    assert world.zdb.calls[calls].argv[0] == "missing-data"
    return thread


def check(world: World, content: bytes) -> None:
    """Every key answers, and the file is what it was."""
    zdb = world.zdb
    for key, value in zdb.truth["files"].items():
        assert zdb.get("files", key) == value
    assert (world.daemon.folder / NAME).read_bytes() == content
    zdb.stop()
    world.drain()
    assert world.watch.wrong == []
    world.check_leftovers()


def test_shim_killed(world: World) -> None:
    """zdb reads that as success, finds no file and says so; the next GET asks again, and gets it."""
    content = lived(world)
    with unreadable(world, NAME):
        client = ask(world)
        world.zdb.calls[-1].process.kill()
        client.join(30)
        assert not client.is_alive()
        assert not (world.daemon.folder / NAME).exists(), "half a file would be an error for ever"
    check(world, content)


def test_zdb_killed(world: World) -> None:
    """The hook lives on; whether its file comes before zdb's next start or after, it is whole."""
    world.daemon.expect("zdb ended without its closing hooks")
    content = lived(world)
    with unreadable(world, NAME):
        hook = world.zdb.start_hook("missing-data", str(world.daemon.folder / NAME))
        world.until(lambda: world.daemon.logged(AGAIN), "nothing is brought back")
        world.zdb.kill()
    assert world.zdb.start() == 0
    world.zdb.finish_hooks()
    assert hook.code == 0
    check(world, content)
