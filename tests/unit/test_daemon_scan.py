"""When the daemon knows that a scan is owed: a checkpoint is not safe before one has looked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hookd.config import Config
from hookd.daemon import Daemon
from hookd.files import data_key
from hookd.parts import Parts
from hookd.signals import Signals
from hookd.zdb import ZdbLife
from tests.conftest import Logs
from tests.fakes.rig import Rig, rig

pytestmark = pytest.mark.anyio

FOUND = "files that no hook announced"


def daemon_over(found: Rig) -> tuple[Daemon, SimpleNamespace]:
    """A daemon of these parts, and its survey."""
    made = Daemon(cast("Config", SimpleNamespace()), announce=print, signals=cast("Signals", None))
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
    made._parts = cast("Parts", parts)
    return made, survey


async def test_owed_until_one_has_looked(tmp_path: Path, logs: Logs) -> None:
    """From the moment it is asked for; one that was asked for meanwhile is owed still."""
    logs.expect(FOUND)
    async with rig(tmp_path, run=False) as found:
        made, _ = daemon_over(found)
        found.data(0)
        found.data(1)
        assert not made._unscanned()
        made.scan()
        assert made._unscanned()
        assert await made._scan_once(with_active=False) == 1
        assert not made._unscanned()
        assert [job.key for job in found.scheduler] == [data_key("ns", 0)]


async def test_one_that_fails_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that could not read a folder has not looked."""
    async with rig(tmp_path, run=False) as found:
        made, _ = daemon_over(found)
        made.scan()

        def refuse() -> list[str]:
            raise PermissionError("no")

        monkeypatch.setattr(found.roots, "namespaces", refuse, raising=False)
        with pytest.raises(PermissionError):
            await made._scan_once(with_active=False)
        assert made._unscanned()


async def test_asked_for_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for while one looks: that one may have been past the file already."""
    async with rig(tmp_path, run=False) as found:
        made, _ = daemon_over(found)
        made.scan()
        real = found.journal.ledger

        async def ledger() -> object:
            made.scan()
            return await real()

        monkeypatch.setattr(found.journal, "ledger", ledger)
        await made._scan_once(with_active=False)
        assert made._unscanned()


async def test_while_zdb_starts(tmp_path: Path) -> None:
    """Before `ready` is judged nothing of what zdb has made may be stored, so nobody has looked."""
    async with rig(tmp_path, run=False) as found:
        made, survey = daemon_over(found)
        survey.undecided = made._parts.life.started = True
        made.scan()
        assert await made._scan_once(with_active=False) == 0
        assert made._unscanned()
        survey.undecided = False
        await made._scan_once(with_active=False)
        assert not made._unscanned()
