"""Taking the store over: our name is there before anything of ours is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookd import manifest
from hookd.errors import StoreTemporary
from hookd.fence import Fenced
from hookd.files import data_key
from hookd.identity import Identity
from hookd.restore.table import Here
from tests.conftest import Logs
from tests.fakes.rig import rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import (
    NS,
    files_of,
    fill,
    put_here,
    wipe,
    zdb_and_store,
    zdb_at,
)

pytest_plugins = ["tests.fakes.survey_fixtures"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs", "may_warn")]


async def test_our_name_is_there_before_zdb_serves(tmp_path: Path) -> None:
    """A restored namespace is ours: the old frontend stops with its next put."""
    newest, store = zdb_and_store(tmp_path, writer="old")
    wipe(tmp_path)
    async with rig(tmp_path, store) as found:
        await found.survey.survey()
        made = manifest.decode(store.records[manifest.NAME])
        assert made.lineage == "l"
        assert made.sequence > 7
        assert made.writer != "old"
        assert set(made.files) == set(newest)
        assert not made.files[data_key(NS, 3)].sealed
    (tmp_path / "other").mkdir()
    async with rig(tmp_path / "other", store) as old:
        old.fence.identity = Identity("l", "old", 7, "00" * 16)
        with pytest.raises(Fenced, match="another frontend"):
            await old.fence.guard()


async def test_served_at_once_and_compared_later(tmp_path: Path) -> None:
    """A store that is away does not hold up complete files, and nothing is stored before it was read."""
    zdb_at(tmp_path)
    newest, store = files_of(tmp_path), MemoryStore()
    put_here(tmp_path, Here.FOREIGN, {})
    store.down = "away"
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.survey()
        assert (await found.survey.judge()).code == 0
        fill(store, newest, named=True)
        store.down = None
        job = await found.owe(data_key(NS, 0), sealed=True)
        await found.until(lambda: NS in found.held)
        assert job.state != "settled"
        assert store.puts == []


async def test_a_store_that_does_not_take_our_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    """Readable, but not writable: what was restored is served, and nothing stored before our name is."""
    _, store = zdb_and_store(tmp_path, writer="old")
    wipe(tmp_path)
    put = store.put_record

    async def refused(name: str, content: bytes) -> None:
        raise StoreTemporary("put", name, "not now")

    logs.allow("will retry")
    monkeypatch.setattr(store, "put_record", refused)
    async with rig(tmp_path, store) as found:
        assert (await found.survey.survey()).code == 0
        assert (await found.survey.judge()).code == 0
        job = await found.owe(data_key(NS, 3), freeze=True)
        await found.until(lambda: job.attempts > 1)
        assert store.puts == []
        monkeypatch.setattr(store, "put_record", put)
        await found.empty()
        assert manifest.decode(store.records[manifest.NAME]).writer != "old"
