"""The timer: a checkpoint each interval while something is dirty, none while the store is down."""

from __future__ import annotations

from typing import cast

import pytest

from hookd.checkpoint import Checkpoints
from hookd.checkpoint_run import Outcome
from hookd.checkpoint_timer import AGAIN_S, Timer
from hookd.errors import Exit, MountUnusable
from tests.conftest import Logs

pytestmark = pytest.mark.anyio

SAFE = Outcome(code=Exit.OK, until=1.0, elapsed_s=0.1)
FAILED = Outcome(code=Exit.UNAVAILABLE, until=1.0, elapsed_s=0.1, problems=("zdb is away",))


class FakeCheckpoints:
    """Says whether something is dirty; gives the outcomes that it is told."""

    def __init__(self) -> None:
        self.dirty = True
        self.outcome = SAFE
        self.taken: list[float] = []
        self.noted: list[Outcome] = []

    async def anything(self) -> bool:
        return self.dirty

    async def take(self, timeout_s: float) -> Outcome:
        self.taken.append(timeout_s)
        return self.outcome

    def note(self, outcome: Outcome) -> None:
        self.noted.append(outcome)


class World:
    """A timer of 60 s and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.reason: str | None = None
        self.made = FakeCheckpoints()
        self.flushes = 0
        self.flush_fails = False
        self.timer = Timer(
            cast(Checkpoints, self.made),
            interval_s=60,
            hindrance=lambda: self.reason,
            flush=self.flush,
            clock=lambda: self.now,
        )

    async def flush(self) -> None:
        self.flushes += 1
        if self.flush_fails:
            raise MountUnusable("/mnt: no answer", hangs=True)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("hookd.checkpoint_timer.LOOK_EVERY_S", 0.0)
    return World()


async def test_the_interval_counts_from_the_beginning(world: World) -> None:
    assert world.timer.next_in_s == 60
    world.now += 60
    await world.timer.tick()
    assert world.timer.next_in_s == 60 and world.made.taken == [300.0]
    assert world.made.noted == [SAFE]


async def test_an_idle_system_is_left_alone(world: World) -> None:
    """But zdbfs is asked first: what it has in its cache is in no file yet."""
    world.made.dirty = False
    await world.timer.tick()
    assert (world.made.taken, world.flushes) == ([], 1)


async def test_put_off_while_the_store_is_down_and_made_once_it_is_back(
    world: World, logs: Logs
) -> None:
    """The reason is said once, and shown."""
    logs.expect("checkpoint put off")
    world.now += 60
    world.reason = "the store is down: no route"
    for _ in range(3):
        await world.timer.tick()
    assert world.made.taken == [] and world.timer.skipped == world.reason
    assert len(logs.of("checkpoint put off")) == 1
    assert world.timer.next_in_s == 0
    world.reason = None
    await world.timer.tick()
    assert len(world.made.taken) == 1 and world.timer.skipped is None


async def test_one_that_failed_is_made_again_soon(world: World, logs: Logs) -> None:
    """And said once, not each time."""
    logs.expect("checkpoint failed")
    world.made.outcome = FAILED
    for _ in range(3):
        await world.timer.tick()
        assert world.timer.next_in_s == AGAIN_S
    assert len(logs.of("checkpoint failed")) == 1


async def test_a_mount_that_hangs_does_not_keep_zdb_from_being_stored(world: World) -> None:
    world.flush_fails = True
    await world.timer.tick()
    assert len(world.made.taken) == 1
