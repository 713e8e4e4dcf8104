"""Each program of the container killed while files are written: nothing that was written is lost."""

from __future__ import annotations

import pytest

from hookd.errors import Exit
from tests.docker.container import docker
from tests.docker.world import MIB, World


@pytest.mark.parametrize("program", ["zstor", "hookd"])
def test_twice_in_the_writes(world: World, program: str) -> None:
    """zstor: stores that it was in the midst of are done again. hookd: its hooks spool, the next hookd
    takes the spool; zdb and the mount go on.
    """
    qsfs = world.qsfs.start()
    for number in range(12):
        world.content.put(qsfs, f"f{number}", 6 * MIB)
        if number in (3, 7):
            if program == "zstor":
                qsfs.kill_service("zstor ")
            else:
                qsfs.kill_hookd()
                qsfs.until_log("hookd is ready", times=2 if number == 3 else 3)
    if program == "zstor":
        qsfs.idle()
    world.whole()


def test_zdbfs_just_before_the_stop(world: World) -> None:
    """What it had in memory is lost, and zinit has not started it again: the stop does not say 0."""
    qsfs = world.qsfs.start()
    world.put(1)
    qsfs.run("hookd checkpoint")
    qsfs.kill_service("zdbfs ")
    qsfs.until_log("zdbfs has died (SIGKILL): what it held")
    assert qsfs.stop() == Exit.TEMPFAIL
    assert "may be missing or incomplete" in qsfs.log()
    assert "drained: nothing is left" in qsfs.log()
    assert world.again().stop() == 0


def test_hookd_just_before_the_stop(world: World) -> None:
    """zinit would take it for ended, and end without a drain."""
    qsfs = world.qsfs.start()
    world.put(4)
    qsfs.kill_hookd()
    assert qsfs.stop() == 0
    assert "drained: nothing is left" in qsfs.log()
    world.again()


@pytest.mark.parametrize("program", ["zdb", "zdbfs"])
def test_what_is_written_to(world: World, program: str) -> None:
    """zdb: zinit starts it again, and zdbfs with it: the old one would go on with ids that zdb refuses.
    zdbfs: its dead mount is cleared and made again.
    """
    qsfs = world.qsfs.start()
    world.put()
    qsfs.run("hookd checkpoint")  # what zdbfs has in memory would be lost
    qsfs.kill_service(f"{program} ")
    if program == "zdb":
        qsfs.until_log("zdb has died: zdbfs is started again")
    else:
        with pytest.raises(OSError, match="/mnt/between"):
            qsfs.write("/mnt/between", b"not into the folder below")
    qsfs.until_mounted()
    world.put(1, "after")
    world.whole()


@pytest.mark.parametrize("options", [(), ("--init",)], ids=["PID 1", "below tini"])
def test_zinit(world: World, options: tuple[str, ...]) -> None:
    """Its services outlive it, and are stopped in order: nothing is lost, the exit code tells it."""
    qsfs = world.qsfs = world.other(*options).start()
    world.put()
    qsfs.kill_service("zinit ")
    code, log = qsfs.wait(), qsfs.log()
    assert code == Exit.SOFTWARE, log
    assert "zinit has ended (-9); its services are stopped" in log
    assert "drained: nothing is left" in log
    assert "was killed" not in log
    assert world.again().stop() == 0


def test_a_zinit_that_hangs(world: World) -> None:
    """It is given up, after a while, and the stop goes on without it."""
    qsfs = world.qsfs.start()
    world.put()
    qsfs.kill_service("zinit ", "STOP")
    assert qsfs.stop() == 0
    log = qsfs.log()
    assert "zinit has not answered for 30 s: killed" in log
    assert "drained: nothing is left" in log
    world.again()


def test_zdb_that_does_not_end(world: World) -> None:
    """zdbfs cannot write out, zdb cannot close: both are named; what is on /data is stored next time."""
    qsfs = world.qsfs = world.other("-e", "QSFS_STOP_LIMIT_S=2").start()
    world.put(1)
    qsfs.run("hookd checkpoint")  # what zdbfs has in memory would be lost
    qsfs.kill_service("zdb ", "STOP")
    assert qsfs.stop() == Exit.TEMPFAIL
    log = qsfs.log()
    assert "may be missing or incomplete" in log
    assert "it is stored after the next start" in log
    assert "nothing is left to store" not in log
    assert world.again().stop() == 0
    world.elsewhere()


def test_zdbfs_that_does_not_end(world: World) -> None:
    """Killed in its flush, with what it held: the stop does not say that all is stored."""
    qsfs = world.qsfs = world.other("-e", "QSFS_STOP_LIMIT_S=2").start()
    world.put(1)
    qsfs.kill_service("zdbfs ", "STOP")
    assert qsfs.stop() == Exit.TEMPFAIL
    log = qsfs.log()
    assert "may be missing or incomplete" in log
    assert "nothing is left to store" not in log
    assert "drained: nothing is left" in log
    assert world.other().start().stop() == 0


def test_zdbfs_that_ends_without_having_written_all(world: World) -> None:
    """zdb refuses what it writes last, and it ends with 0: the stop does not say that all is stored."""
    qsfs = world.qsfs.start()
    world.put(1)
    qsfs.run("hookd checkpoint")
    docker("exec", "-d", qsfs.name, "sh", "-c", "exec 3>/mnt/open; echo held >&3; sleep 600")
    qsfs.until(lambda: qsfs.run("test -s /mnt/open", check=False) == 0, "a file that is open")
    qsfs.run(f"/opt/hookd/bin/python3 -c '{WORM}'")
    assert qsfs.stop() == Exit.TEMPFAIL
    log = qsfs.log()
    assert "zdbfs could not write all it held to zdb (it said" in log
    assert "was killed" not in log
    assert "nothing is left to store" not in log
    assert "drained: nothing is left" in log
    assert qsfs.unnamed() == []


WORM = """
import socket
zdb = socket.socket(socket.AF_UNIX)
zdb.connect("/run/qsfs/zdb.sock")
words = b"NSSET", b"zdbfs-meta", b"worm", b"1"
zdb.sendall(b"*4\\r\\n" + b"".join(b"$%d\\r\\n%b\\r\\n" % (len(word), word) for word in words))
assert zdb.recv(100) == b"+OK\\r\\n"
"""
"""Has zdb refuse what changes an inode."""


def test_zinit_in_the_drain(world: World) -> None:
    """hookd was told to stop, and is not told again, which would mean "now": it drains to its end."""
    qsfs = world.qsfs.start()
    world.backends.stop_all()
    world.put()
    qsfs.signal()
    qsfs.until_log("draining:")
    qsfs.kill_service("zinit ")
    world.backends.start_all()
    assert qsfs.wait() == 0
    assert "drained: nothing is left" in qsfs.log()
    world.elsewhere()
