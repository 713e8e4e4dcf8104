"""The image, the backends and the containers of a test, each taken away at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import image as images
from tests.docker.backends import Backends
from tests.docker.container import Container, Docker
from tests.docker.world import World, mounted

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder needs docker."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("docker")


@pytest.fixture(scope="session")
def image() -> str:
    """The image qsfs, built from this tree; HOOKD_TEST_ZSTOR names another zstor on PATH for it."""
    if reason := images.missing("qsfs"):
        pytest.skip(reason)
    return images.build("qsfs", zstor=os.environ.get("HOOKD_TEST_ZSTOR"))


@pytest.fixture(scope="session")
def storage() -> str:
    """The image storage, built from this tree."""
    if reason := images.missing("storage"):
        pytest.skip(reason)
    return images.build("storage")


@pytest.fixture
def docker(image: str) -> Iterator[Docker]:
    """Makes containers and volumes."""
    made = Docker(image)
    yield made
    made.close()


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[Backends]:
    """Four zdbs that run."""
    found = Backends(tmp_path / "grid")
    with found:
        yield found


@pytest.fixture
def volume(docker: Docker) -> str:
    """Of /data."""
    return docker.volume()


@pytest.fixture
def qsfs(docker: Docker, backends: Backends, volume: str) -> Container:
    """A container on the backends and the volume, not started."""
    return docker.container(*mounted(backends, volume))


@pytest.fixture
def world(docker: Docker, backends: Backends, volume: str, qsfs: Container) -> World:
    """All of them."""
    return World(docker=docker, backends=backends, volume=volume, qsfs=qsfs)
