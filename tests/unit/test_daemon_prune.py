"""The daemon's housekeeping, run often instead of once a minute."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from hookd import daemon as module
from hookd.config import Config
from hookd.daemon import Daemon
from hookd.parts import Parts
from hookd.signals import Signals
from hookd.zdb import ZdbLife
from tests.fakes.parts import FakeLeftovers
from tests.fakes.rig import rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logs")]


async def test_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning a journal that never failed ends nothing; one that did is scanned for once."""
    monkeypatch.setattr(module, "PRUNE_EVERY_S", 0.01)
    async with rig(tmp_path, run=False) as found:
        made = Daemon(
            cast("Config", SimpleNamespace()),
            announce=print,
            signals=cast("Signals", SimpleNamespace()),
        )
        config = SimpleNamespace(journal=SimpleNamespace(keep_s=1.0))
        made._parts = cast(
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
        monkeypatch.setattr(made, "scan", lambda: scans.append(True))
        with anyio.move_on_after(0.2):
            await made._prune_forever()
        assert scans == []
        found.journal.had_errors = True
        with anyio.move_on_after(0.2):
            await made._prune_forever()
        assert scans == [True]
