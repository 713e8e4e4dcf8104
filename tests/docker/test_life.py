"""Start, write, stop, start again: what an admin sees of a container that nothing happens to."""

from __future__ import annotations

import os
import re
import time

from tests.docker.backends import KEY, PASSWORD
from tests.docker.world import MIB, World

START_LIMIT_S = 5.0 if os.getloadavg()[0] < (os.cpu_count() or 1) else 30.0
"""It starts nine programs one after the other: on a machine that is busy this measures the others."""
STOP_LIMIT_S = 3.0
IDLE_LIMIT_KIB = 60 << 10


def test_whole_life(world: World) -> None:
    """Mounted soon, small, stops soon when idle; a stop stores all; another container reads it."""
    qsfs, content = world.qsfs, world.content
    began = time.monotonic()
    qsfs.start()
    took = time.monotonic() - began
    assert took <= START_LIMIT_S, qsfs.log()

    for number in range(6):
        content.put(qsfs, f"file-{number}", 5 * MIB + number)
    content.put(qsfs, "empty", 0)
    qsfs.run("mkdir -p /mnt/folder/deep && echo hello >/mnt/folder/deep/hello")
    content.expected["./folder/deep/hello"] = (
        "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    )
    assert qsfs.hashes() == content.expected
    qsfs.idle()
    rss = int(
        qsfs.output("awk '/VmRSS/ {print $2}' /proc/$(cat /run/hookd/stats.sock.lock)/status")
    )
    assert rss <= IDLE_LIMIT_KIB
    assert qsfs.output("ls /data").split() == ["data", "hookd", "index", "zstor.toml"]
    pids = "1 $(cat /run/hookd/stats.sock.lock)"
    limits = qsfs.output(f"for p in {pids}; do grep 'core file' /proc/$p/limits; done")
    assert [line.split()[4:6] for line in limits.splitlines()] == [["0", "0"]] * 2

    assert qsfs.stop() == 0
    log = qsfs.log()
    assert "drained: nothing is left" in log
    assert "stopped; nothing is left to store" in log
    assert qsfs.unnamed() == []
    assert not any(secret in log for secret in (KEY, PASSWORD))
    _in_order(log)

    again = world.again()
    again.idle()
    began = time.monotonic()
    assert again.stop() == 0
    assert time.monotonic() - began <= STOP_LIMIT_S


def test_writes_after_a_checkpoint_and_a_restart(world: World) -> None:
    """zdb starts on index files without an entry, and would lose what is written next."""
    qsfs, content = world.qsfs.start(), world.content
    content.put(qsfs, "before", 6 * MIB)
    qsfs.run("hookd checkpoint")
    assert qsfs.stop() == 0
    qsfs.start()
    content.put(qsfs, "after", 20 * MIB)
    assert qsfs.hashes() == content.expected
    assert qsfs.stop() == 0
    world.again()


def test_writes_after_a_checkpoint_and_a_deletion(world: World) -> None:
    """Deletions grow data files, but no index; the next checkpoint closes blank ones."""
    qsfs, content = world.qsfs.start(), world.content
    content.put(qsfs, "stays", 6 * MIB)
    for number in range(3):
        qsfs.write("/mnt/goes", os.urandom(6 * MIB))
        qsfs.run("hookd checkpoint")
        qsfs.run("rm /mnt/goes")
        qsfs.run("hookd checkpoint")
        content.put(qsfs, f"after{number}", 6 * MIB)
        qsfs.run("hookd checkpoint")
        assert qsfs.hashes() == content.expected
    assert qsfs.stop() == 0
    world.again()


def test_zdbfs_started_again_before_a_write(world: World) -> None:
    """zdb goes on, and must not be told a second time to begin new files."""
    qsfs, content = world.qsfs.start(), world.content
    content.put(qsfs, "before", 6 * MIB)
    qsfs.run("hookd checkpoint")
    assert qsfs.stop() == 0
    qsfs.start()
    for _ in range(2):
        qsfs.kill_service("zdbfs ")
        qsfs.until(
            lambda: qsfs.run("grep -q ' /mnt fuse' /proc/mounts && ls /mnt", check=False) != 0,
            "gone",
        )
        qsfs.until_mounted()
    content.put(qsfs, "after", 20 * MIB)
    assert qsfs.hashes() == content.expected
    assert qsfs.stop() == 0
    world.again()


def _in_order(log: str) -> None:
    """zdb closes before hookd is told to drain, and zstor ends last."""
    marks = [
        r"stop: zdbfs, zdb, hookd, zstor",
        r"zdb: .*namespaces: flushing: zdbfs-data",
        r"hookd: .* draining ",
        r"hookd: drained: nothing is left",
        r"zstor: .*Shutting down zstor daemon",
    ]
    found = [re.search(mark, log) for mark in marks]
    assert all(found), [mark for mark, hit in zip(marks, found, strict=True) if not hit]
    places = [hit.start() for hit in found if hit]
    # the log of zstor is a file that is looked at now and then: its last lines come late, not early
    assert places == sorted(places)
