"""zdb is started again before the daemon has heard that a namespace was deleted and made again."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.faults.test_kill_rounds import DELETED, REMADE
from tests.faults.world import World

pytest_plugins = ["tests.shim_build"]


def remake(world: World) -> None:
    """A namespace with content in the store, and with no daemon another one of its name."""
    world.daemon.expect("zdb ended without its closing hooks", *DELETED)
    world.start()
    assert world.zdb.start() == 0
    world.zdb.create(REMADE)
    for _ in range(3):
        world.zdb.churn(REMADE, 20)
        world.zdb.rotate(REMADE)
    world.zdb.finish_hooks()
    world.daemon.until_stored()
    world.daemon.kill()
    world.zdb.remove(REMADE)


@pytest.mark.parametrize("keys", [0, 3])
def test_in_a_living_shim(world: World, keys: int) -> None:
    """The deletion is waited for: the new one is neither held nor replaced by the old one."""
    world.zdb._environment["HOOKD_TIMEOUT_S"] = "120"  # nobody spools
    remake(world)
    late = world.zdb.calls[-1]
    late.process.send_signal(signal.SIGSTOP)
    assert late.argv[0] == "namespace-deleted"
    assert late.process.poll() is None
    world.zdb.create(REMADE)
    if keys:
        world.zdb.churn(REMADE, keys)
    truth = dict(world.zdb.truth.get(REMADE, {}))
    world.start()
    world.zdb.kill()
    codes: list[int] = []
    starts = threading.Thread(target=lambda: codes.append(world.zdb.start()))
    starts.start()
    try:
        world.until(lambda: world.zdb.calls[-1].argv[0] == "namespaces-init", "zdb does not start")
        starts.join(0.3)
        assert codes == []
    finally:
        late.process.send_signal(signal.SIGCONT)
        starts.join()
    assert codes == [0]
    assert world.zdb.truth.get(REMADE, {}) == truth
    assert world.zdb._namespaces[REMADE].active == 0
    assert world.zdb._namespaces[REMADE].keys.keys() == truth.keys()
    world.zdb.stop()
    world.drain()
    world.check_end()


def test_in_the_spool(world: World) -> None:
    """So is one that was spooled while there was no daemon."""
    remake(world)
    world.zdb.finish_hooks()
    assert [frame.argv[0] for frame in world.spooled()] == ["namespace-deleted"]
    world.zdb.create(REMADE)
    world.zdb.churn(REMADE, 3)
    world.zdb.kill()
    world.start()
    assert world.zdb.start() == 0
    assert world.zdb._namespaces[REMADE].active == 0
    world.zdb.stop()
    world.drain()
    world.check_end()
