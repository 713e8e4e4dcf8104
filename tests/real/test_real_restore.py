"""A real zdb loses its disks, and comes back through the real shim: every key, byte by byte."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.demo.resp import RespError
from hookd.demo.stage import DemoFailed
from tests.e2e.daemon import PATIENCE_S, Daemon
from tests.real.grid import Grid, missing_programs
from tests.real.world import NO_CLOSING, PASSWORD, TERMINATED, World, sealed

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("zdb") is None, reason="zdb is not on PATH"),
]
pytest_plugins = ["tests.shim_build"]

LOUD = (
    "restoring", "restored", "held", "zdb waits", "set aside", "choice", NO_CLOSING, "will retry",
    "local files are taken", "fenced: nothing is stored any more", "store is down", "store is back",
    "quarantined", "withdrawn", "finding not kept", "answer not kept", "cannot commit, the shim spools",
)  # fmt: skip
NAMES = {"users": "user", "numbers": "seq"}


@pytest.fixture
def world(shim: Path, tmp_path: Path) -> Iterator[World]:
    daemon = Daemon(tmp_path, shim)
    daemon.expect(*LOUD)
    made = World(daemon, shim)
    yield made
    if made.zdb is not None:
        made.zdb.close()
    daemon.close()


def live(world: World, count: int = 60, *, patience_s: str = PATIENCE_S) -> None:
    """A zdb with a namespace in each mode, some data files long."""
    world.start(patience_s=patience_s)
    for name, mode in NAMES.items():
        world.create(name, mode)
        world.write(name, count)


def end(world: World) -> None:
    """zdb stops, all is stored, the daemon ends with 0."""
    assert world.zdb is not None
    assert world.zdb.stop() == TERMINATED
    code = world.daemon.stop()
    assert code == 0, world.daemon.log.read_text()


def wipe(daemon: Daemon, *, journal: bool = True) -> None:
    """The disks are lost."""
    for root in (daemon.index, daemon.data):
        shutil.rmtree(root)
        root.mkdir()
    if journal:
        shutil.rmtree(daemon.journal.parent)


def check(world: World) -> None:
    """Every key answers as promised, passes zdb's own check, and what was private is private."""
    assert world.zdb is not None
    for name in world.values:
        with pytest.raises(RespError, match="private"):
            world.client.ask("SELECT", name)
    assert world.wrong(world.zdb) == []
    for name, values in world.values.items():
        world.client.ask("SELECT", name, PASSWORD)
        for key in values:
            assert world.client.ask("CHECK", key) == 1


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("journal", [True, False])
def test_lost_disks(world: World, full: bool, journal: bool) -> None:
    """Everything comes back, with the journal lost or not; zdb goes on, and it comes back again."""
    world.daemon.configure(restore__full=full)
    world.daemon.start()
    live(world)
    for _ in range(2):
        end(world)
        before = world.daemon.local()
        wipe(world.daemon, journal=journal)
        world.daemon.start()
        world.start()
        check(world)
        if full:
            after = world.daemon.local()
            assert sorted(after) == sorted(before)
        for name in NAMES:
            world.write(name, 15)
    end(world)
    world.check_store(world.daemon.folder / "anew")


def test_nothing_is_done_to_complete_files(world: World) -> None:
    """A restart beside an older copy in the store: what is here stays as it is."""
    world.daemon.expect("alarm")
    world.daemon.start()
    live(world, 20)
    end(world)
    old = world.daemon.folder / "old"
    shutil.copytree(world.daemon.store, old)
    world.daemon.start()
    world.start()
    for name in NAMES:
        world.write(name, 30)
    end(world)
    shutil.rmtree(world.daemon.store)
    old.rename(world.daemon.store)
    files = world.daemon.local()
    world.daemon.start()
    world.start()
    check(world)
    after = world.daemon.local()
    assert {n: c for n, c in after.items() if n.startswith("data/")} == {
        n: c for n, c in files.items() if n.startswith("data/")
    }
    assert world.zdb is not None
    assert world.zdb.stop() == TERMINATED
    world.daemon.stop()


