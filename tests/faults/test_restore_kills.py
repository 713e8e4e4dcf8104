"""A lost disk comes back, whatever dies or fails in the middle of the restore.

zdb is the fake one, the shim the real one, the store a folder. At the end every key answers, nothing in
the store has changed but the manifest, and on disk is what the store has, byte by byte.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest

from hookd import faults
from hookd.errors import Exit
from hookd.restore.local import WORK
from tests.e2e.daemon import contents
from tests.fakes import disk
from tests.fakes.zdb_files import answers
from tests.faults.launcher import Fault
from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]

NAMES = ("files", "more")
LOUD = ("restoring", "restored")
ROTATIONS = 3


@dataclass(frozen=True)
class Life:
    """What a zdb with two namespaces left in a store."""

    store: Path
    truth: dict[str, dict[bytes, bytes]]
    versions: dict[str, dict[bytes, int]]


@pytest.fixture(scope="module")
def life(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Life:
    """Lived once: the tests lose its disks."""
    world = World(tmp_path_factory.mktemp("life"), shim)
    world.start()
    zdb = world.zdb
    assert zdb.start() == 0
    for name in NAMES:
        zdb.create(name, user=name == "more")
        for _ in range(ROTATIONS):
            zdb.churn(name, 8)
            zdb.rotate(name)
        zdb.churn(name, 4)
    zdb.stop()
    world.drain()
    world.close()
    return Life(world.daemon.store, zdb.truth, zdb.history._versions)


@pytest.fixture
def stored(world: World, life: Life) -> dict[str, bytes]:
    """The disks and the journal are lost; what the store has."""
    world.daemon.expect(*LOUD)
    made = world.daemon.folder / "made"
    shutil.copytree(life.store, made)
    made.rename(world.daemon.store)  # whole, for the watch that looks all the time
    world.zdb.truth = deepcopy(life.truth)
    world.zdb.history._versions = deepcopy(life.versions)
    return world.daemon.stored()


@contextmanager
def unreadable(world: World, name: str) -> Iterator[None]:
    """A file of the store cannot be read; it can at the end."""
    world.watch.end()  # it cannot read it either
    path, aside = world.daemon.store / name, world.daemon.folder / "aside"
    path.rename(aside)
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()
        aside.rename(path)


def settled(world: World) -> dict[str, bytes]:
    """What is on disk once no file is on its way: a miss fetches the next ones too, after its answer."""
    local: dict[str, bytes] = {}

    def at_rest() -> bool:
        local.clear()
        with suppress(FileNotFoundError):  # it has just arrived
            local.update(contents(world.daemon.folder, "index", "data"))
        return bool(local) and not any("/.hookd-d" in name for name in local)

    world.until(at_rest, "a data file is still on its way")
    return local


def check(world: World, stored: dict[str, bytes]) -> None:
    """zdb serves: every key answers, nothing was harmed; and a drain ends with nothing left."""
    zdb = world.zdb
    for name in NAMES:
        for key, value in zdb.truth[name].items():
            assert zdb.get(name, key) == value
    local = settled(world)
    assert {name: content for name, content in local.items() if WORK in name} == {}
    assert world.daemon.stored() == stored, "the store was touched"
    restored = {name: content for name, content in local.items() if name.split("/")[1] in NAMES}
    assert [name for name in restored if restored[name] != stored[name]] == []
    indexes = {name for name in stored if "/i" in name and name.split("/")[1] in NAMES}
    assert indexes <= restored.keys()
    for name in NAMES:  # it goes on
        zdb.churn(name, 6)
    zdb.stop()
    world.drain()
    assert world.watch.wrong == []
    found = answers(world.daemon.store / "index", world.daemon.store / "data")
    assert {name: keys for name, keys in found.items() if keys} == zdb.truth
    world.check_leftovers()


PASSINGS = {
    "restore-got": (1, 8),
    "restore-fetched": (2,),
    "restore-known": (2,),
    "restore-placing": (1, 4, 6, 8),
    "restore-placed": (2,),
    "manifest-begin": (1,),
    "manifest-put": (1,),
}


def test_every_step_is_here() -> None:
    """A step that is added to the restore is killed at, too."""
    assert set(faults.RESTORE_STEPS) <= PASSINGS.keys()


@pytest.mark.parametrize(
    ("step", "passing"), [(step, n) for step, passings in PASSINGS.items() for n in passings]
)
def test_killed_at(world: World, stored: dict[str, bytes], step: str, passing: int) -> None:
    """The daemon dies there; the next one goes on, and zdb has waited."""
    world.start("--fault", f"{step}:{passing}", wait=False)
    with world.supervised():
        assert world.zdb.start() == 0
    assert world.deaths == [-signal.SIGKILL]
    assert world.daemon.faults() == [Fault(step, passing)]
    check(world, stored)


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """`work` in a thread; what it raises is raised at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield  # on an error the thread is left alone: it may wait for what does not come
    thread.join(60)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def waits(world: World) -> None:
    """Until a restore waits for the store."""
    world.until(lambda: world.daemon.stats()["restore"]["waiting"], "nothing waits")


