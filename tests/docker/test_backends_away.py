"""Backends that go and come back, also around a start of zstor: every byte ends stored."""

from __future__ import annotations

import time

import pytest

from tests.docker.backends import BACKENDS, Backends
from tests.docker.conftest import mounted
from tests.docker.container import Container, Content, Docker

MIB = 1 << 20


@pytest.fixture
def content() -> Content:
    return Content()


def whole_after(
    docker: Docker, qsfs: Container, backends: Backends, volume: str, content: Content
) -> None:
    """Everything stored, a clean stop, and every byte there in another container."""
    qsfs.idle(120)
    assert qsfs.hashes() == content.expected
    assert qsfs.stop() == 0
    again = docker.container(*mounted(backends, volume)).start()
    assert again.hashes() == content.expected


@pytest.mark.parametrize("count", [1, BACKENDS], ids=["one", "all"])
def test_away_and_back(
    qsfs: Container,
    docker: Docker,
    backends: Backends,
    volume: str,
    content: Content,
    count: int,
) -> None:
    """Writes go on meanwhile."""
    qsfs.start()
    content.put(qsfs, "before", 6 * MIB)
    for number in range(count):
        backends.stop_backend(number)
    for number in range(4):
        content.put(qsfs, f"meanwhile{number}", 6 * MIB)
    time.sleep(3)
    for number in range(count):
        backends.start_backend(number)
    content.put(qsfs, "after", 6 * MIB)
    whole_after(docker, qsfs, backends, volume, content)


@pytest.mark.parametrize("count", [1, 2, BACKENDS], ids=["one", "two", "all"])
def test_away_while_zstor_starts(
    docker: Docker, backends: Backends, volume: str, content: Content, count: int
) -> None:
    """zstor would be blind to them for good: it is started late, or started again."""
    qsfs = docker.container(*mounted(backends, volume), "-e", "QSFS_BACKENDS_WAIT_S=4").start()
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
    whole_after(docker, qsfs, backends, volume, content)


def test_away_while_the_container_starts(
    qsfs: Container, docker: Docker, backends: Backends, volume: str, content: Content
) -> None:
    """With its files on the volume it mounts all the same, and stores later."""
    qsfs.start()
    content.put(qsfs, "before", 6 * MIB)
    assert qsfs.stop() == 0
    backends.stop_all()
    qsfs.start()
    assert qsfs.hashes() == content.expected
    content.put(qsfs, "meanwhile", 20 * MIB)
    backends.start_all()
    whole_after(docker, qsfs, backends, volume, content)
