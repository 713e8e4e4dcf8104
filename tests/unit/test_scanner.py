"""When the scanner knows that a scan is owed: a checkpoint is not safe before one has looked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from hookd.audit.auditor import Auditor
from hookd.errors import JournalUnavailable
from hookd.files import data_key
from hookd.leftover import Leftovers
from hookd.parts import Parts
from hookd.scanner import Scanner
from hookd.zdb import ZdbLife
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig

pytestmark = pytest.mark.anyio

FOUND = "files that no hook announced"


def scanner_over(found: Rig) -> tuple[Scanner, SimpleNamespace]:
    """A scanner of these parts, and their survey."""
    made = Scanner()
    survey = SimpleNamespace(undecided=False)
    parts = SimpleNamespace(
        journal=found.journal,
        scheduler=found.scheduler,
        dispatcher=found.dispatcher,
        roots=found.roots,
        held=found.held,
        survey=survey,
        life=ZdbLife(),
        config=SimpleNamespace(zdb=SimpleNamespace(skip_namespaces=())),
    )
    made.parts = cast("Parts", parts)
    return made, survey


async def test_owed_until_one_has_looked(tmp_path: Path, logs: Logs) -> None:
    """From the moment it is asked for; one that was asked for meanwhile is owed still."""
    logs.expect(FOUND)
    async with rig(tmp_path, run=False) as found:
        made, _ = scanner_over(found)
        found.data(0)
        found.data(1)
        assert not made.owed()
        made.ask()
        assert made.owed()
        assert await made.count(with_active=False) == 1
        assert not made.owed()
        assert [job.key for job in found.scheduler] == [data_key("ns", 0)]


async def test_one_that_fails_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that could not read a folder has not looked."""
    async with rig(tmp_path, run=False) as found:
        made, _ = scanner_over(found)
        made.ask()

        def refuse() -> list[str]:
            raise PermissionError("no")

        monkeypatch.setattr(found.roots, "namespaces", refuse, raising=False)
        with pytest.raises(PermissionError):
            await made.scan(with_active=False)
        assert made.owed()


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), JournalUnavailable("full")])
async def test_one_that_fails_is_made_again(
    tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nobody else would ask, and the audits wait for the first that has looked."""
    logs.expect(FOUND, "scan failed")
    monkeypatch.setattr("hookd.scanner.AGAIN_S", 0.01)
    async with rig(tmp_path, run=False) as found:
        made, _ = scanner_over(found)
        found.data(0)
        found.data(1)
        real, left, done = found.journal.ledger, [error, error], anyio.Event()

        async def ledger() -> object:
            if left:
                raise left.pop()
            return await real()

        async def look() -> None:
            await anyio.lowlevel.checkpoint()

        async def runs() -> bool:
            return True

        monkeypatch.setattr(found.journal, "ledger", ledger)
        monkeypatch.setattr(made, "zdb_runs", runs)
        made.parts.leftovers = cast("Leftovers", SimpleNamespace(look=look))
        made.parts.auditor = cast("Auditor", SimpleNamespace(scanned=done.set))
        async with anyio.create_task_group() as group:
            group.start_soon(made.run)
            made.ask()
            with anyio.fail_after(10):
                await done.wait()
            group.cancel_scope.cancel()
        assert not made.owed()
        assert [job.key for job in found.scheduler] == [data_key("ns", 0)]


async def test_asked_for_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for while one looks: that one may have been past the file already."""
    async with rig(tmp_path, run=False) as found:
        made, _ = scanner_over(found)
        made.ask()
        real = found.journal.ledger

        async def ledger() -> object:
            made.ask()
            return await real()

        monkeypatch.setattr(found.journal, "ledger", ledger)
        await made.scan(with_active=False)
        assert made.owed()


async def test_while_zdb_starts(tmp_path: Path) -> None:
    """Before `ready` is judged nothing of what zdb has made may be stored, so nobody has looked."""
    async with rig(tmp_path, run=False) as found:
        made, survey = scanner_over(found)
        survey.undecided = made.parts.life.started = True
        made.ask()
        assert await made.count(with_active=False) == 0
        assert made.owed()
        survey.undecided = False
        await made.scan(with_active=False)
        assert not made.owed()
