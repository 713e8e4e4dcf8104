"""Backends that go and come back, also around a start of zstor: every byte ends stored."""

from __future__ import annotations

import time

import pytest

from tests.docker.backends import BACKENDS
from tests.docker.world import MIB, World


@pytest.mark.parametrize("count", [1, BACKENDS], ids=["one", "all"])
def test_away_and_back(world: World, count: int) -> None:
    """Writes go on meanwhile."""
    qsfs, backends, content = world.qsfs.start(), world.backends, world.content
    content.put(qsfs, "before", 6 * MIB)
    for number in range(count):
        backends.stop_backend(number)
    for number in range(4):
        content.put(qsfs, f"meanwhile{number}", 6 * MIB)
    time.sleep(3)
    for number in range(count):
        backends.start_backend(number)
    content.put(qsfs, "after", 6 * MIB)
    qsfs.idle(120)
    world.whole()


@pytest.mark.parametrize("count", [1, 2, BACKENDS], ids=["one", "two", "all"])
def test_away_while_zstor_starts(world: World, count: int) -> None:
    """zstor would be blind to them for good: it is started late, or started again."""
    qsfs = world.qsfs = world.other("-e", "QSFS_BACKENDS_WAIT_S=4").start()
    backends, content = world.backends, world.content
    content.put(qsfs, "before", 6 * MIB)
    qsfs.idle()
    for number in range(count):
        backends.stop_backend(number)
    qsfs.kill_service("zstor ")
    qsfs.until_log("waiting for backends")
    content.put(qsfs, "meanwhile", 20 * MIB)
    if count < BACKENDS - 1:
        qsfs.until_log(f"started without {count} backends")
    for number in range(count):
        backends.start_backend(number)
    content.put(qsfs, "after", 6 * MIB)
    qsfs.idle(120)
    world.whole()


def test_away_while_the_container_starts(world: World) -> None:
    """With its files on the volume it mounts all the same, and stores later."""
    qsfs, backends, content = world.qsfs.start(), world.backends, world.content
    content.put(qsfs, "before", 6 * MIB)
    assert qsfs.stop() == 0
    backends.stop_all()
    qsfs.start()
    assert qsfs.hashes() == content.expected
    content.put(qsfs, "meanwhile", 20 * MIB)
    backends.start_all()
    qsfs.idle(120)
    world.whole()


def test_one_that_turns_zstor_away(world: World) -> None:
    """It is warned of, and the rest is enough to read; with it corrected all is stored."""
    qsfs, backends, content = world.qsfs.start(), world.backends, world.content
    content.put(qsfs, "before", 6 * MIB)
    assert qsfs.stop() == 0
    good = backends.config.read_text()
    backends.config.write_text(good.replace('namespace = "data"', 'namespace = "lost"', 1))
    qsfs.start()
    qsfs.until_log("warning: [[groups.backends]] number 1 (127.0.0.1:")
    assert qsfs.hashes() == content.expected
    qsfs.kill()
    backends.config.write_text(good)
    qsfs.start()
    content.put(qsfs, "after", 6 * MIB)
    qsfs.idle(120)
    world.whole()
