"""Closed data files that a crash of the machine cut off here: whole again before zdb loads them."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from hookd.files import FileKey, data_key
from hookd.restore import short
from hookd.restore import survey as survey_stage
from hookd.restore.local import WORK
from hookd.restore.result import told
from hookd.restore.table import Here
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig
from tests.fakes.store import MemoryStore
from tests.fakes.survey_files import EXPECTED, NS, files_of, lose, put_here, stored_by_us

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]

D1 = data_key(NS, 1)
MENDED, LEFT = "a data file was too short", "a data file is too short"


@pytest.fixture(autouse=True)
def may_warn(logs: Logs) -> None:
    """What these tests are about is said loudly."""
    logs.allow(*EXPECTED)


async def cut_off(folder: Path, length: int) -> tuple[dict[FileKey, bytes], MemoryStore]:
    """All is stored; of d1 so much is here."""
    store = await stored_by_us(folder)
    files = files_of(folder)
    os.truncate(folder / "data" / NS / "d1", length)
    return files, store


async def served(found: Rig) -> bool:
    """Whether zdb may begin."""
    await found.survey.survey()
    return (await found.survey.judge()).code == 0


@pytest.mark.parametrize("length", [0, 1, 100])
@pytest.mark.parametrize("gap", [False, True])
async def test_at_the_start(tmp_path: Path, logs: Logs, length: int, gap: bool) -> None:
    """Also where nothing is left of it, and beside other losses."""
    logs.expect(MENDED)
    files, store = await cut_off(tmp_path, length)
    if gap:
        lose(tmp_path, "i1")
    (tmp_path / "data" / NS / short.MEND).mkdir()  # of a run that was killed
    (tmp_path / "data" / NS / short.MEND / "d2").write_bytes(b"half")
    async with rig(tmp_path, store) as found:
        assert await served(found)
    assert files_of(tmp_path) == files
    assert not (tmp_path / "data" / NS / short.MEND).exists()
    assert not (tmp_path / "data" / NS / WORK).exists()


@pytest.mark.parametrize("length", [0, 1, 100])
async def test_by_hand(tmp_path: Path, logs: Logs, length: int) -> None:
    """`hookd restore` says so."""
    logs.expect(MENDED)
    files, store = await cut_off(tmp_path, length)
    async with rig(tmp_path, store) as found:
        assert await found.survey.by_hand() is None
        result = told(found.survey.findings, None, found.survey.unread)
        await short.mend(result, await found.journal.ledger(), store, found.roots)
        assert result.restored == {NS: "d1, which was too short, is whole"}
    assert files_of(tmp_path) == files


@pytest.mark.parametrize("fault", ["away", "hangs", "slow", "gone"])
async def test_a_store_that_cannot_help(
    tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """zdb is served with what is here, at once; it is said."""
    if fault != "slow":
        logs.expect(LEFT)
    monkeypatch.setattr(survey_stage, "PATIENCE_S", 0.2)
    monkeypatch.setattr(survey_stage, "LENGTHEN_S", 0.5)
    _, store = await cut_off(tmp_path, 100)
    match fault:
        case "away":
            store.down = "no route"
        case "hangs":
            store.hang = {"stat"}
        case "slow":
            store.hang = {"get"}
        case "gone":
            del store.content[D1]
    async with rig(tmp_path, store) as found:
        assert await served(found)
    assert (tmp_path / "data" / NS / "d1").stat().st_size == 100


async def test_not_the_beginning(tmp_path: Path, logs: Logs) -> None:
    """Neither is touched."""
    logs.expect(LEFT)
    _, store = await cut_off(tmp_path, 100)
    path = tmp_path / "data" / NS / "d1"
    other = bytes(100)
    path.write_bytes(other)
    async with rig(tmp_path, store) as found:
        assert await served(found)
    assert path.read_bytes() == other


async def test_a_stop_does_not_wait_for_it(tmp_path: Path) -> None:
    """Whoever looks sees what zdb waits for."""
    _, store = await cut_off(tmp_path, 100)
    store.hang = {"get"}
    async with rig(tmp_path, store) as found, anyio.create_task_group() as group:
        group.start_soon(found.survey.survey)
        await found.eventually(lambda: found.survey.waiting is not None)
        assert "a crash cut off" in (found.survey.waiting or "")
        group.cancel_scope.cancel()  # as the daemon does with a survey that waits
    assert (tmp_path / "data" / NS / "d1").stat().st_size == 100


async def test_of_another_history(tmp_path: Path, logs: Logs) -> None:
    """Nothing is the beginning of anything: the entries here say whose values they are."""
    logs.expect(LEFT)
    store = await stored_by_us(tmp_path)
    put_here(tmp_path, Here.FOREIGN, {})
    path = tmp_path / "data" / NS / "d1"
    os.truncate(path, 0)
    async with rig(tmp_path, store) as found:
        assert not await served(found)
    assert path.stat().st_size == 0


async def test_what_is_here_was_chosen(tmp_path: Path) -> None:
    """Then it counts as it is."""
    _, store = await cut_off(tmp_path, 100)
    async with rig(tmp_path, store) as found:
        await found.survey.choices.choose(NS, "local")
        assert await served(found)
    assert (tmp_path / "data" / NS / "d1").stat().st_size == 100
