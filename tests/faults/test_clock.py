"""The clock of the wall steps back and forward under the daemon: nothing is lost, nothing stalls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]

DAY_S = 86_400.0
STEPS = [-3650 * DAY_S, -40.0, 40.0, 3650 * DAY_S]


class Clock:
    """What the daemon takes for the time, off by what this says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @property
    def option(self) -> tuple[str, str]:
        return "--clock", str(self._file)

    def set(self, offset_s: float) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(offset_s))
        fresh.rename(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.mark.parametrize("offset_s", STEPS)
def test_steps_at_work(world: World, clock: Clock, offset_s: float) -> None:
    """Retries go on by their own clock, a drain ends, and no age is negative."""
    world.daemon.expect("store is down", "store is back")
    world.start(*clock.option)
    assert world.zdb.start() == 0
    world.zdb.churn("default", 10)
    world.zdb.rotate("default")
    world.daemon.until_stored()
    away = world.daemon.store.with_name("away")
    world.daemon.store.rename(away)
    world.zdb.churn("default", 10)
    world.zdb.rotate("default")
    world.daemon.until(lambda s: s["store"]["state"] == "down")
    clock.set(offset_s)
    stats = world.daemon.until(lambda s: s["store"]["failures"] >= 3)
    assert stats["queue"]["oldest_age_s"] >= 0
    assert stats["store"]["down_s"] >= 0
    assert 0 <= stats["store"]["next_try_in_s"] <= 1
    away.rename(world.daemon.store)
    world.daemon.until_stored()
    world.zdb.stop()
    world.drain()
    world.check_end()


@pytest.mark.parametrize("offset_s", STEPS)
def test_steps_while_it_is_away(world: World, clock: Clock, offset_s: float) -> None:
    """What the journal and the spool hold is stored, whatever the time is at the next start."""
    world.daemon.expect("store is down", "store is back")
    world.start(*clock.option)
    assert world.zdb.start() == 0
    world.zdb.churn("default", 10)
    world.daemon.until_stored()
    away = world.daemon.store.with_name("away")
    world.daemon.store.rename(away)
    world.zdb.rotate("default")
    world.daemon.until(lambda s: s["queue"]["files"])
    world.daemon.kill()
    world.check_promises()
    world.zdb.churn("default", 10)
    world.zdb.rotate("default")
    world.zdb.finish_hooks()
    spooled = len(world.spooled())
    assert spooled >= 2
    clock.set(offset_s)
    away.rename(world.daemon.store)
    world.start(*clock.option)
    spool = world.daemon.stats()["spool"]
    assert [spool[key] for key in ("waiting", "bad", "taken")] == [0, 0, spooled]
    world.zdb.stop()
    world.drain()
    world.check_end()
