"""The mount shared with the host: there while the container is, gone or cleared afterwards."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.docker.backends import Backends
from tests.docker.container import Container, Content, Docker, detach
from tests.docker.world import mounted

MIB = 1 << 20


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder on the host whose mounts propagate."""
    path = tmp_path / "shared"
    path.mkdir()
    # what systemd does for all of / at boot
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    subprocess.run(["mount", "--make-shared", str(path)], check=True)
    yield path
    for _ in range(3):
        detach(path / "fs")
        detach(path)


def bind(shared: Path) -> list[str]:
    return ["--mount", f"type=bind,source={shared},target=/mnt,bind-propagation=rshared"]


def on_the_host(folder: Path) -> dict[str, str]:
    return {f"./{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def is_mounted(path: Path) -> bool:
    return f" {path} fuse" in Path("/proc/mounts").read_text()


def guards() -> int:
    """Read-only folders of a container that the host has."""
    return Path("/proc/mounts").read_text().count("qsfs-guard ")


def write_until_there(folder: Path, within_s: float = 60) -> tuple[dict[str, str], int]:
    """Files written from the host as fast as it goes, for some seconds past the first that was taken:
    those that were taken, and how many were refused.
    """
    taken: dict[str, str] = {}
    refused = 0
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        name, content = f"f{len(taken)}", os.urandom(1000)
        try:
            (folder / name).write_bytes(content)
        except OSError:
            refused += 1
            time.sleep(0.005)
            continue
        if not taken:
            ends = time.monotonic() + 5
        taken[f"./{name}"] = hashlib.sha256(content).hexdigest()
    return taken, refused


def test_at_the_mount_itself(docker: Docker, backends: Backends, volume: str, shared: Path) -> None:
    """The host sees the files at the folder that it gave; a stop leaves it as it was."""
    qsfs = docker.container(*bind(shared), *mounted(backends, volume)).start()
    content = Content()
    content.put(qsfs, "inside", 5 * MIB)
    (shared / "outside").write_bytes(b"from the host")
    content.expected["./outside"] = hashlib.sha256(b"from the host").hexdigest()
    assert on_the_host(shared) == content.expected
    assert qsfs.stop() == 0
    assert not is_mounted(shared)
    assert guards() == 0
    assert list(shared.iterdir()) == []
    qsfs.start()
    assert on_the_host(shared) == content.expected
    assert qsfs.stop() == 0


@pytest.mark.parametrize("program", ["zdbfs ", "zdb "])
@pytest.mark.parametrize("mountpoint", ["/mnt/fs", "/mnt"])
def test_writes_from_the_host_while_it_is_replaced(
    docker: Docker,
    backends: Backends,
    volume: str,
    shared: Path,
    mountpoint: str,
    program: str,
) -> None:
    """They fail or are in the file system; none lies in the folder below, hidden by the next mount."""
    text = backends.config.read_text()
    backends.config.write_text(text.replace('"/mnt"', f'"{mountpoint}"'))
    options = [*bind(shared), *mounted(backends, volume)]
    qsfs = docker.container(*options, mountpoint=mountpoint).start()
    folder = shared / "fs" if mountpoint == "/mnt/fs" else shared
    qsfs.run("hookd checkpoint")  # what zdbfs has in memory would be lost
    qsfs.kill_service(program)
    if program == "zdb ":
        qsfs.until_log("zdb has died: zdbfs is started again")
    taken, refused = write_until_there(folder)
    assert taken
    assert refused
    assert on_the_host(folder) == taken
    assert qsfs.stop() == 0
    assert guards() == 0
    assert list(folder.iterdir()) == []
    qsfs.start()
    assert on_the_host(folder) == taken
    assert qsfs.stop() == 0


def test_killed(docker: Docker, backends: Backends, volume: str, shared: Path) -> None:
    """In a folder below the shared one a dead mount on the host stops no start, and is cleared."""
    text = backends.config.read_text()
    backends.config.write_text(text.replace('"/mnt"', '"/mnt/fs"'))
    options = [*bind(shared), *mounted(backends, volume)]
    qsfs = docker.container(*options, mountpoint="/mnt/fs").start()
    content = Content()
    content.put(qsfs, "inside", 5 * MIB)
    qsfs.run("hookd checkpoint")  # what zdbfs has in memory would be lost
    for _ in range(2):
        qsfs.kill()
        with pytest.raises(OSError, match="not connected"):
            (shared / "fs").stat()
        qsfs.start()
        assert on_the_host(shared / "fs") == content.expected
        mounts = Path("/proc/mounts").read_text().count(f" {shared / 'fs'} fuse")
        assert mounts == 1
        assert guards() == 1
    qsfs.kill()
    anew = docker.container(*options, mountpoint="/mnt/fs").start()
    assert on_the_host(shared / "fs") == content.expected
    assert anew.stop() == 0
    assert not is_mounted(shared / "fs")
    assert guards() == 0
    (shared / "fs" / "file").write_bytes(b"the host's own again")


def test_killed_at_the_mount_itself(
    docker: Docker, backends: Backends, volume: str, shared: Path
) -> None:
    """docker cannot start it over the dead mount; one umount on the host, as the start warned, is enough
    for a start, and one more after the stop takes the guard away, as that start says.
    """
    qsfs: Container = docker.container(*bind(shared), *mounted(backends, volume)).start()
    assert "QSFS_MOUNTPOINT=/mnt/fs avoids that" in qsfs.log()
    qsfs.kill()
    subprocess.run(["umount", "-l", str(shared)], check=True)
    qsfs.start()
    assert "still has the read-only guard of a killed container" in qsfs.log()
    (shared / "file").write_bytes(b"seen by both")
    assert qsfs.run("cat /mnt/file") == 0
    assert qsfs.stop() == 0
    assert (guards(), is_mounted(shared)) == (1, False)
    subprocess.run(["umount", str(shared)], check=True)
    qsfs.start()
    assert "still has the read-only guard" not in qsfs.log().partition("stopped;")[2]
    assert qsfs.stop() == 0
    assert guards() == 0


def test_another_one_at_the_same_folder(docker: Docker, tmp_path: Path, shared: Path) -> None:
    """It is refused in one line, and the mount of the first one stays where it is."""
    first, second = Backends(tmp_path / "one"), Backends(tmp_path / "two")
    with first, second:
        for each in (first, second):
            each.config.write_text(each.config.read_text().replace('"/mnt"', '"/mnt/fs"'))
        options = [*bind(shared), *mounted(first, docker.volume())]
        qsfs = docker.container(*options, mountpoint="/mnt/fs").start()
        content = Content()
        content.put(qsfs, "inside", 5 * MIB)
        options = [*bind(shared), *mounted(second, docker.volume())]
        other = docker.container(*options, mountpoint="/mnt/fs").start(mounted=False)
        assert other.wait() == Exit.CONFIG
        assert "/mnt/fs: zdbfs is mounted there and alive" in other.log()
        assert on_the_host(shared / "fs") == content.expected
        content.put(qsfs, "after", 5 * MIB)
        assert qsfs.hashes() == content.expected
        assert qsfs.stop() == 0
        assert (guards(), is_mounted(shared / "fs")) == (0, False)
