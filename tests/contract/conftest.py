"""The stores that the contract suite runs over, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookd.stores.base import Store
from tests.contract.stores import Harness, InFolder, OnFake, OnFakeRclone, OnGrid, OnRclone
from tests.fakes.rclone import FakeRclone
from tests.fakes.zstor import FakeZstor
from tests.real.grid import Grid, missing_programs
from tests.real.rclone import SERVED, missing_rclone


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def _grid(factory: pytest.TempPathFactory, zstor: str) -> Iterator[Grid]:
    missing = missing_programs(zstor)
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    with Grid(factory.mktemp(zstor), zstor=zstor) as grid:
        yield grid


@pytest.fixture(scope="session")
def head_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """The newest zstor on four zdbs, one for all tests: they differ by their paths."""
    yield from _grid(tmp_path_factory, "zstor")


@pytest.fixture(scope="session")
def old_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """The same with zstor v0.4.0."""
    yield from _grid(tmp_path_factory, "zstor-0.4.0")


@pytest.fixture(
    params=[
        "directory",
        "fake-zstor",
        "fake-rclone",
        pytest.param("rclone-folder", marks=pytest.mark.real),
        pytest.param("rclone-webdav", marks=pytest.mark.real),
        pytest.param("rclone-s3", marks=pytest.mark.real),
        pytest.param("rclone-memory", marks=pytest.mark.real),
        pytest.param("head_grid", marks=pytest.mark.real),
        pytest.param("old_grid", marks=pytest.mark.real),
    ]
)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """Each store in turn."""
    folder = Path(os.path.realpath(tmp_path))
    if request.param == "directory":
        yield InFolder(folder)
    elif request.param == "fake-zstor":
        with FakeZstor(folder / "zstor.sock", folder / "state") as fake:
            yield OnFake(folder, fake)
    elif request.param == "fake-rclone":
        on_fake = OnFakeRclone(folder, FakeRclone(folder))
        yield on_fake
        on_fake.close()
    elif request.param.startswith("rclone-"):
        missing_rclone()
        on_rclone = OnRclone(folder, SERVED[request.param](folder))
        yield on_rclone
        on_rclone.close()
    else:
        yield OnGrid(folder, request.getfixturevalue(request.param))


@pytest.fixture
def store(harness: Harness) -> Store:
    return harness.fresh()
