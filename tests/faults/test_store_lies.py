"""A zstor that refuses, hangs, is late, lies or dies, under a zdb that goes on writing.

zdb is answered as ever, `stats` says what is wrong, nothing that was promised is lost, no file goes
back, and once zstor behaves everything is stored. The store is the fake zstor in a process of its
own; what it holds is mirrored into the folder that `World` looks at.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import REPOSITORY
from tests.fakes.zdb import Call
from tests.fakes.zstor import Mode
from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]

TIMEOUT_S = 1
"""What `store.timeout_s` allows at least."""

OWN = "index/.hookd-"
"""What hookd keeps there for itself begins so."""

LOUD = (
    "store is down",
    "store is back",
    "will retry",
    "quarantined",
    "alarm",
)


class Zstor:
    """The fake in its own process; the objects it holds survive it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "zstor.toml"
        self._folder = folder
        self._socket = folder / "zstor.sock"
        self._control = folder / "control"
        self._objects = folder / "objects"
        self._process: subprocess.Popen[bytes] | None = None
        self.config.write_text(f'socket = "{self._socket}"\n')

    def start(self) -> None:
        """Until it listens."""
        command = [sys.executable, "-m", "tests.fakes.zstor", str(self._socket)]
        command += ["--state", str(self._objects), "--control", str(self._control)]
        self._process = subprocess.Popen(command, cwd=REPOSITORY)
        while not self._socket.exists():
            assert self._process.poll() is None
            time.sleep(0.01)

    def behave(self, mode: Mode, argument: object = "") -> None:
        """From the next request on, and for one that hangs now."""
        fresh = self._control.with_suffix(".new")
        fresh.write_text(f"{mode} {argument}")
        fresh.rename(self._control)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._socket.unlink(missing_ok=True)

    def objects(self) -> Iterator[tuple[Path, bytes]]:
        """(path of the live file, content) of everything it holds."""
        for path in self._objects.glob("*.object"):
            with contextlib.suppress(FileNotFoundError):
                head, _, content = path.read_bytes().partition(b"\n")
                yield Path(json.loads(head)["key"]), content


class Mirror(threading.Thread):
    """Keeps a folder like what zstor holds, file by file."""

    def __init__(self, zstor: Zstor, world: World) -> None:
        super().__init__(name="mirror", daemon=True)
        self._zstor = zstor
        self._world = world
        self._ended = threading.Event()
        self._lock = threading.Lock()
        (world.daemon.store / ".hookd" / "tmp").mkdir(parents=True)

    def run(self) -> None:
        while not self._ended.wait(0.01):
            self.copy()

    def end(self) -> None:
        """Copy once more, and stop."""
        self._ended.set()
        self.join()
        self.copy()

    def copy(self) -> None:
        """What has changed since."""
        with self._lock:
            for live, content in self._zstor.objects():
                name = str(live.relative_to(self._world.daemon.folder))
                if not name.startswith(OWN) and self._world.stored(name) != content:
                    place = self._world.daemon.store / name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    fresh = self._world.daemon.store / ".hookd" / "fresh"
                    fresh.write_bytes(content)
                    os.rename(fresh, place)


@pytest.fixture
def zstor(world: World) -> Iterator[Zstor]:
    """One that works, and a daemon's configuration for it."""
    made = Zstor(world.daemon.folder)
    made.start()
    world.daemon.configure(
        store__kind="zstor",
        store__directory__path=None,
        store__zstor__config=str(made.config),
        store__timeout_s=TIMEOUT_S,
    )
    yield made
    made.kill()


@pytest.fixture
def mirror(zstor: Zstor, world: World) -> Iterator[Mirror]:
    made = Mirror(zstor, world)
    made.start()
    yield made
    made.end()


def begin(world: World) -> None:
    """A zdb with something stored already."""
    world.start()
    assert world.zdb.start() == 0
    work(world)
    world.until_stored("data/default/d0", "data/default/d1")


def work(world: World) -> list[Call]:
    """Two data files become full; the hooks that were called meanwhile, all ended."""
    before = len(world.zdb.calls)
    for _ in range(2):
        world.zdb.churn("default", 6)
        world.zdb.rotate("default")
    world.zdb.update("default")
    return world.zdb.finish_hooks()[before:]


def end(world: World, mirror: Mirror) -> None:
    """zdb stops, the daemon drains."""
    world.zdb.stop()
    world.drain()
    mirror.copy()
    (world.staging / ".hookd-canary").unlink(missing_ok=True)
    world.check_end()


@pytest.mark.parametrize(
    ("mode", "argument", "error_class"),
    [
        (Mode.DOWN, "", "unreachable"),
        (Mode.NOT_WRITABLE, "", "unreachable"),
        (Mode.BLIND, "", "unreachable"),
        (Mode.CLOSE, "", "unreachable"),
        (Mode.HANG, "", "unreachable"),
        (Mode.LATE, 3 * TIMEOUT_S, "unreachable"),
        (Mode.LIES, "", "checksum"),
        (Mode.WRONG_CHECKSUM, "", "checksum"),
        (Mode.REFUSE, "a text that nobody has seen before", "temporary"),
        (Mode.REFUSE, "Could not load file metadata: no such file", "permanent"),
    ],
)
def test_misbehaves(
    world: World, zstor: Zstor, mirror: Mirror, mode: Mode, argument: object, error_class: str
) -> None:
    """Also over a kill -9 of the daemon in the middle of it."""
    world.daemon.expect(*LOUD)
    begin(world)
    zstor.behave(mode, argument)
    assert {call.code for call in work(world)} == {0}
    stats = world.daemon.until(lambda s: error_class in s["errors"])
    assert stats["queue"]["files"] >= 2
    assert (stats["store"]["state"] == "down") == (error_class == "unreachable")
    world.daemon.kill()
    mirror.copy()
    world.check_promises()
    world.start()
    assert {call.code for call in work(world)} == {0}
    zstor.behave(Mode.WELL)
    world.daemon.until(lambda s: s["store"]["state"] != "down")
    world.daemon.ask("retry all")
    end(world, mirror)


def test_killed_and_started_again(world: World, zstor: Zstor, mirror: Mirror) -> None:
    """It dies in the middle of its work, each time, and what it did not answer for comes again."""
    world.daemon.expect(*LOUD)
    begin(world)
    for _ in range(3):
        zstor.behave(Mode.LATE, 0.05)
        work(world)
        zstor.kill()
        world.daemon.until(lambda s: s["store"]["state"] == "down")
        zstor.start()
        zstor.behave(Mode.WELL)
        world.daemon.until(lambda s: s["store"]["state"] == "up")
    end(world, mirror)


def test_changes_its_mind(world: World, zstor: Zstor, mirror: Mirror) -> None:
    """One mood after the other, each for a moment, in a drain as well."""
    world.daemon.expect(*LOUD)
    world.daemon.expect("the manifest is gone from the store, writing it anew")
    begin(world)
    moods = [mode for mode in Mode if mode not in (Mode.WELL, Mode.LATE, Mode.REFUSE)]
    for mode in moods:
        zstor.behave(mode)
        work(world)
        time.sleep(0.1)
    # not blank: a store with another checksum seems to hold more, and a person has to decide
    world.zdb.churn("default", 3)
    world.zdb.stop()
    world.zdb.finish_hooks()
    world.daemon.send_signal()
    for mode in moods:
        zstor.behave(mode)
        time.sleep(0.2)
    assert world.daemon.running
    zstor.behave(Mode.WELL)
    assert world.daemon.wait() == 0
    mirror.copy()
    (world.staging / ".hookd-canary").unlink(missing_ok=True)
    world.check_end()
