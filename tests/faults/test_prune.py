"""What is over is forgotten while the daemon works, and never what is owed or proven."""

from __future__ import annotations

import pytest

from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]

OFTEN = ("--prune-every", "0.02")


def test_all_the_time(world: World) -> None:
    """Rows go as soon as they are settled; the daemon lives on, and the store has everything."""
    world.daemon.configure(journal__keep_s=0)
    world.start(*OFTEN)
    assert world.zdb.start() == 0
    for _ in range(4):
        world.zdb.churn("default", 20)
        world.zdb.rotate("default")
    world.daemon.until_stored()
    world.until(lambda: world.rows("SELECT count(*) FROM jobs") == [(0,)], "jobs are kept")
    # but for the newest, by which a shim that comes again is known
    world.until(lambda: world.rows("SELECT count(*) FROM events") == [(10,)], "events are kept")
    world.zdb.stop()
    world.drain()
    world.check_end()


@pytest.mark.parametrize("dies", [True, False])
def test_not_what_is_owed(world: World, dies: bool) -> None:
    """With the store away nothing that waits is forgotten, over a restart too."""
    world.daemon.expect("store is down", "store is back", "zdb ended without its closing hooks")
    world.daemon.configure(journal__keep_s=0)
    world.start(*OFTEN)
    away = world.daemon.store.with_name("away")
    assert world.zdb.start() == 0
    world.daemon.until_stored()
    world.daemon.store.rename(away)
    for _ in range(3):
        world.zdb.churn("default", 20)
        world.zdb.rotate("default")
    world.zdb.finish_hooks()
    world.daemon.until(lambda s: s["store"]["failures"] >= 3)
    if dies:
        world.daemon.kill()
        world.check_promises()
        away.rename(world.daemon.store)
        world.start(*OFTEN)
    else:
        away.rename(world.daemon.store)
    world.zdb.stop()
    world.drain()
    world.check_end()
