"""Watching: what another mounter mends is mended, what only the remote can mend is told."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.mount.rig import HookdMount, Server, rclone

SIBLING = """if True:
    import ctypes, os, sys, time
    libc = ctypes.CDLL(None, use_errno=True)
    CLONE_NEWNS, MS_REC, MS_SLAVE = 0x20000, 1 << 14, 1 << 19
    assert libc.unshare(CLONE_NEWNS) == 0
    assert libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None) == 0
    print("up", flush=True)
    for line in sys.stdin:
        try:
            print(open(sys.argv[1]).read().strip(), flush=True)
        except OSError as error:
            print(type(error).__name__, error.errno, flush=True)
"""
"""Another container with an rslave bind: a mount namespace of its own that receives mounts."""


class Sibling:
    """Reads one file whenever it is asked."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SIBLING, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def reads(self) -> str:
        """What it reads now."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def shared(folder: Path) -> None:
    """A bind mount of the folder on itself that passes mounts on, as `rshared` does."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "--make-rshared", str(folder)], check=True)


def test_rclone_killed(mount: HookdMount, server: Server) -> None:
    """kill -9 of rclone: mounted again, siblings from before and after read without a restart."""
    mount.settings |= {"subdirectory": "data", "write_back_s": 3600}
    mount.local.mkdir()
    shared(mount.local)
    siblings = []
    try:
        siblings.append(Sibling(mount.point / "f0"))
        mount.start()
        made = mount.write(10)
        (mount.point / "f0").write_bytes(b"content")
        made["f0"] = b"content"
        assert siblings[0].reads() == "content"
        mount.kill_rclone()
        siblings.append(Sibling(mount.point / "f0"))
        mount.until_stats(lambda s: s["ready"] and s["mount"]["remounts"] == 1)
        assert [each.reads() for each in siblings] == ["content", "content"]
        assert mount.stop() == 0
        assert server.files() == made
        assert siblings[0].reads().startswith("FileNotFoundError")
    finally:
        for each in siblings:
            each.close()
        mount.close()
        subprocess.run(["umount", "-l", str(mount.local)], check=True)


def _ready_after(remounts: int, stats: dict[str, Any]) -> bool:
    return bool(stats["ready"] and stats["mount"]["remounts"] == remounts)


@pytest.mark.real
def test_killed_again_and_again(mount: HookdMount, server: Server) -> None:
    """Three times in a row."""
    mount.settings["write_back_s"] = 3600
    mount.start()
    made: dict[str, bytes] = {}
    for number in range(3):
        made |= mount.write(5, prefix=f"round{number}-")
        mount.kill_rclone()
        mount.until_stats(partial(_ready_after, number + 1))
    assert mount.stop() == 0
    assert server.files() == made


@pytest.mark.real
def test_a_mounter_that_does_not_come_up(mount: HookdMount, server: Server) -> None:
    """Tried again and again, failing meanwhile and said so at once; then all is as it was."""
    program = mount.folder / "rclone"
    real = rclone()
    assert real is not None
    copy = mount.folder / "away"
    shutil.copy(real, program)
    mount.settings |= {"rclone": str(program), "write_back_s": 3600}
    mount.start()
    made = mount.write(3)
    program.rename(copy)
    mount.kill_rclone()
    mount.until(lambda: mount.log.read_text().count("remount failed") >= 2)
    began = time.monotonic()
    assert mount.ask("health").startswith("failing\n")
    assert mount.run("status").returncode != 0
    assert time.monotonic() - began < 5
    assert not mount.stats()["ready"]
    copy.rename(program)
    mount.until_stats(lambda s: s["ready"], within_s=40)
    assert mount.ask("health").startswith("ok")
    assert (mount.point / "f0").read_bytes() == made["f0"]
    assert mount.stop() == 0
    assert server.files() == made


@pytest.mark.real
def test_the_cache_is_bounded(mount: HookdMount, server: Server) -> None:
    """What is uploaded leaves the cache beyond its size; what is not never does."""
    mount.settings |= {
        "cache_max_bytes": "1MiB",
        "write_back_s": 0.2,
        "flags": ["--vfs-cache-poll-interval=500ms"],
    }
    mount.start()
    made = mount.write(6, size=500_000)
    mount.until(lambda: server.files() == made)
    mount.until_stats(lambda s: not s["dirty"]["files"] and s["cache"]["bytes"] <= 1 << 20)
    server.stop()
    made |= mount.write(6, size=500_000, prefix="kept")
    mount.until_stats(lambda s: s["dirty"]["files"] == 6, within_s=60)
    time.sleep(1.5)  # three looks of rclone's
    assert mount.stats()["cache"]["bytes"] >= 6 * 500_000
    server.start()
    assert mount.stop() == 0
    assert server.files() == made