def test_sigterm(world: World, stored: dict[str, bytes]) -> None:
    """A stop in the middle of a restore ends it soon; the next daemon goes on, zdb waits for that."""
    world.daemon.expect("zdb waits")
    world.start()
    codes: list[int] = []
    with beside(lambda: codes.append(world.zdb.start())):
        with unreadable(world, "index/more/i2"):
            waits(world)
            began = time.monotonic()
            world.daemon.send_signal(signal.SIGTERM)
            world.until(lambda: world.daemon.announced()[-1].startswith("draining"), "no drain")
            world.daemon.send_signal(signal.SIGTERM)  # zdb runs: nothing else ends the drain
            assert world.daemon.wait() == Exit.TEMPFAIL
            assert time.monotonic() - began < 10
            assert codes == [], "zdb went on without its files"
        world.start()
    assert codes == [0]
    check(world, stored)


@pytest.mark.parametrize("name", NAMES)
def test_shim_killed(world: World, stored: dict[str, bytes], name: str) -> None:
    """zdb takes that for an answer and goes on: it is refused, and at its next start all is there."""
    world.daemon.expect("held", "zdb waits")
    world.start()
    codes: list[int] = []
    with unreadable(world, f"index/{name}/i2"):
        with beside(lambda: codes.append(world.zdb.start())):
            waits(world)
            world.zdb.calls[-1].process.kill()
        assert codes == [1], "zdb may not serve half a restore"
        world.zdb.finish_hooks()
    assert world.zdb.start() == 0
    check(world, stored)


def test_nobody_answers_namespaces_init(world: World, stored: dict[str, bytes]) -> None:
    """The daemon comes when zdb has loaded blank files: it is refused, and comes back whole."""
    world.daemon.expect("zdb ended without its closing hooks")
    zdb = world.zdb
    with zdb.unheard():
        assert zdb.start() == 0
    world.start()
    assert zdb.hook("ready") == 1
    zdb.kill()
    assert zdb.start() == 0
    check(world, stored)


def test_disk_full(world: World, stored: dict[str, bytes]) -> None:
    """zdb waits, the reason is said, and with room again the restore goes on by itself."""
    world.daemon.expect("zdb waits")
    world.daemon.data.rmdir()
    with disk.small_disk(world.daemon.data, size_kib=512) as small:
        ballast = disk.fill(small, leave_kib=8)
        world.start()
        codes: list[int] = []
        with beside(lambda: codes.append(world.zdb.start())):
            world.until(
                lambda: "No space left" in (world.daemon.stats()["restore"]["waiting"] or ""),
                "no word of the disk",
            )
            assert not list(world.daemon.index.glob("more/i0"))
            ballast.unlink()
        assert codes == [0]
        check(world, stored)


def test_zdb_killed(world: World, stored: dict[str, bytes]) -> None:
    """zdb dies in namespaces-init and comes again at once: two surveys do not meet."""
    world.daemon.expect("zdb waits")
    world.start()
    codes: list[int] = []
    with unreadable(world, "index/more/i2"):
        first = world.zdb.start_hook("namespaces-init", str(world.zdb.index), str(world.zdb.data))
        waits(world)
        again = beside(lambda: codes.append(world.zdb.start()))
        again.__enter__()
        time.sleep(0.3)
    again.__exit__(None, None, None)
    assert codes == [0]
    assert first.process.wait(30) == 0
    check(world, stored)
