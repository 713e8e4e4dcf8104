"""A real zstor that started while its metadata backends were down: told apart, and restarted."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import StoreUnreachable
from hookd.files import Roots, data_key
from hookd.stores import zstor_blind
from hookd.stores.restart import Restart
from hookd.stores.zstor import ZstorStore
from hookd.stores.zstor_blind import BlindWatch, State
from tests.real.grid import BACKENDS, Grid, missing_programs

pytestmark = [pytest.mark.anyio, pytest.mark.real]

KEY = data_key("ns", 0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def sight(watch: BlindWatch) -> State:
    """Asked anew each time: mypy takes a plain attribute for unchanged."""
    return watch.state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = Path(os.path.realpath(tmp_path))
    (folder / "data/ns").mkdir(parents=True)
    (folder / "index").mkdir()
    return folder


@pytest.fixture
def grid(folder: Path) -> Iterator[Grid]:
    if missing := missing_programs("zstor"):
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    with Grid(folder / "grid", root=folder) as grid:
        yield grid


def make(grid: Grid, folder: Path) -> ZstorStore:
    roots = Roots(folder / "index", folder / "data")
    store, _ = ZstorStore.from_config(grid.config, roots, folder / "staging")
    store.prepare()
    return store


@pytest.mark.parametrize("down", [1, 3, BACKENDS])
async def test_blind_and_restarted(grid: Grid, folder: Path, down: int) -> None:
    """Not claimed while a backend is away, claimed when all are back, mended by the command: then what
    was stored is there, and stores work."""
    store = make(grid, folder)
    live = folder / "data/ns/d0"
    live.write_bytes(b"stored")
    await store.put(KEY, live, digest_of(b"stored"))
    await store.prove_absence()
    grid.stop_zstor()
    for number in range(down):
        grid.stop_backend(number)
    grid.start_zstor()
    # the command of an administrator: asks whoever keeps zstor to restart it
    wanted = folder / "restart-wanted"
    command = shlex.join([sys.executable, "-c", f"open({str(wanted)!r}, 'a').write('x')"])
    watch = BlindWatch(
        backends=store.backends,
        look=store.store_canary,
        restart=Restart(command, every_s=300, scrub=store.scrub),
        every_s=1.0,
        confirm_s=8.0,
    )
    store.on_error = watch.suspect
    assert len(store.backends) == BACKENDS
    async with anyio.create_task_group() as group:
        group.start_soon(watch.run)
        with pytest.raises(StoreUnreachable):
            await store.put(KEY, live, digest_of(b"stored"))
        await anyio.sleep(4)
        assert sight(watch) is State.SUSPECTED
        assert len(watch.unusable) == down
        for number in range(down):
            await run_sync(grid.start_backend, number)
        with anyio.fail_after(60):
            while not wanted.exists():
                await anyio.sleep(0.1)
        assert sight(watch) is State.BLIND
        assert "restart zstor" in (watch.advice or "")
        await run_sync(grid.stop_zstor)
        await run_sync(grid.start_zstor)
        with anyio.fail_after(60):
            while sight(watch) is not State.WELL:
                await anyio.sleep(0.1)
        group.cancel_scope.cancel()
    assert wanted.read_text() == "x"
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest_of(b"stored")
    live.write_bytes(b"stored, and more")
    await store.put(KEY, live, digest_of(b"stored, and more"))


async def test_an_outage_is_no_blindness(grid: Grid, folder: Path) -> None:
    """Backends lost while zstor runs, for a while, and back: nothing is restarted."""
    store = make(grid, folder)
    live = folder / "data/ns/d0"
    live.write_bytes(b"stored")
    watch = BlindWatch(
        backends=store.backends,
        look=store.store_canary,
        restart=Restart("false", every_s=1),
        every_s=0.5,
        confirm_s=zstor_blind.CONFIRM_S,
    )
    store.on_error = watch.suspect
    async with anyio.create_task_group() as group:
        group.start_soon(watch.run)
        for number in range(2):
            grid.stop_backend(number)
        with anyio.fail_after(60):
            while sight(watch) is not State.SUSPECTED:
                try:
                    await store.put(KEY, live, digest_of(b"stored"))
                except StoreUnreachable:
                    pass
                await anyio.sleep(0.5)
        for number in range(2):
            await run_sync(grid.start_backend, number)
        with anyio.fail_after(60):
            while sight(watch) is not State.WELL:
                await anyio.sleep(0.2)
        group.cancel_scope.cancel()
    assert watch.restarts == {"done": 0, "failed": 0}
