"""What is wrong at the start is one line and a non-zero exit, at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hookd.errors import Exit
from tests.docker.backends import KEY, PASSWORD, Backends
from tests.docker.container import Container, Content, Docker
from tests.docker.world import mounted

AT_ONCE_S = 5.0 if os.getloadavg()[0] < (os.cpu_count() or 1) else 30.0
"""On a machine that is busy this measures the others."""


def refused(container: Container, *words: str, code: int) -> None:
    """It ends soon, with this code, and one line that has all of `words` and no secret."""
    began = time.monotonic()
    container.start(mounted=False)
    assert container.wait() == code
    assert time.monotonic() - began <= AT_ONCE_S
    log = container.log()
    assert len(log.splitlines()) == 1, log
    assert all(word in log for word in words), log
    assert KEY not in log
    assert PASSWORD not in log


def test_no_configuration(docker: Docker, volume: str) -> None:
    container = docker.container("-v", f"{volume}:/data")
    refused(container, "/data/zstor.toml", "is not there", "-v FILE:", code=Exit.CONFIG)


def test_the_file_to_mount_does_not_exist(docker: Docker, volume: str, tmp_path: Path) -> None:
    """docker makes a folder of that name."""
    wrong = f"{tmp_path / 'zstr.toml'}:/data/zstor.toml"
    container = docker.container("-v", f"{volume}:/data", "-v", wrong)
    refused(container, "/data/zstor.toml", "is a folder", code=Exit.CONFIG)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("minimal_shards", "= minimal_shards", ["is no TOML", "line 4"]),
        ("/var/run/zstor.sock", "/tmp/zstor.sock", ["socket", '"/var/run/zstor.sock"']),
        ('zdbfs_mountpoint = "/mnt"', 'zdbfs_mountpoint = "/qsfs"', ["zdbfs_mountpoint", '"/mnt"']),
        ("expected_shards = 4", "expected_shards = 9", ["expected_shards = 9", "only 4"]),
        (f'"{KEY}"', '"short"', ["encryption.key", "64 hexadecimal"]),
        (
            "minimal_shards",
            "max_zdb_data_dir_size = 100\nminimal_shards",
            ["max_zdb_data_dir_size", "remove the line"],
        ),
    ],
)
def test_wrong_configuration(
    docker: Docker, backends: Backends, volume: str, old: str, new: str, words: list[str]
) -> None:
    text = backends.config.read_text()
    assert old in text
    backends.config.write_text(text.replace(old, new, 1))
    container = docker.container(*mounted(backends, volume))
    refused(container, "/data/zstor.toml", *words, code=Exit.CONFIG)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f'"{PASSWORD}"', '"another-one"', "Access denied"),
        ('namespace = "data"', 'namespace = "typo"', "Namespace not found"),
    ],
)
def test_all_backends_turn_zstor_away(
    docker: Docker, backends: Backends, volume: str, old: str, new: str, said: str
) -> None:
    text = backends.config.read_text()
    assert old in text
    backends.config.write_text(text.replace(old, new))
    container = docker.container(*mounted(backends, volume))
    refused(container, "/data/zstor.toml", "number 1 (127.0.0.1:", said, code=Exit.CONFIG)


def test_rclone_is_not_in_the_image(docker: Docker, volume: str) -> None:
    options = ["-e", "HOOKD_STORE__KIND=rclone", "-e", "HOOKD_STORE__RCLONE__REMOTE=grid:zdb"]
    container = docker.container(*options, "-v", f"{volume}:/data")
    refused(container, "store.rclone.program", "install rclone", code=Exit.CONFIG)


def test_no_fuse(docker: Docker, backends: Backends, volume: str) -> None:
    container = docker.container("--cap-add", "SYS_ADMIN", *mounted(backends, volume), rights=False)
    refused(container, "/dev/fuse", "--device /dev/fuse", code=Exit.NOPERM)


def test_no_sys_admin(docker: Docker, backends: Backends, volume: str) -> None:
    container = docker.container("--device", "/dev/fuse", *mounted(backends, volume), rights=False)
    refused(container, "SYS_ADMIN", "--cap-add SYS_ADMIN", code=Exit.NOPERM)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("QSFS_MOUNTPIONT=/mnt", ["QSFS_MOUNTPIONT", "QSFS_MOUNTPOINT"]),
        ("QSFS_ROTATE_S=often", ["QSFS_ROTATE_S", "whole number"]),
        ("HOOKD_DRAIN__TIMEOUT_S=long", ["drain.timeout_s", "HOOKD_DRAIN__TIMEOUT_S"]),
        ("HOOKD_ZDB__DATA=/tmp", ["zdb.data", "/data/data"]),
    ],
)
def test_wrong_environment(
    docker: Docker, backends: Backends, volume: str, variable: str, words: list[str]
) -> None:
    container = docker.container("-e", variable, *mounted(backends, volume))
    refused(container, *words, code=Exit.CONFIG)


def folder_as_store(path: str) -> list[str]:
    """The options for a store without a grid."""
    return ["-e", "HOOKD_STORE__KIND=directory", "-e", f"HOOKD_STORE__DIRECTORY__PATH={path}"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/store", "on the container's own disk"),
        ("/dev/shm/store", "in memory"),
        ("/mnt/store", "in the file system that it has to keep"),
        ("/data/no/store", "no folder"),
    ],
)
def test_a_store_that_goes_with_the_container(
    docker: Docker, volume: str, path: str, why: str
) -> None:
    container = docker.container(*folder_as_store(path), "-v", f"{volume}:/data")
    refused(container, "store.directory.path", path, why, code=Exit.CONFIG)


def test_a_store_on_a_volume_of_its_own(docker: Docker, volume: str) -> None:
    """No grid, no zstor.toml; and the volume of /data may be lost."""
    options = [*folder_as_store("/store/zdb"), "-v", f"{docker.volume()}:/store"]
    qsfs = docker.container(*options, "-v", f"{volume}:/data").start()
    content = Content()
    content.put(qsfs, "file", 20 << 20)
    assert qsfs.stop() == 0
    again = docker.container(*options, "-v", f"{docker.volume()}:/data").start()
    assert again.hashes() == content.expected
    assert again.stop() == 0


def test_the_volume_is_in_use(
    docker: Docker, qsfs: Container, backends: Backends, volume: str
) -> None:
    """Two containers on one volume would tear each other's files; the first goes on."""
    qsfs.start()
    refused(docker.container(*mounted(backends, volume)), "/data", "another", code=Exit.UNAVAILABLE)
    assert qsfs.state()["Running"]
    assert qsfs.stop() == 0


@pytest.mark.parametrize("after_s", [0.0, 0.3, 0.7, 1.5])
def test_a_stop_during_the_start(qsfs: Container, after_s: float) -> None:
    """It is obeyed, and leaves a volume that the next start can use.

    Also before Python runs, when the kernel drops what is sent to a PID 1 that has not blocked it.
    """
    qsfs.start(mounted=False)
    time.sleep(after_s)
    assert qsfs.stop(60) == 0, qsfs.log()
    qsfs.start()
    assert qsfs.stop(60) == 0
