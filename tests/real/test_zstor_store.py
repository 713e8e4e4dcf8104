"""zstor store on the real zstor: blindness, lost backends, retrieves that were given up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import RemoteMissing, StoreUnreachable
from hookd.files import Roots, data_key
from hookd.stores.zstor import ZstorStore
from tests.real.grid import BACKENDS, Grid, missing_programs

pytestmark = [pytest.mark.anyio, pytest.mark.real]

KEY = data_key("ns", 0)
HEAD, OLD = "zstor", "zstor-0.4.0"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where zdb's files are."""
    folder = Path(os.path.realpath(tmp_path))
    (folder / "data/ns").mkdir(parents=True)
    (folder / "index").mkdir()
    return folder


@pytest.fixture(params=[HEAD, OLD])
def grid(request: pytest.FixtureRequest, tmp_path: Path, folder: Path) -> Iterator[Grid]:
    missing = missing_programs(request.param)
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    with Grid(tmp_path / "grid", zstor=request.param, root=folder) as grid:
        yield grid


only_head = pytest.mark.parametrize("grid", [HEAD], indirect=True)


@pytest.fixture
def store(grid: Grid, folder: Path) -> ZstorStore:
    roots = Roots(folder / "index", folder / "data")
    store, warnings = ZstorStore.from_config(grid.config, roots, folder / "staging")
    assert warnings == []
    store.prepare()
    return store


async def put(store: ZstorStore, folder: Path, content: bytes) -> Path:
    """Store `content` as d0; the live file."""
    live = folder / "data/ns/d0"
    live.write_bytes(content)
    await store.put(KEY, live, digest_of(content))
    return live


async def test_a_retrieve_with_a_root(store: ZstorStore, folder: Path) -> None:
    """The way around the live file holds with `root` set, too."""
    live = await put(store, folder, b"stored" * 1000)
    live.write_bytes(b"newer")
    await store.get(KEY, folder / "target")
    assert (folder / "target").read_bytes() == b"stored" * 1000
    assert live.read_bytes() == b"newer"


async def test_a_retrieve_that_was_given_up(store: ZstorStore, grid: Grid, folder: Path) -> None:
    """zstor carries it out when its folder is gone: the live file stays, nothing is made."""
    live = await put(store, folder, b"stored")
    live.write_bytes(b"newer, not stored")
    grid.pause_zstor()
    with anyio.move_on_after(0.3) as scope:
        await store.get(KEY, folder / "target")
    assert scope.cancelled_caught
    grid.pause_zstor(resume=True)
    # answered after the retrieve: zstor is first in, first out
    assert await store.stat(KEY) is not None
    assert live.read_bytes() == b"newer, not stored"
    assert sorted(os.listdir(folder / "data/ns")) == ["d0"]
    assert os.listdir(folder / "staging") == []
    # it did try, and then found nobody to tell
    assert "failed to write response" in (grid.folder / "zstor.log").read_text()


@only_head
async def test_started_without_backends(store: ZstorStore, grid: Grid, folder: Path) -> None:
    """It says "absent" of what is stored, also when they are back; only a restart helps."""
    await put(store, folder, b"stored")
    await store.prove_absence()
    grid.stop_zstor()
    for number in range(BACKENDS):
        grid.stop_backend(number)
    grid.start_zstor()
    for number in range(BACKENDS):
        grid.start_backend(number)
    assert await store.stat(KEY) is None
    with pytest.raises(RemoteMissing):
        await store.get(KEY, folder / "target")
    with pytest.raises(StoreUnreachable, match="restart zstor"):
        await store.prove_absence()
    with pytest.raises(StoreUnreachable, match="restart zstor"):
        await put(store, folder, b"newer")
    grid.stop_zstor()
    grid.start_zstor()
    await store.prove_absence()
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest_of(b"stored")


async def test_backends_are_lost(store: ZstorStore, grid: Grid, folder: Path) -> None:
    """Nothing is stored, nothing is believed to be absent, no text holds a password.

    HEAD drops dead backends from its list after some seconds and then says "not found" here, too.
    """
    live = await put(store, folder, b"stored")
    for number in range(BACKENDS):
        grid.stop_backend(number)
    for pause_s in (0.0, 5.0):
        await anyio.sleep(pause_s)
        for call in (
            lambda: put(store, folder, b"newer"),
            lambda: store.get(KEY, folder / "target"),
            store.prove_absence,
        ):
            with pytest.raises((StoreUnreachable, RemoteMissing)) as caught:
                await call()
            assert not any(secret in str(caught.value) for secret in grid.secrets)
        assert isinstance(caught.value, StoreUnreachable)
    assert live.read_bytes() == b"newer"
    for number in range(BACKENDS):
        await run_sync(grid.start_backend, number)
    found = await when_back(store)
    assert found == digest_of(b"stored")


async def when_back(store: ZstorStore) -> bytes:
    """What is stored as d0, as soon as zstor sees it again."""
    with anyio.fail_after(60):
        while True:
            try:
                found = await store.stat(KEY)
            except StoreUnreachable:
                found = None
            if found is not None:
                return found.digest
            await anyio.sleep(0.2)
