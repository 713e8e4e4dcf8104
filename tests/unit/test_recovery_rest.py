"""All data files: what is here stays, what zdb waits for goes first, and the disk keeps zdb's room."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from hookd import recovery_rest
from hookd.digest import digest_of
from hookd.files import data_key
from hookd.journal import LedgerEntry
from hookd.recovery_rest import Rest, sizes_of
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

GOOD = b"values " * 100


async def lazily(found: Rig, *, numbers: int = 5) -> None:
    """A namespace whose sealed data files are in the store alone."""
    for number in range(numbers):
        key = data_key("ns", number)
        found.index(number, b"IDX0" + bytes(25))
        found.store.content[key] = GOOD
        await found.journal.adopt(
            [
                LedgerEntry(
                    key=key,
                    size_bytes=len(GOOD),
                    digest=digest_of(GOOD),
                    stored_at=1.0,
                    sealed=True,
                )
            ]
        )
    found.data(numbers - 1, GOOD)


@pytest.mark.parametrize("at_once", [1, 4])
async def test_all_come(tmp_path: Path, at_once: int) -> None:
    """But one that is here, which is not touched."""
    async with rig(tmp_path) as found:
        await lazily(found)
        found.data(2, b"mine")
        rest = Rest(found.retriever, found.roots)
        brought = await rest.bring(["ns"], await sizes_of(found.journal), at_once)
        assert (brought["ns"].files, brought["ns"].why) == (3, "")
        assert found.live(data_key("ns", 0)) == GOOD
        assert found.live(data_key("ns", 2)) == b"mine"
        assert await rest.bring(["ns"], {}) == {}
        assert rest.progress is None


async def test_one_that_is_lost(tmp_path: Path) -> None:
    """The others come all the same, and the line names it."""
    async with rig(tmp_path) as found:
        await lazily(found)
        del found.store.content[data_key("ns", 1)]
        brought = (await Rest(found.retriever, found.roots).bring(["ns"], {}))["ns"]
        assert brought.files == 3
        assert brought.why.startswith("data/ns/d1 is not here: ")


async def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What zdb is to have is left, and no file is begun."""
    monkeypatch.setattr(recovery_rest, "free_bytes", lambda folder: 1000)
    async with rig(tmp_path) as found:
        await lazily(found)
        rest = Rest(found.retriever, found.roots, keep_free=500)
        brought = (await rest.bring(["ns"], await sizes_of(found.journal)))["ns"]
        assert brought.files == 0
        assert "no room" in brought.why
        assert not found.store.of("get")


async def test_a_store_that_is_away_ends_it(tmp_path: Path) -> None:
    """Not each file waits for it anew."""
    async with rig(tmp_path) as found:
        await lazily(found)
        found.store.down = "away"
        brought = (await Rest(found.retriever, found.roots).bring(["ns"], {}))["ns"]
        assert len(brought.failed) == 4
        assert len(found.store.of("stat")) == 1


async def test_what_zdb_waits_for_goes_first(tmp_path: Path) -> None:
    """A miss ends the file that is on its way, which comes after it."""
    async with rig(tmp_path) as found:
        await lazily(found)
        rest = Rest(found.retriever, found.roots)
        found.store.hang.add("get")
        brought = {}

        async def bring() -> None:
            brought.update(await rest.bring(["ns"], {}))

        async with anyio.create_task_group() as group:
            group.start_soon(bring)
            await found.eventually(lambda: len(found.store.of("get")) == 1)
            found.store.hang.clear()
            with anyio.fail_after(2):
                assert (await found.retriever.retrieve(data_key("ns", 3))).code == 0
            assert not found.roots.path(data_key("ns", 0)).exists()
        assert brought["ns"].why == ""
        assert found.live(data_key("ns", 0)) == GOOD


async def test_a_stop_ends_it(tmp_path: Path) -> None:
    """A drain does not compete with it for the store."""
    async with rig(tmp_path) as found:
        await lazily(found)
        found.store.hang.add("get")
        brought = {}

        async def bring() -> None:
            brought.update(await Rest(found.retriever, found.roots).bring(["ns"], {}))

        with anyio.fail_after(2):
            async with anyio.create_task_group() as group:
                group.start_soon(bring)
                await found.eventually(lambda: len(found.store.of("get")) == 1)
                found.retriever.stop()
        assert "hookd stops" in brought["ns"].why
        assert len(found.store.of("get")) == 1


async def test_deleted_meanwhile(tmp_path: Path, logs: Logs) -> None:
    """Of a namespace that zdb deleted in between nothing is placed."""
    async with rig(tmp_path) as found:
        await lazily(found, numbers=2)
        get = found.store.get

        async def deleted(key: object, target: Path) -> None:
            await get(key, target)  # type: ignore[arg-type]
            for path in (tmp_path / "index" / "ns").iterdir():
                path.unlink()

        found.store.get = deleted  # type: ignore[method-assign]
        await Rest(found.retriever, found.roots).bring(["ns"], {})
        assert not found.roots.path(data_key("ns", 0)).exists()