def test_hook_sh(world: World) -> None:
    """Files in the store without any record of ours: restored from, and taken over without an upload."""
    world.daemon.start()
    live(world)
    end(world)
    shutil.rmtree(world.daemon.store / ".hookd")
    old = [world.daemon.store / "data" / n / p.name for n in NAMES for p in sealed(world.daemon, n)]
    stamps = {path: path.stat().st_ino for path in old}
    shutil.rmtree(world.daemon.journal.parent)
    world.daemon.start()
    world.start()
    check(world)
    assert world.zdb is not None
    assert world.zdb.stop() == TERMINATED
    assert world.daemon.stop() == 0
    again = {path: path.stat().st_ino for path in old}
    assert len(old) > 4
    assert again == stamps, "uploaded again"
    shutil.rmtree(world.daemon.store / ".hookd")
    wipe(world.daemon)
    world.daemon.start()
    world.start()
    check(world)
    end(world)


def test_rolled_back(world: World) -> None:
    """The disk is that of yesterday: zdb may not serve it, and nothing goes over what is stored."""
    daemon = world.daemon
    daemon.expect("alarm", "kept")
    daemon.start()
    live(world, 30)
    end(world)
    yesterday = {root: daemon.folder / f"{root}-then" for root in ("index", "data", "state")}
    for root, copy in yesterday.items():
        shutil.copytree(daemon.folder / root, copy)
    daemon.start()
    world.start()
    for name in NAMES:
        world.write(name, 40)
    end(world)
    for root, copy in yesterday.items():
        shutil.rmtree(daemon.folder / root)
        copy.rename(daemon.folder / root)
    stored = daemon.stored()
    daemon.start()
    with pytest.raises(DemoFailed):
        world.start()
    assert "users" in daemon.stats()["held"]
    daemon.stop()
    after = daemon.stored()
    assert {n: after[n] for n in stored if "/default/" not in n} == {
        n: stored[n] for n in stored if "/default/" not in n
    }
    daemon.start()
    assert "next start" in daemon.ask("take * remote")
    world.start()
    check(world)
    end(world)


def test_gap_and_active_data(world: World) -> None:
    """An index file in the middle is lost, and an active data file: both come back."""
    daemon = world.daemon
    daemon.start()
    live(world)
    end(world)
    newest = max((daemon.data / "users").glob("d*"), key=lambda path: int(path.name[1:]))
    for path in (daemon.index / "users" / "i1", newest):
        path.unlink()
        daemon.start()
        world.start()
        check(world)
        end(world)


@pytest.mark.parametrize("program", ["zstor"])
def test_through_zstor(shim: Path, tmp_path: Path, program: str) -> None:
    """Restored through zstor; one that is blind keeps zdb waiting, and it goes on when it sees again."""
    if missing := missing_programs(program):
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    with Grid(tmp_path / "grid", zstor=program) as grid:
        settings = {
            "store.kind": "zstor",
            "store.directory.path": None,
            "store.zstor.config": str(grid.config),
            "restore.namespaces": list(NAMES),
        }
        daemon = Daemon(tmp_path, shim, settings=settings)
        daemon.expect(*LOUD, "notice", "zstor is blind", "zstor sees again")
        world = World(daemon, shim)
        try:
            daemon.start()
            live(world, 20)
            end(world)
            wipe(daemon)
            grid.stop_zstor()
            for number in range(4):
                grid.stop_backend(number)
            grid.start_zstor()  # with nothing to reach: it stays blind
            for number in range(4):
                grid.start_backend(number)
            daemon.start()
            errors: list[BaseException] = []

            def start() -> None:
                try:
                    world.start()
                except BaseException as error:
                    errors.append(error)

            thread = threading.Thread(target=start)
            thread.start()
            daemon.until(lambda stats: stats["restore"]["waiting"])
            assert not list(daemon.index.glob("users/i*"))
            grid.stop_zstor()
            grid.start_zstor()
            thread.join(60)
            assert not errors, errors
            check(world)
            assert sealed(daemon, "users")
            end(world)
        finally:
            if world.zdb is not None:
                world.zdb.close()
            daemon.close()
