"""`hookd restore --take`: the line that says what will come of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hookd import manifest
from hookd.admin.lines import Refused
from hookd.admin.verbs import take
from hookd.files import index_key
from hookd.restore.table import Here
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig
from tests.fakes.silent_zdb import SilentZdb
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import (
    EXPECTED,
    NS,
    files_of,
    fill,
    lose,
    put_here,
    store_all,
    stored_by_us,
    zdb_and_store,
    zdb_at,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]


@pytest.fixture(autouse=True)
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED, "choice")


def parts_of(found: Rig, *, serving: bool = False) -> Any:
    """As much of a daemon as a choice needs."""
    return SimpleNamespace(
        survey=found.survey,
        fence=found.fence,
        scheduler=found.scheduler,
        dispatcher=found.dispatcher,
        life=SimpleNamespace(started=serving),
        held=found.held,
    )


class Asked:
    """Whether zdb runs, as told here."""

    def __init__(self, runs: bool) -> None:
        self.runs = runs

    async def zdb_runs(self) -> bool:
        """As told."""
        return self.runs


RUNS, STOPPED = Asked(True), Asked(False)


async def test_remote_names_what_is_there(tmp_path: Path) -> None:
    """Whose manifest it is, and how old; without one, plain words."""
    zdb_at(tmp_path)
    store = MemoryStore()
    async with rig(tmp_path, store) as found:
        parts = parts_of(found)
        assert "what is stored is brought back" in await take(parts, STOPPED, NS, "remote", 0)
        fill(store, files_of(tmp_path), named=True, writer="0123456789")
        said = await take(parts, STOPPED, NS, "remote", 0)
        assert "manifest 7 of 01234567, written" in said
        assert found.survey.choices.of(NS) == "remote"


async def test_remote_with_the_store_away(tmp_path: Path) -> None:
    """It is kept, and the line says what it will mean."""
    store = MemoryStore()
    store.down = "away"
    async with rig(tmp_path, store) as found:
        said = await take(parts_of(found), STOPPED, NS, "remote", 0)
        assert "the store cannot be read now" in said
        assert "what is stored by then" in said
        assert "\n" not in said
        assert found.survey.choices.of(NS) == "remote"


async def test_local_says_when_it_is_safe(tmp_path: Path) -> None:
    """Until all is stored neither history is whole anywhere but here."""
    zdb_at(tmp_path)
    async with rig(tmp_path, MemoryStore()) as found:
        await found.fence.guard()
        await store_all(found)
        said = await take(parts_of(found, serving=True), RUNS, NS, "local", 0)
        assert "says that it is safe" in said


async def test_local_beside_a_stopped_zdb(tmp_path: Path) -> None:
    """It has served, and ended: the choice is for its next start, which looks for gaps."""
    store = await stored_by_us(tmp_path)
    async with rig(tmp_path, store, names=(NS,)) as found:
        said = await take(parts_of(found, serving=True), STOPPED, NS, "local", 0)
        assert "from zdb's next start on" in said
        assert found.survey.choices.of(NS) == "local"
        assert manifest.decode(store.records[manifest.NAME]).given_up == {}


@pytest.mark.parametrize("name", [NS, "*"])
async def test_local_with_a_gap(tmp_path: Path, name: str) -> None:
    """What zdb would load half of is not taken, beside a running zdb either: what is stored stays."""
    store = await stored_by_us(tmp_path)
    lose(tmp_path, "i1")
    async with rig(tmp_path, store, names=(NS,)) as found:
        with pytest.raises(Refused, match="index file i1 is absent: zdb would load half"):
            await take(parts_of(found, serving=True), RUNS, name, "local", 0)
        assert "nothing stored was given up" in found.held[NS]
        await found.fence.publish()
    made = manifest.decode(store.records[manifest.NAME])
    assert index_key(NS, 1) in made.files
    assert not made.given_up


async def test_a_gap_is_not_taken_by_the_fence(tmp_path: Path) -> None:
    """The choice waits for zdb's next start, and something is to be stored before that."""
    _, store = zdb_and_store(tmp_path, writer="other")
    lose(tmp_path, "i1")
    async with rig(tmp_path, store, names=(NS,)) as found:
        await found.survey.choices.choose(NS, "local")
        await found.fence.guard()
        made = manifest.decode(store.records[manifest.NAME])
        assert index_key(NS, 1) in made.files
        assert not made.given_up
        assert "nothing stored was given up" in found.held[NS]


async def test_local_for_one_of_two(tmp_path: Path) -> None:
    """The store is another frontend's: what differs of the other namespace is held, not stored over."""
    zdb = zdb_at(tmp_path)
    zdb.create("zz")
    zdb.churn("zz", 6)
    store = MemoryStore()
    fill(store, files_of(tmp_path), named=True, writer="other")
    put_here(tmp_path, Here.FOREIGN, {})
    other = SilentZdb.at(tmp_path, seed=99)
    other.create("zz")
    other.churn("zz", 4)
    before = {key: each for key, each in store.content.items() if key.namespace == NS}
    async with rig(tmp_path, store, names=(NS,)) as found:
        said = await take(parts_of(found, serving=True), RUNS, "zz", "local", 0)
        assert said.startswith("zz: ")
        assert said.endswith(f"still held: {NS}")
        assert list(found.held) == [NS]
        assert "--take local|remote" in found.held[NS]
        after = {key: each for key, each in store.content.items() if key.namespace == NS}
        assert after == before
        assert set(before) <= set(manifest.decode(store.records[manifest.NAME]).files)
