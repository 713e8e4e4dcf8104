"""Beside the mount: while rclone is replaced no write succeeds that would not be uploaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hookd.errors import UserError
from hookd.mount import guard
from hookd.mount.ground import Ground
from tests.mount.rig import HookdMount, Server

TASK = """if True:
    import ctypes, os, signal, sys, time
    folder = sys.argv[1]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x20000) == 0
    assert libc.mount(b"none", b"/", None, (1 << 14) | (1 << 19), None) == 0
    ends = []
    signal.signal(signal.SIGTERM, lambda *_: ends.append(1))
    print("up", flush=True)
    number = 0
    while not ends:
        name = f"w{number}"
        try:
            with open(f"{folder}/{name}", "w") as file:
                file.write(f"content of {name}")
            print(name, flush=True)
        except OSError as error:
            print("error", error.errno, flush=True)
        number += 1
        time.sleep(0.004)
"""
"""Another container: a mount namespace of its own. It writes file after file and says which went well."""


class Task:
    """A sibling that writes without asking what is mounted."""

    def __init__(self, folder: Path) -> None:
        self.said = folder.parents[1] / "task.out"
        with self.said.open("wb") as out:
            self.process = subprocess.Popen([sys.executable, "-c", TASK, str(folder)], stdout=out)
        while not self.said.read_text().startswith("up"):
            time.sleep(0.01)

    def end(self) -> tuple[dict[str, bytes], set[str]]:
        """Stop it: (the files whose close succeeded, the errors that it got)."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        lines = self.said.read_text().split("\n")[1:-1]
        names = [line for line in lines if not line.startswith("error")]
        return (
            {name: f"content of {name}".encode() for name in names},
            {line for line in lines if line.startswith("error")},
        )


@pytest.fixture
def shared(mount: HookdMount) -> Any:
    """LOCAL_PATH on a shared mount, as a container with rshared has it."""
    around = mount.folder / "around"
    mount.local = around / "local"
    mount.variables["LOCAL_PATH"] = str(mount.local)
    mount.local.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(around), str(around)], check=True)
    subprocess.run(["mount", "--make-rshared", str(around)], check=True)
    yield mount
    mount.close()
    subprocess.run(["umount", "-l", str(around)], check=True)


def ready_after(remounts: int, stats: dict[str, Any]) -> bool:
    """Whether it has come back that often."""
    return bool(stats["ready"] and stats["mount"]["remounts"] == remounts)


@pytest.mark.parametrize("subdirectory", [None, "data"])
def test_writes_while_rclone_is_replaced(
    shared: HookdMount, server: Server, subdirectory: str | None
) -> None:
    """Every write that succeeded is on the remote, those in between got EROFS; nothing is left."""
    mount = shared
    mount.settings |= {"write_back_s": 0.2, "subdirectory": subdirectory}
    mount.start()
    assert mount.layers() == ["guard", "fuse"]
    task = Task(mount.point)
    for number in range(3):
        time.sleep(0.3)
        if number == 2:  # the remote away: nothing is mounted for long
            server.freeze(True)
        mount.kill_rclone()
        mount.until(lambda: not mount.mounted())
        if number == 2:
            time.sleep(1)
            server.freeze(False)
        mount.until_stats(partial(ready_after, number + 1))
    time.sleep(0.3)
    written, errors = task.end()
    assert f"error {30}" in errors  # EROFS
    assert mount.stop() == 0
    found = server.files()
    assert {name for name, content in written.items() if found.get(name) != content} == set()
    assert mount.layers() == []
    assert os.listdir(mount.local) == []


def test_a_guard_that_a_kill_left(shared: HookdMount, server: Server) -> None:
    """Both killed, a task goes on: the next start takes the guard over, and lifts it at the end."""
    mount = shared
    mount.settings |= {"write_back_s": 3600, "subdirectory": "data"}
    mount.start()
    made = mount.write(30)
    task = Task(mount.point)
    time.sleep(0.2)
    mount.kill()
    mount.kill_rclone()
    mount.start()
    assert mount.layers() == ["guard", "fuse"]
    time.sleep(0.2)
    written, _ = task.end()
    assert mount.stop() == 0
    found = server.files()
    assert {n for n, content in (made | written).items() if found.get(n) != content} == set()
    assert mount.layers() == []
    assert os.listdir(mount.local) == []


def test_a_task_that_does_not_get_the_mount(shared: HookdMount, server: Server) -> None:
    """A private bind: what it writes beside the mount is named, 75, and no reason not to start again."""
    mount = shared
    mount.settings["write_back_s"] = 0.2
    mount.start()
    under = guard.open_under(mount.local)
    assert under is not None
    made = mount.write(2)
    with open(os.open("stray", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=under), "w") as file:
        file.write("beside")
    os.close(under)
    assert mount.stop() == 75
    assert mount.lines()[-1] == "hookd: left: 'stray'"
    assert server.files() == made
    mount.start()  # it is known that it came while the folder was ours
    assert "'stray'" in " ".join(mount.stats()["notices"])
    mount.kill()
    mount.kill_rclone()
    mount.start()
    assert mount.stop() == 75
    (mount.local / "stray").unlink()
    mount.start()
    assert mount.stop() == 0
    (mount.local / "mine").write_text("from before the next start")
    assert mount.refused()[0] == 78


def test_the_mount_of_another_is_not_covered(mount: HookdMount, server: Server) -> None:
    """One that came up since the place was looked at: refused, and no guard is laid on top of it."""
    mount.start()
    with pytest.raises(UserError, match="another hookd mount"):
        Ground(mount.point, mount.folder / "ground.json").take(may_hide=False)
    assert mount.layers() == ["guard", "fuse"]
    assert not (mount.folder / "ground.json").exists()
    made = mount.write(1)
    assert mount.stop() == 0
    assert server.files() == made
