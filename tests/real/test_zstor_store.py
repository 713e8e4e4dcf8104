"""zstor store on the real zstor: blindness, lost backends, retrieves that were given up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import RemoteMissing, StoreError, StoreUnreachable
from hookd.files import Roots, data_key
from hookd.stores import zstor_torn
from hookd.stores.base import Remote
from hookd.stores.zstor import ZstorStore
from hookd.stores.zstor_config import read_config
from hookd.stores.zstor_torn import MetaStore
from tests.conftest import Logs
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


def torn(grid: Grid, folder: Path) -> tuple[MetaStore, list[bytes | None]]:
    """The metadata of d0, and what each backend has of it."""
    meta = read_config(grid.config, Roots(folder / "index", folder / "data")).meta
    key = meta.key(folder / "data/ns/d0")
    return meta, [zstor_torn._get(backend, key) for backend in meta.backends]


def leave(grid: Grid, folder: Path, values: list[bytes | None]) -> None:
    """As a zstor that was killed while it wrote the metadata of d0."""
    meta, now = torn(grid, folder)
    key = meta.key(folder / "data/ns/d0")
    for backend, before, value in zip(meta.backends, now, values, strict=True):
        if before is not None:
            zstor_torn._delete(backend, key)
        if value is not None:
            with zstor_torn._open(backend) as zdb:
                zdb.ask("SET", key, value)


async def test_killed_while_a_new_key_was_written(
    store: ZstorStore, grid: Grid, folder: Path, logs: Logs
) -> None:
    """zstor itself can neither read nor replace it: hookd removes the shard, and stores."""
    logs.allow("zstor died while it wrote metadata")
    await put(store, folder, b"first" * 1000)
    _, whole = torn(grid, folder)
    assert zstor_torn.in_the_way(whole) == []
    for number in range(4):
        leave(grid, folder, [each if i == number else None for i, each in enumerate(whole)])
        with pytest.raises(StoreUnreachable, match="key reconstruction failed"):
            await store.stat(KEY)
        content = b"again%d" % number * 1000
        await put(store, folder, content)
        found = await store.stat(KEY)
        assert found is not None
        assert found.digest == digest_of(content)
        _, whole = torn(grid, folder)


async def seen(store: ZstorStore, grid: Grid) -> Remote:
    """What zstor says of it, started anew if it has panicked: over shards of two lengths it does."""
    try:
        found = await store.stat(KEY)
    except StoreUnreachable:
        await run_sync(grid.stop_zstor)
        await run_sync(grid.start_zstor)
        found = await store.stat(KEY)
    assert found is not None
    return found


async def test_killed_while_a_key_was_replaced(
    store: ZstorStore, grid: Grid, folder: Path, logs: Logs
) -> None:
    """Three shards of a version are enough: it is read again; of two and two only a put helps."""
    logs.allow("zstor died while it wrote metadata")
    await put(store, folder, b"older" * 1000)
    _, older = torn(grid, folder)
    await put(store, folder, b"newer" * 1500)
    _, newer = torn(grid, folder)
    assert zstor_torn.in_the_way(older) == zstor_torn.in_the_way(newer) == []
    for number in range(4):
        mixed = [newer[i] if i == number else each for i, each in enumerate(older)]
        assert zstor_torn.in_the_way(mixed) == [number]
        leave(grid, folder, mixed)
        found = await seen(store, grid)
        assert found.digest in (digest_of(b"older" * 1000), digest_of(b"newer" * 1500))
        if number < 2:  # data shards of two versions: zstor cannot decrypt that by itself
            assert found.digest == digest_of(b"older" * 1000)
    leave(grid, folder, [newer[0], older[1], newer[2], older[3]])
    with contextlib.suppress(StoreError):
        await put(store, folder, b"last" * 1000)
    await run_sync(grid.stop_zstor)
    await run_sync(grid.start_zstor)
    await put(store, folder, b"last" * 1000)
    last = await store.stat(KEY)
    assert last is not None
    assert last.digest == digest_of(b"last" * 1000)
