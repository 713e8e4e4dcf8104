"""Hearing: what zdb has announced so far is known when it returns."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hookd.intake import hearing
from hookd.intake.hearing import Hearing
from tests.conftest import Logs

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """Shims look by look; the last look stays."""

    def __init__(self, *looks: Mapping[int, str], committing: int = 0) -> None:
        self.looks = list(looks)
        self.committing = committing
        self.done: list[str] = []
        self.serial = 0

    async def shims(self) -> Mapping[int, str]:
        self.done.append("look")
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def under_way(self) -> list[bytes]:
        """One event that ends, and later always another one."""
        self.serial += 1
        ends = [b"ends"] if self.serial < self.committing else []
        return ends if self.serial == 1 else [*ends, b"%d" % self.serial]

    async def sweep(self) -> int:
        self.done.append("sweep")
        return 0

    async def out(self, *, limit_s: float = 5.0) -> list[str]:
        made = Hearing(
            shims=self.shims, committing=self.under_way, sweep=self.sweep, limit_s=limit_s
        )
        await made.out()
        return self.done


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "LOOK_EVERY_S", 0.001)


async def test_nobody() -> None:
    assert await World({}).out() == ["look", "sweep"]


async def test_a_late_shim() -> None:
    """It is waited for, and then what it left in the spool is taken in."""
    late = {1: "namespace-deleted"}
    assert await World(late, late, {}).out() == ["look", "look", "look", "sweep"]


async def test_those_that_come_later() -> None:
    """A zdb that is at work calls hooks all the time: those of now are enough."""
    first, second = {1: "namespace-deleted"}, {2: "namespace-deleted"}
    assert await World(first, second).out() == ["look", "look", "sweep"]


@pytest.mark.parametrize("hook", ["namespaces-init", "ready", "missing-data", "jump-data"])
async def test_those_that_change_nothing(hook: str) -> None:
    """Some of them wait for us."""
    assert await World({1: hook}).out() == ["look", "sweep"]


async def test_an_event_without_its_shim() -> None:
    """A shim that was killed once it had sent its event."""
    assert await World({}, committing=3).out() == ["look", "look", "look", "sweep"]


async def test_a_shim_that_stays(logs: Logs) -> None:
    """zdb is not kept waiting for ever."""
    logs.expect("not waited for any longer")
    assert (await World({1: "namespace-deleted"}).out(limit_s=0.01))[-1] == "sweep"
