"""Drain: when it says that nothing is left, and what it waits for until then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest

from hookd import drain as module
from hookd.drain import Drain, Progress, Verdict
from hookd.errors import JournalUnavailable
from hookd.files import data_key, index_key
from hookd.journal import Job
from hookd.scheduler import Scheduler
from hookd.succession import NO_ROOM
from tests.conftest import Logs

pytestmark = pytest.mark.anyio

T = TypeVar("T")

FAILED = "scan failed, will retry"
AGAIN = "zdb is there again"


class World:
    """What a drain looks at; each look may change it."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.zdb = False
        self.shims = 0
        self.busy = 0
        self.spooled = 0
        self.scans: list[Exception | int] = []
        """What the next ones do; then they bring nothing."""
        self.scanned = 0
        self.said: list[Progress] = []
        self.at_sweep: list[Callable[[], None]] = []
        """What happens while the spool is swept, one at each sweep."""

    def drain(self, timeout_s: float | None = None) -> Drain:
        return Drain(
            scheduler=self.scheduler,
            zdb_runs=self._is(lambda: self.zdb),
            owed_namespaces=list,
            shims_alive=self._is(lambda: self.shims),
            busy=lambda: self.busy,
            sweep=self._sweep,
            spooled=lambda: self.spooled,
            scan=self._scan,
            done=lambda: (0, 0),
            quiet_s=0.0,
            timeout_s=timeout_s,
            say=self.said.append,
        )

    @staticmethod
    def _is(look: Callable[[], T]) -> Callable[[], Awaitable[T]]:
        async def asked() -> T:
            await anyio.lowlevel.checkpoint()
            return look()

        return asked

    async def _sweep(self) -> int:
        if self.at_sweep:
            self.at_sweep.pop(0)()
        return 0

    async def _scan(self) -> int:
        self.scanned += 1
        found = self.scans.pop(0) if self.scans else 0
        if isinstance(found, Exception):
            raise found
        return found

    async def waits_for(self, drain: Drain, text: str) -> None:
        """Until it says that it waits for this."""
        with anyio.fail_after(10):
            while drain.progress is None or text not in drain.progress.waiting_for:
                await anyio.sleep(0.01)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(module, "SCAN_AGAIN_S", 0.02)
    return World()


async def test_nothing(world: World) -> None:
    """Nothing to wait for."""
    assert await world.drain().run() is Verdict.EMPTY
    assert world.scanned == 1


@pytest.mark.parametrize(
    "error", [JournalUnavailable("database or disk is full"), OSError(5, "Input/output error")]
)
async def test_a_scan_that_fails_is_made_again(world: World, logs: Logs, error: Exception) -> None:
    """Nothing is called empty before the files on disk were looked through."""
    logs.expect(FAILED)
    world.scans = [error, error]
    drain = world.drain()
    assert await drain.run() is Verdict.EMPTY
    assert world.scanned == 3


async def test_a_scan_that_fails_is_said(world: World, logs: Logs) -> None:
    """And the configured time ends the trying."""
    logs.expect(FAILED)
    world.scans = [JournalUnavailable("database or disk is full")] * 10_000
    drain = world.drain(timeout_s=1.0)
    assert await drain.run() is Verdict.TIMED_OUT
    assert drain.progress is not None
    assert "database or disk is full" in drain.progress.waiting_for


async def test_what_is_spooled_is_waited_for(world: World) -> None:
    """An event that cannot be taken in yet is something left."""
    world.spooled = 2
    drain = world.drain()
    async with anyio.create_task_group() as group:

        async def take_in() -> None:
            await world.waits_for(drain, "2 events in the spool")
            world.spooled = 0

        group.start_soon(take_in)
        assert await drain.run() is Verdict.EMPTY


async def test_zdb_that_is_started_again(world: World, logs: Logs) -> None:
    """It is waited for like the first one, and what it did is looked for."""
    logs.expect(AGAIN)
    drain = world.drain()

    def starts() -> None:
        world.zdb = True

    world.at_sweep = [starts]
    async with anyio.create_task_group() as group:

        async def stops() -> None:
            await world.waits_for(drain, "it still runs")
            world.zdb = False

        group.start_soon(stops)
        assert await drain.run() is Verdict.EMPTY
    assert world.scanned == 2


async def test_zdb_that_comes_while_stores_are_waited_for(world: World, logs: Logs) -> None:
    """However long the store is away."""
    logs.expect(AGAIN)
    job = Job(key=data_key("ns", 0), id=1, turn=1, since=0.0)
    world.scheduler.add(job, 0.0)
    drain = world.drain()
    async with anyio.create_task_group() as group:

        async def lives() -> None:
            await world.waits_for(drain, "storing")
            world.zdb = True
            await world.waits_for(drain, "it still runs")
            world.scheduler.finished(job)
            world.zdb = False

        group.start_soon(lives)
        assert await drain.run() is Verdict.EMPTY


async def test_zdb_that_comes_to_a_closed_door(world: World) -> None:
    """It is not kept waiting for answers that nobody gives."""
    world.zdb = True
    assert await world.drain().run(closed=True) is Verdict.BEGUN


@pytest.mark.parametrize("staged", [None, "run-1/i1"])
async def test_room_that_was_found_since(world: World, staged: str | None) -> None:
    """Who waits for a quarantined file is not waited for, whatever it lacked when it was tried last."""
    scheduler = world.scheduler
    data = Job(key=data_key("ns", 1), id=1, turn=1)
    scheduler.add(data, 0.0)
    assert scheduler.take(0.0) is data
    scheduler.quarantine(data)
    index = Job(key=index_key("ns", 1), id=2, turn=2, needs=1, staged=staged, error_class=NO_ROOM)
    scheduler.add(index, 0.0)
    with anyio.fail_after(10):
        assert await world.drain().run() is Verdict.STUCK


async def test_who_lacks_room_is_tried_once_more(world: World) -> None:
    """Anything that went since may have made some; what is quarantined makes none."""
    scheduler = world.scheduler
    refused = Job(key=data_key("a", 1), id=1, turn=1, staged="run-1/d1")
    scheduler.add(refused, 0.0)
    assert scheduler.take(0.0) is refused
    scheduler.quarantine(refused)
    job = Job(key=index_key("ns", 1), id=2, turn=2, needs=None, error_class=NO_ROOM)
    scheduler.add(job, 0.0)
    assert scheduler.take(0.0) is job
    scheduler.retry_at(job, 1e9)
    drain = world.drain()
    async with anyio.create_task_group() as group:

        async def tries() -> None:
            await world.waits_for(drain, "room for snapshots")
            job.attempts += 1

        group.start_soon(tries)
        with anyio.fail_after(10):
            assert await drain.run() is Verdict.STUCK
    assert job.attempts == 1


async def test_the_time_is_for_the_whole_of_it(world: World) -> None:
    """A second look with the door closed has what the first one left."""
    drain = world.drain(timeout_s=0.3)
    world.spooled = 1
    assert await drain.run() is Verdict.TIMED_OUT
    with anyio.fail_after(0.25):
        assert await drain.run(closed=True) is Verdict.TIMED_OUT