@pytest.mark.real
def test_a_hanging_rclone(mount: HookdMount, server: Server) -> None:
    """Stopped in its tracks: told as failing by a look that does not hang, then replaced."""
    mount.start()
    made = mount.write(3)
    pid = mount.rclone_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    # At first it may be the listing alone: the kernel answers a stat from its cache for a second. A look
    # at a mute mounter takes up to 12 s.
    told = ("hangs", "replaced")
    mount.until_stats(lambda s: any(each in str(s["health"]) for each in told), within_s=40)
    began = time.monotonic()
    assert mount.ask("health").startswith("failing\n")
    assert time.monotonic() - began < 1
    mount.until_stats(lambda s: s["ready"] and s["mount"]["remounts"] == 1, within_s=20)
    assert (mount.point / "f0").read_bytes() == made["f0"]
    assert mount.stop() == 0
    assert server.files() == made


@pytest.mark.real
def test_unmounted_by_somebody(mount: HookdMount) -> None:
    """It comes back."""
    mount.start()
    subprocess.run(["umount", "-l", str(mount.point)], check=True)
    mount.until_stats(lambda s: s["mount"]["remounts"] == 1 and s["ready"])
    assert mount.mounted()
    assert mount.stop() == 0


@pytest.mark.real
def test_password_changed_while_mounted(mount: HookdMount, server: Server) -> None:
    """Failing, with the reason; writes are kept; the drain names them; the new password takes them up."""
    mount.settings["drain_timeout_s"] = 1
    mount.start()
    server.change_password("a new one")
    mount.until_stats(lambda s: s["remote"]["refused"])
    assert mount.ask("health").startswith("failing\n")
    assert mount.run("health").returncode == 1
    made = mount.write(3)
    assert mount.stop() == 75
    mount.variables["RCLONE_CONFIG_RSHARE_PASS"] = server.password
    mount.start()
    assert server.files() == made
    assert mount.stop() == 0


@pytest.mark.real
def test_remote_away_during_writes(mount: HookdMount, server: Server) -> None:
    """No write fails, tries are seen and make it degraded, all arrive when it is back."""
    # else rclone tries a call ten times, with pauses of 2 s that all calls share: minutes for five files
    mount.settings["flags"] = ["--low-level-retries=1"]
    mount.start()
    server.stop()
    made = mount.write(5)
    mount.until_stats(lambda s: s["remote"]["error"] and s["dirty"]["files"] == 5)
    mount.until_stats(lambda s: s["uploads"]["most_tries"] >= 1)
    assert "is not on the remote" not in mount.log.read_text()
    server.start()
    assert mount.stop() == 0
    assert server.files() == made


@pytest.mark.real
def test_a_full_cache_disk(mount: HookdMount, server: Server) -> None:
    """The writer gets an error, what was accepted before is not lost, and it is told."""
    mount.cache.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "none", str(mount.cache)], check=True
    )
    try:
        mount.settings |= {"cache_min_free_bytes": "1MiB", "write_back_s": 3600}
        mount.start()
        made = mount.write(3)
        wrote, told = 0, 0
        try:
            with (mount.point / "big").open("wb", buffering=0) as file:
                for _ in range(20):
                    wrote += file.write(os.urandom(1 << 20))
        except OSError as error:
            told = error.errno or 0
        # rclone has no word for ENOSPC towards FUSE (cmd/mount translateError): it comes as EIO.
        assert told in (errno.ENOSPC, errno.EIO)
        small = {}
        for number in range(50):  # some fit into what is left, the others are told
            name, content = f"small{number}", os.urandom(2000)
            try:
                (mount.point / name).write_bytes(content)
            except OSError:
                continue
            small[name] = content
        mount.until_stats(lambda s: s["cache"]["out_of_space"])
        assert "disk is full" in mount.ask("health")
        assert mount.stop() == 0
        found = server.files()
        kept = made | small
        assert {name: found.get(name) for name in kept} == kept
        assert len(found["big"]) >= wrote
    finally:
        mount.close()
        subprocess.run(["umount", "-l", str(mount.cache)], check=True)
