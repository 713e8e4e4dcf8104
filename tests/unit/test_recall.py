"""Which events were done before, those of the spool also where only the journal knows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from hookd.errors import JournalUnavailable
from hookd.intake.spool import Spool
from hookd.wire import EventFrame, encode
from tests.fakes.rig import Rig, rig

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for three, and readings for two."""
    monkeypatch.setattr("hookd.recall.REMEMBER_EVENTS", 3)
    monkeypatch.setattr("hookd.recall.AT_ONCE", 2)


async def admitted(found: Rig, amount: int) -> list[EventFrame]:
    """So many events, the newest three of which are remembered."""
    frames = [found.frame("close") for _ in range(amount)]
    for frame in frames:
        await found.admit(frame)
    return frames


def readings(found: Rig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For how many ids at once the journal was read, each time."""
    asked, real = list[int](), found.journal.find_event_ids

    async def find(
        event_ids: Sequence[bytes], *, up_to: int
    ) -> dict[bytes, tuple[int, int | None]]:
        asked.append(len(event_ids))
        return await real(event_ids, up_to=up_to)

    monkeypatch.setattr(found.journal, "find_event_ids", find)
    return asked


def spooled(found: Rig, frames: Sequence[EventFrame], *, named: bool = True) -> Spool:
    """As their shims leave them; `named`: under their ids."""
    spool = Spool(
        found.folder / "spool",
        admit=found.admission.admit,
        expect=found.admission.recall.expect,
    )
    spool.prepare()
    for number, frame in enumerate(frames):
        name = frame.event_id.hex() if named else "by-hand"
        (spool.folder / f"{number:020d}-{name}.event").write_bytes(encode(frame))
    return spool


async def test_a_sweep_reads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files it has, up to a limit; what is remembered is not looked for."""
    async with rig(tmp_path, run=False) as found:
        frames = await admitted(found, 8)
        asked = readings(found, monkeypatch)
        new = found.frame("close")
        spool = spooled(found, [*frames[:2], *frames[-2:], new])
        assert await spool.sweep() == 5
        assert asked == [2, 1]
        assert found.admission.tally.duplicate == 4
        assert found.rows("SELECT count(*) FROM events") == [(9,)]


async def test_a_name_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has given the file another one: its id is looked for by itself; so also where the look
    for all of them has failed.
    """
    async with rig(tmp_path, run=False) as found:
        frames = await admitted(found, 8)
        asked = readings(found, monkeypatch)
        assert await spooled(found, frames[:1], named=False).sweep() == 1
        assert asked == [1]
        find = found.journal.find_event_ids
        fails = [True]

        async def once(*arguments: Sequence[bytes], up_to: int) -> object:
            if fails:
                fails.pop()
                raise JournalUnavailable("away")
            return await find(*arguments, up_to=up_to)

        monkeypatch.setattr(found.journal, "find_event_ids", once)
        assert await spooled(found, frames[:2]).sweep() == 2
        assert found.admission.tally.duplicate == 3
        assert found.rows("SELECT count(*) FROM events") == [(8,)]


async def test_forgotten_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was new when the sweep looked, then came over the socket, and left memory again."""
    async with rig(tmp_path, run=False) as found:
        await admitted(found, 8)
        recall, late = found.admission.recall, found.frame("close")
        await recall.expect([late.event_id, os.urandom(16)])
        assert await recall.find(late.event_id) is None
        await found.admit(late)
        await admitted(found, 4)
        assert recall.get(late.event_id) is None
        found_again = await recall.find(late.event_id)
        assert found_again is not None and found_again[1] == 0
