"""Each program of the container killed while files are written: nothing that was written is lost."""

from __future__ import annotations

import pytest

from hookd.errors import Exit
from tests.docker.backends import Backends
from tests.docker.conftest import mounted
from tests.docker.container import Container, Content, Docker

MIB = 1 << 20


@pytest.fixture
def content() -> Content:
    return Content()


def whole_elsewhere(
    docker: Docker, qsfs: Container, backends: Backends, volume: str, content: Content
) -> None:
    """A clean stop, and every byte is there in another container."""
    assert qsfs.hashes() == content.expected
    assert qsfs.stop() == 0
    again = docker.container(*mounted(backends, volume)).start()
    assert again.hashes() == content.expected
    assert again.stop() == 0


def test_zstor_twice(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """Stores that it was in the midst of are done again."""
    qsfs.start()
    for number in range(12):
        content.put(qsfs, f"f{number}", 6 * MIB)
        if number in (3, 7):
            qsfs.kill_service("zstor ")
    qsfs.idle()
    whole_elsewhere(docker, qsfs, backends, volume, content)


def test_hookd(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """Its hooks spool, the next hookd takes the spool; zdb and the mount go on."""
    qsfs.start()
    for number in range(12):
        content.put(qsfs, f"f{number}", 6 * MIB)
        if number in (3, 7):
            qsfs.kill_hookd()
            qsfs.until_log("hookd is ready", times=2 if number == 3 else 3)
    whole_elsewhere(docker, qsfs, backends, volume, content)


def test_hookd_just_before_the_stop(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """zinit would take it for ended, and end without a drain."""
    qsfs.start()
    for number in range(4):
        content.put(qsfs, f"f{number}", 6 * MIB)
    qsfs.kill_hookd()
    assert qsfs.stop() == 0
    assert "drained: nothing is left" in qsfs.log()
    again = docker.container(*mounted(backends, volume)).start()
    assert again.hashes() == content.expected


def test_zdb(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """zinit starts it again, and zdbfs with it: the old one would go on with ids that zdb refuses."""
    qsfs.start()
    for number in range(3):
        content.put(qsfs, f"f{number}", 6 * MIB)
    qsfs.run("hookd checkpoint")  # what zdbfs has in memory would be lost
    qsfs.kill_service("zdb ")
    qsfs.until_log("zdb has died: zdbfs is started again")
    qsfs.until_mounted()
    content.put(qsfs, "after", 6 * MIB)
    whole_elsewhere(docker, qsfs, backends, volume, content)


def test_zdbfs(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """Its dead mount is cleared and made again."""
    qsfs.start()
    for number in range(3):
        content.put(qsfs, f"f{number}", 6 * MIB)
    qsfs.run("hookd checkpoint")  # what zdbfs has in memory would be lost
    qsfs.kill_service("zdbfs ")
    with pytest.raises(OSError, match="/mnt/between"):
        qsfs.write("/mnt/between", b"not into the folder below")
    qsfs.until_mounted()
    content.put(qsfs, "after", 6 * MIB)
    whole_elsewhere(docker, qsfs, backends, volume, content)


def test_zinit(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """Its services outlive it, and are stopped in order: nothing is lost, the exit code tells it."""
    qsfs.start()
    for number in range(3):
        content.put(qsfs, f"f{number}", 6 * MIB)
    qsfs.kill_service("zinit ")
    assert qsfs.wait() == Exit.SOFTWARE
    log = qsfs.log()
    assert "zinit has ended (-9); its services are stopped" in log
    assert "drained: nothing is left" in log
    assert "was killed" not in log
    again = docker.container(*mounted(backends, volume)).start()
    assert again.hashes() == content.expected
    assert again.stop() == 0


def test_a_zinit_that_hangs(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """It is given up, after a while, and the stop goes on without it."""
    qsfs.start()
    for number in range(3):
        content.put(qsfs, f"f{number}", 6 * MIB)
    qsfs.kill_service("zinit ", "STOP")
    assert qsfs.stop() == 0
    log = qsfs.log()
    assert "zinit has not answered for 30 s: killed" in log
    assert "drained: nothing is left" in log
    again = docker.container(*mounted(backends, volume)).start()
    assert again.hashes() == content.expected


def test_zdb_that_does_not_end(
    docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """zdbfs cannot write out, zdb cannot close: both are named; what is on /data is stored next time."""
    options = ["-e", "QSFS_STOP_LIMIT_S=2", *mounted(backends, volume)]
    qsfs = docker.container(*options).start()
    content.put(qsfs, "f", 6 * MIB)
    qsfs.run("hookd checkpoint")  # what zdbfs has in memory would be lost
    qsfs.kill_service("zdb ", "STOP")
    assert qsfs.stop() == Exit.TEMPFAIL
    log = qsfs.log()
    assert "may be missing or incomplete" in log
    assert "it is stored after the next start" in log
    assert "nothing is left to store" not in log
    again = docker.container(*mounted(backends, volume)).start()
    assert again.hashes() == content.expected
    assert again.stop() == 0
    elsewhere = docker.container(*mounted(backends, docker.volume())).start()
    assert elsewhere.hashes() == content.expected


def test_zdbfs_that_does_not_end(
    docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """Killed in its flush, with what it held: the stop does not say that all is stored."""
    qsfs = docker.container("-e", "QSFS_STOP_LIMIT_S=2", *mounted(backends, volume)).start()
    content.put(qsfs, "f", 6 * MIB)
    qsfs.kill_service("zdbfs ", "STOP")
    assert qsfs.stop() == Exit.TEMPFAIL
    log = qsfs.log()
    assert "may be missing or incomplete" in log
    assert "nothing is left to store" not in log
    assert "drained: nothing is left" in log
    assert docker.container(*mounted(backends, volume)).start().stop() == 0


def test_zinit_in_the_drain(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """hookd was told to stop, and is not told again, which would mean "now": it drains to its end."""
    qsfs.start()
    backends.stop_all()
    for number in range(3):
        content.put(qsfs, f"f{number}", 6 * MIB)
    qsfs.signal()
    qsfs.until_log("draining:")
    qsfs.kill_service("zinit ")
    backends.start_all()
    assert qsfs.wait() == 0
    assert "drained: nothing is left" in qsfs.log()
    elsewhere = docker.container(*mounted(backends, docker.volume())).start()
    assert elsewhere.hashes() == content.expected
