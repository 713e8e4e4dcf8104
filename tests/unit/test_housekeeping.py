"""The daemon's housekeeping, run often instead of once a minute."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from hookd import housekeeping
from hookd.parts import Parts
from hookd.zdb import ZdbLife
from tests.conftest import Logs
from tests.fakes.parts import FakeLeftovers
from tests.fakes.rig import rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]


class Unanswered(FakeLeftovers):
    """A disk that cannot be listed now."""

    async def look(self) -> None:
        raise OSError(5, "Input/output error")


async def test_leftovers_that_cannot_be_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    """It is said, and everything else goes on."""
    logs.expect("could not look for leftovers")
    monkeypatch.setattr(housekeeping, "PRUNE_EVERY_S", 0.01)
    async with rig(tmp_path, run=False) as found:
        parts = SimpleNamespace(
            journal=found.journal,
            scheduler=found.scheduler,
            config=SimpleNamespace(journal=SimpleNamespace(keep_s=1.0)),
            life=ZdbLife(),
            leftovers=Unanswered(),
        )
        found.journal.had_errors = True
        with anyio.move_on_after(0.2):
            await housekeeping.run(cast("Parts", parts), lambda: None)
        assert not found.journal.had_errors


async def test_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning a journal that never failed ends nothing; one that did is scanned for once."""
    monkeypatch.setattr(housekeeping, "PRUNE_EVERY_S", 0.01)
    async with rig(tmp_path, run=False) as found:
        config = SimpleNamespace(journal=SimpleNamespace(keep_s=1.0))
        parts = cast(
            "Parts",
            SimpleNamespace(
                journal=found.journal,
                scheduler=found.scheduler,
                config=config,
                life=ZdbLife(),
                leftovers=FakeLeftovers(),
            ),
        )
        scans: list[bool] = []
        with anyio.move_on_after(0.2):
            await housekeeping.run(parts, lambda: scans.append(True))
        assert scans == []
        found.journal.had_errors = True
        with anyio.move_on_after(0.2):
            await housekeeping.run(parts, lambda: scans.append(True))
        assert scans == [True]
