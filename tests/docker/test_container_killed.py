"""The container itself killed, its volume lost or full, a second one beside it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.docker.container import Container, Content, detach
from tests.docker.world import MIB, World, mounted

DISK_BYTES = 320 * MIB


def test_killed_in_a_drain(world: World) -> None:
    """The next start on the volume says what is left, and finishes it."""
    qsfs = world.qsfs.start()
    world.put(1, "stored")
    qsfs.idle()
    world.backends.stop_all()
    world.put(5)
    qsfs.signal()
    qsfs.until_log("draining:")
    qsfs.kill()
    world.backends.start_all()

    again = world.other().start()
    assert "were left by the last stop; they are stored now" in again.log()
    assert again.hashes() == world.content.expected
    again.idle()
    assert again.stop() == 0
    assert "were left" not in world.again().log()


def test_a_stop_without_the_time_for_it(world: World) -> None:
    """docker's time is over, and docker kills: the work is kept, and done after the next start."""
    qsfs = world.qsfs.start()
    world.backends.stop_all()
    world.put()
    assert qsfs.stop(4) == 137
    world.backends.start_all()
    finishes(world)


@pytest.mark.parametrize("way", ["second signal", "drain.timeout_s"])
def test_given_up(world: World, way: str) -> None:
    """75: something is left, on the volume."""
    options = ["-e", "HOOKD_DRAIN__TIMEOUT_S=2"] if way == "drain.timeout_s" else []
    qsfs = world.qsfs = world.other(*options).start()
    world.put(1, "stored")
    world.backends.stop_all()
    world.content.put(qsfs, "left", 20 * MIB)
    qsfs.signal()
    if way == "second signal":
        qsfs.until_log("draining:")
        qsfs.signal()
    assert qsfs.wait() == Exit.TEMPFAIL
    world.backends.start_all()
    finishes(world)


def finishes(world: World) -> None:
    """Started again, it has every byte, and stores what was left."""
    qsfs = world.qsfs.start()
    assert qsfs.hashes() == world.content.expected
    qsfs.idle()
    assert qsfs.stop() == 0


def test_nobody_takes_its_log(world: World) -> None:
    """A log driver that hangs keeps nobody from writing, nor the stop from its end."""
    unread = "mkfifo /log; exec 3<>/log; exec env --block-signal=TERM,INT qsfs-init >&3 2>&1"
    qsfs = world.qsfs = world.docker.container(
        "--entrypoint", "sh", *mounted(world.backends, world.volume), command=["-c", unread]
    ).start()
    qsfs.run("timeout 5 cat /dev/zero >/log", check=False)  # until not one more byte goes in
    world.put()
    assert qsfs.stop() == 0
    world.elsewhere()


def test_the_volume_is_lost(world: World) -> None:
    """Started on an empty one, everything is brought back before anything is served."""
    qsfs = world.qsfs.start()
    world.put(5)
    assert qsfs.stop() == 0
    anew = world.elsewhere()
    world.content.put(anew, "after", 6 * MIB)
    assert anew.stop() == 0


def test_a_second_one_on_the_same_grid(world: World) -> None:
    """It never begins a blank file system, and takes over what is stored: the first one stores nothing
    over it, says so, and keeps all that it has on its own volume.
    """
    qsfs = world.qsfs.start()
    world.put()
    assert qsfs.stop() == 0
    qsfs.start()
    second = world.elsewhere()

    theirs = Content()
    theirs.expected.update(world.content.expected)
    theirs.put(second, "second", 20 * MIB)
    world.content.put(qsfs, "first", 20 * MIB)
    qsfs.until_log("fenced", 120)
    assert qsfs.hashes() == world.content.expected
    qsfs.signal()
    qsfs.until_log("draining:")
    qsfs.signal()
    assert qsfs.wait() == Exit.TEMPFAIL
    assert "another frontend" in qsfs.log()

    assert second.stop() == 0
    third = world.other(volume=world.docker.volume()).start()
    assert third.hashes() == theirs.expected


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system for /data."""
    path = tmp_path / "disk"
    path.mkdir(mode=0o700)
    options = f"size={DISK_BYTES},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True)
    yield path
    detach(path)


def fill(disk: Path, leave: int) -> Path:
    """Take all of the disk but `leave` bytes; the file to remove to have it back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > leave:
            file.write(bytes(1 << 16))
    return ballast


def shut(qsfs: Container) -> bool:
    """Whether zdb takes no writes, for the disk is nearly full."""
    return bool(qsfs.stats()["room"]["shut"])


def kept(qsfs: Container, content: Content) -> bool:
    """All that was written is there; beside it there may be the beginning of what was refused."""
    return content.expected.items() <= qsfs.hashes().items()


def test_the_disk_is_full(world: World, disk: Path) -> None:
    """What was written stays readable and right, what is refused is told, and with room it goes on."""
    qsfs, content = world.other(volume=str(disk)).start(), world.content
    content.put(qsfs, "before", 6 * MIB)
    content.put(qsfs, "small", 100_000)
    ballast = fill(disk, 8 * MIB)
    qsfs.until(lambda: shut(qsfs), "zdb is shut")
    with pytest.raises(OSError, match="refused"):
        qsfs.write("/mnt/refused", bytes(24 * MIB))
    assert kept(qsfs, content)
    assert "the disk is nearly full" in qsfs.log()
    assert "the disk" in qsfs.output("hookd health")
    assert "make room" in qsfs.output("hookd health")
    assert qsfs.stats()["room"]["problem"] is None
    qsfs.idle()  # what was written before is stored all the same

    ballast.unlink()
    qsfs.until(lambda: not shut(qsfs), "zdb takes writes again")
    content.put(qsfs, "after", 24 * MIB)
    content.put(qsfs, "refused", 24 * MIB)
    assert qsfs.hashes() == content.expected
    assert "room" not in qsfs.output("hookd health")
    assert qsfs.stop() == 0
    world.again(str(disk))


def test_the_disk_fills_by_what_is_written(world: World, disk: Path) -> None:
    """Written to until it is refused, and stopped: what zdbfs holds goes to what is kept free.

    If zdb is shut in the midst of a write, zdbfs keeps a block that has no id: it ends its last flush
    there ("blockid mismatch"), and the stop must not say 0. Between two writes it has none.
    """
    qsfs, content = world.other(volume=str(disk)).start(), world.content
    number = 0
    with contextlib.suppress(OSError):
        for number in range(64):
            content.put(qsfs, f"f{number}", 6 * MIB)
    assert 5 <= number < 63
    assert shut(qsfs)
    assert kept(qsfs, content)
    code, log = qsfs.stop(), qsfs.log()
    cut_short = "cache flush: blockid mismatch" in log
    assert code == (Exit.TEMPFAIL if cut_short else 0)
    assert ("zdbfs could not write all it held to zdb" in log) == cut_short
    assert "drained: nothing is left" in log
    again = world.other(volume=world.docker.volume()).start()
    assert kept(again, content)
    content.put(again, "more", 24 * MIB)
    assert kept(again, content)
