"""Leftovers: what no line holds is seen, named, and keeps a stop from being a clean one."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from hookd import zdb
from hookd.errors import JournalUnavailable
from hookd.files import Roots
from hookd.intake.spool import Spool
from hookd.leftover import Leftovers
from hookd.wire import Answer, EventFrame
from tests.conftest import Logs

pytestmark = pytest.mark.anyio

STRANGE = os.fsdecode(b"caf\xe9")
NAMELESS = "a namespace that cannot be stored: its name is no UTF-8"
ELSEWHERE = "zdb's shims spool to another folder than hook.spool"


class World:
    """Roots, a spool, what is held and what of it is not stored."""

    def __init__(self, folder: Path) -> None:
        for name in ("index/ns", "data/ns"):
            (folder / name).mkdir(parents=True)
        self.roots = Roots(folder / "index", folder / "data")
        self.spool = Spool(folder / "spool", admit=self._admit)
        self.spool.prepare()
        self.held: dict[str, str] = {}
        self.unstored: dict[str, int] | Exception = {}
        self.asked: list[set[str]] = []
        self.found = Leftovers(
            roots=self.roots,
            socket=folder / "hook.sock",
            spool=self.spool,
            held=self.held,
            unstored=self._unstored,
        )

    async def _admit(self, frame: EventFrame, origin: str) -> Answer:
        return Answer(0)

    async def _unstored(self, namespaces: Collection[str]) -> dict[str, int]:
        self.asked.append(set(namespaces))
        if isinstance(self.unstored, Exception):
            raise self.unstored
        return self.unstored


@pytest.fixture
def world(tmp_path: Path, logs: Logs) -> World:
    return World(tmp_path)


async def test_nothing(world: World) -> None:
    """A stop that leaves nothing has nothing to say, and looks into no file."""
    assert await world.found.of_a_stop() == []
    assert world.asked == []


async def test_a_name_that_is_no_text(world: World, logs: Logs) -> None:
    """It is named so that a terminal can show it, once it has files."""
    (world.roots.index / STRANGE).mkdir()
    await world.found.look()
    assert not world.found.nameless
    (world.roots.index / STRANGE / "i0").touch()
    logs.expect(NAMELESS)
    for _ in range(2):
        await world.found.look()
    assert world.found.nameless == (r"caf\xe9",)
    [line] = await world.found.of_a_stop()
    assert line.startswith(r"namespace caf\xe9 is not stored: its name is no UTF-8")
    (world.roots.index / STRANGE / "i0").unlink()
    assert await world.found.of_a_stop() == []


async def test_held(world: World) -> None:
    """What of them is on disk only is counted, and who decides is said."""
    world.held.update(ns="i3 is gone", other="too")
    world.unstored = {"ns": 2}
    [line] = await world.found.of_a_stop()
    assert line == (
        "namespace ns is held, 2 files of it not stored;"
        " `hookd restore ns --take local|remote` decides"
    )
    assert world.asked == [{"ns", "other"}]


@pytest.mark.parametrize("error", [JournalUnavailable("full"), OSError(5, "Input/output error")])
async def test_held_and_not_known(world: World, error: Exception) -> None:
    """Where it cannot be told what of them is stored, nothing is taken to be."""
    world.held["ns"] = "i3 is gone"
    world.unstored = error
    [line] = await world.found.of_a_stop()
    assert "not known" in line
    assert "hookd restore ns --take local|remote" in line


async def test_another_spool(
    world: World, logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said at once; a stop is unclean while events lie there, whether zdb lives or not."""
    wrong = tmp_path / "wrong"
    told = {str(wrong)}
    monkeypatch.setattr(zdb, "spools_elsewhere", lambda *_: set(told))
    logs.expect(ELSEWHERE)
    await world.found.look()
    assert world.found.elsewhere == {str(wrong): 0}
    assert await world.found.of_a_stop() == []
    wrong.mkdir()
    (wrong / "1.event").touch()
    told.clear()
    [line] = await world.found.of_a_stop()
    assert f"HOOKD_SPOOL is {wrong}, hook.spool is {world.spool.folder}: 1 event there" in line
    (wrong / "1.event").unlink()
    await world.found.look()
    assert world.found.elsewhere == {}


async def test_the_spool_itself(world: World, logs: Logs) -> None:
    """Its own problems are among them."""
    logs.expect("moved to bad/")
    (world.spool.folder / "1.event").write_bytes(b"torn")
    await world.spool.sweep()
    [line] = await world.found.of_a_stop()
    assert str(world.spool.folder / "bad") in line
