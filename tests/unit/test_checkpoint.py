"""Checkpoints: what a safe outcome promises, and what becomes of each thing that is in the way."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from hookd import checkpoint as checkpoint_stage
from hookd.checkpoint import Checkpoints
from hookd.checkpoint_run import Outcome, utc
from hookd.errors import (
    Conflict,
    Exit,
    MountUnusable,
    StoreUnreachable,
    ZdbRefused,
    ZdbUnreachable,
)
from hookd.files import FileKey, Kind, Roots, data_key, index_key
from hookd.journal.records import Job, JobState
from hookd.order import NOWHERE
from hookd.scheduler import Scheduler
from tests.conftest import Logs
from tests.fakes.zdb_files import data_entry, header

pytestmark = pytest.mark.anyio


class World:
    """zdb's folders, a queue, and a store that takes what `store` is called for."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "index", folder / "data")
        self.scheduler = Scheduler()
        self.newest = 0
        self.runs = True
        self.paused = False
        self.held: dict[str, str] = {}
        self.by_itself = True
        """Whether the store takes at once what comes."""
        self.done: list[str] = []
        """What happened, in its order."""
        self.jump_fails: list[Exception] = []
        self.unannounced: list[FileKey] = []
        """What the next scan finds, as a zdb that was killed leaves it; a scan is owed for as long."""
        self.blind_scans = 0
        """So many scans cannot look yet."""
        self.silent_hook = False
        """The jump's hook is lost."""
        self.flush_fails: MountUnusable | None = None
        self.publish_fails: list[Exception] = []
        self.jump: Callable[[str], Awaitable[None]] = self._jump
        self.checkpoints = Checkpoints(
            scheduler=self.scheduler,
            roots=self.roots,
            skip={"zdbfs-temp"},
            held=lambda: self.held,
            newest_job=lambda: self.newest,
            paused=lambda: self.paused,
            zdb_runs=self._zdb_runs,
            jump=lambda name: self.jump(name),
            flush=self._flush,
            sweep=self._sweep,
            scan=self._scan,
            unscanned=lambda: bool(self.unannounced or self.blind_scans),
            publish=self._publish,
        )

    def begin(self, name: str, number: int = 0) -> None:
        """iN and dN, blank."""
        for kind, make in ((Kind.INDEX, "index"), (Kind.DATA, "data")):
            path = self.roots.path(FileKey(kind, name, number))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(header(make, number, 0))

    def write(self, name: str, at: float | None = None) -> None:
        """A SET."""
        number = self.roots.numbers(Kind.DATA, name)[-1]
        with self.roots.path(data_key(name, number)).open("ab") as file:
            file.write(data_entry(b"key", b"value", int(at or time.time())))

    def announce(self, key: FileKey) -> Job:
        self.newest += 1
        job = Job(key=key, id=self.newest, turn=self.newest, since=time.time(), size_bytes=100)
        self.scheduler.add(job, time.monotonic())
        if self.by_itself:
            self.store(job)
        return job

    def store(self, job: Job) -> None:
        path = self.roots.path(job.key)
        self.done.append(f"store {job.key}")
        self.scheduler.remote(job.key, path.stat().st_size)
        self.scheduler.finished(job)

    def fail(self, job: Job, error: str) -> None:
        job.state, job.error = JobState.RUNNING, error
        self.scheduler.quarantine(job)

    async def _zdb_runs(self) -> bool:
        return self.runs

    async def _jump(self, name: str) -> None:
        await anyio.lowlevel.checkpoint()
        if self.jump_fails:
            raise self.jump_fails.pop(0)
        self.done.append(f"jump {name}")
        number = self.roots.numbers(Kind.DATA, name)[-1]
        self.begin(name, number + 1)
        if not self.silent_hook:
            self.announce(data_key(name, number))
            self.announce(index_key(name, number))

    async def _flush(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.done.append("flush")
        if self.flush_fails is not None:
            raise self.flush_fails

    async def _sweep(self) -> int:
        self.done.append("sweep")
        return 0

    async def _scan(self, with_active: bool) -> int:
        self.done.append(f"scan {with_active}")
        brought = 0
        if self.blind_scans:
            self.blind_scans -= 1
            return 0
        while self.unannounced:
            self.announce(self.unannounced.pop())
            brought += 1
        for name in self.roots.namespaces():
            numbers = self.roots.numbers(Kind.DATA, name)
            for number in numbers if with_active else numbers[:-1]:
                for key in (data_key(name, number), index_key(name, number)):
                    if not self.scheduler.is_remote(key) and not self.scheduler.covers(key):
                        self.announce(key)
                        brought += 1
        return brought

    async def _publish(self) -> None:
        self.done.append("publish")
        if self.publish_fails:
            raise self.publish_fails.pop(0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    async with anyio.create_task_group() as group:
        group.start_soon(made.checkpoints.run)
        yield made
        group.cancel_scope.cancel()


async def test_the_order_of_all_that_is_done(world: World) -> None:
    """zdbfs first, metadata before what it speaks of, the manifest after the last file."""
    for name in ("default", "zdbfs-data", "zdbfs-meta", "zdbfs-temp"):
        world.begin(name)
    for name in ("zdbfs-data", "zdbfs-meta", "zdbfs-temp"):
        world.write(name)
    before = time.time()
    outcome = await world.checkpoints.take(5)
    assert outcome.safe and outcome.until >= before and outcome.problems == ()
    assert outcome.jumped == ("zdbfs-meta", "zdbfs-data")
    assert world.done == [
        "flush",
        "jump zdbfs-meta",
        "store data/zdbfs-meta/d0",
        "store index/zdbfs-meta/i0",
        "jump zdbfs-data",
        "store data/zdbfs-data/d0",
        "store index/zdbfs-data/i0",
        "publish",
    ]


async def test_the_moment_is_before_the_first_look(world: World) -> None:
    """A write while it runs is not promised."""
    world.begin("ns")
    world.write("ns")
    asked = time.time()
    outcome = await world.checkpoints.take(5)
    assert asked <= outcome.until <= time.time()
    assert utc(1_795_486_182.9) == "2026-11-24T02:09:42Z"


async def test_an_idle_system_jumps_nowhere(world: World) -> None:
    world.begin("ns")
    outcome = await world.checkpoints.take(5)
    assert (outcome.safe, outcome.jumped, world.done) == (True, (), ["flush", "publish"])
    assert "no news" in outcome.line()


async def test_waits_for_what_was_acknowledged_and_for_no_more(world: World) -> None:
    """A job that comes later does not hold it up, one that superseded an older one does."""
    world.begin("ns")
    world.by_itself = False
    old = world.announce(index_key("ns", 0))
    found: list[Outcome] = []
    async with anyio.create_task_group() as group:

        async def take() -> None:
            found.append(await world.checkpoints.take(5))

        group.start_soon(take)
        await anyio.sleep(0.05)
        newer = world.announce(index_key("ns", 0))
        world.announce(index_key("later", 0))
        assert world.scheduler.get(old.id) is None and newer.turn == old.turn
        await anyio.sleep(0.05)
        assert not found
        world.store(newer)
    assert found[0].safe and len(world.scheduler) == 1


async def test_who_asks_while_one_runs_gets_a_fresh_one(world: World) -> None:
    """All of them the same: it looked after their last write."""
    world.begin("ns")
    world.write("ns")
    world.by_itself = False
    found: dict[str, Outcome] = {}
    async with anyio.create_task_group() as group:

        async def take(name: str) -> None:
            found[name] = await world.checkpoints.take(5)

        group.start_soon(take, "first")
        await anyio.sleep(0.05)
        world.write("ns")  # into d1, after the first had looked
        asked = time.time()
        group.start_soon(take, "second")
        group.start_soon(take, "third")
        await anyio.sleep(0.05)
        assert world.checkpoints.waiting == 3
        world.by_itself = True
        for job in list(world.scheduler):
            world.store(job)
    assert all(outcome.safe for outcome in found.values())
    assert found["first"].until < asked <= found["second"].until
    assert found["second"] is found["third"]
    assert world.done.count("publish") == 2 and "jump ns" in world.done[3:]


async def test_out_of_time_says_what_is_missing(world: World) -> None:
    world.begin("ns")
    world.write("ns")
    world.by_itself = False
    outcome = await world.checkpoints.take(0.8)
    assert outcome.code is Exit.TEMPFAIL and outcome.jumped == ("ns",)
    assert "storing: 0 of 2 files done" in outcome.line()


async def test_who_gives_up_ends_a_run_that_nobody_else_wants(world: World) -> None:
    world.begin("ns")
    world.write("ns")
    world.by_itself = False
    assert not (await world.checkpoints.take(0.1)).safe
    await anyio.sleep(0.05)
    assert world.checkpoints.doing is None and world.checkpoints.waiting == 0
    world.by_itself = True
    for job in list(world.scheduler):
        world.store(job)
    assert (await world.checkpoints.take(5)).safe


async def test_a_progress_line_that_cannot_be_sent_is_the_askers_end(world: World) -> None:
    world.begin("ns")

    async def gone(line: str) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await world.checkpoints.take(5, gone)
    assert (await world.checkpoints.take(5)).safe


async def test_quarantined_files_are_not_waited_for(world: World) -> None:
    """Nothing would end the wait: it says who has to decide."""
    world.begin("ns")
    world.by_itself = False
    world.fail(world.announce(index_key("ns", 0)), "other content")
    outcome = await world.checkpoints.take(30)
    assert outcome.code is Exit.FAILED and outcome.elapsed_s < 20
    assert "index/ns/i0" in outcome.line() and "other content" in outcome.line()


async def test_paused_is_waited_for_and_said(world: World) -> None:
    world.begin("ns")
    world.by_itself, world.paused = False, True
    world.announce(index_key("ns", 0))
    outcome = await world.checkpoints.take(3.5)
    assert outcome.code is Exit.TEMPFAIL and "hookd resume" in outcome.line()


async def test_a_hook_that_is_lost_is_scanned_for(world: World) -> None:
    """zdb says OK to NSJUMP whatever became of its hook: the closed files are looked for by name."""
    world.begin("ns")
    world.write("ns")
    world.silent_hook = True
    outcome = await world.checkpoints.take(5)
    assert outcome.safe
    assert world.done[-5:] == [
        "sweep",
        "scan False",
        "store data/ns/d0",
        "store index/ns/i0",
        "publish",
    ]


async def test_an_index_that_was_given_up(world: World) -> None:
    """It is no gap that a hook or a scan would fill: it ends at once, and a restore would end there."""
    world.begin("ns")
    world.begin("ns", 1)
    world.scheduler.remote(data_key("ns", 0), 1000, sealed=True)
    world.scheduler.give_up(index_key("ns", 0), NOWHERE)
    outcome = await world.checkpoints.take(5)
    assert outcome.code is Exit.FAILED
    assert "index/ns/i0" in outcome.line() and "hookd retry" in outcome.line()
    assert outcome.elapsed_s < 2


@pytest.mark.parametrize("stored", [None, 30])
async def test_a_data_file_that_was_given_up(world: World, stored: int | None) -> None:
    """The manifest names it, and a restore brings all else: safe, and the line says without what."""
    world.begin("ns")
    world.write("ns")
    world.begin("ns", 1)
    key = data_key("ns", 0)
    world.scheduler.remote(index_key("ns", 0), 100)
    if stored is not None:
        world.scheduler.remote(key, stored)
    world.scheduler.give_up(key, world.roots.path(key).stat().st_size)
    outcome = await world.checkpoints.take(5)
    assert outcome.safe
    assert outcome.left_out == ("data/ns/d0",)
    assert "given up" in outcome.line() and "data/ns/d0" in outcome.line()
    assert outcome.as_dict()["left_out"] == ["data/ns/d0"]
    assert world.done[-1] == "publish"


async def test_waits_for_the_first_scan(world: World) -> None:
    """zdb was killed after it had rewritten i0 in place: no hook will name it, and it has news."""
    for number in range(2):
        world.begin("ns", number)
        world.announce(data_key("ns", number))
        world.announce(index_key("ns", number))
    world.done.clear()
    world.unannounced.append(index_key("ns", 0))
    assert await world.checkpoints.anything()
    outcome = await world.checkpoints.take(5)
    assert outcome.safe
    assert world.done == ["flush", "scan False", "store index/ns/i0", "publish"]
    assert not await world.checkpoints.anything()


async def test_waits_until_a_scan_can_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While zdb starts, nobody may store its files: nothing is safe before that is over."""
    monkeypatch.setattr(checkpoint_stage, "GAP_EVERY_S", 0.001)
    world.begin("ns")
    world.blind_scans = 3
    assert (await world.checkpoints.take(5)).safe
    assert world.done == ["flush", *["scan False"] * 3, "publish"]
    world.blind_scans = 10**9
    outcome = await world.checkpoints.take(0.1)
    assert outcome.code is Exit.TEMPFAIL
    assert "looking for files that no hook announced" in outcome.line()


async def test_a_late_snapshot_needs_what_zdb_has_begun_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old index, frozen after the files were closed, points into the new ones: they are closed too."""
    monkeypatch.setattr(checkpoint_stage, "STUCK_S", 0.05)
    world.begin("ns")
    world.write("ns")
    late: list[Job] = []
    jump = world.jump

    async def jump_and_go_on(name: str) -> None:
        await jump(name)
        if not late:
            world.write(name)
            size = world.roots.path(data_key(name, 1)).stat().st_size
            world.newest += 1
            new = Job(
                key=index_key(name, 0),
                id=world.newest,
                turn=world.newest,
                needs=1,
                needs_bytes=size,
            )
            world.scheduler.add(new, time.monotonic())
            late.append(new)
        elif world.scheduler.waits_for(late[0]) is None:
            world.store(late[0])

    world.jump = jump_and_go_on
    outcome = await world.checkpoints.take(20)
    assert outcome.safe, outcome.line()
    assert world.done.count("jump ns") == 2
    assert outcome.jumped == ("ns",)
    assert world.done[-1] == "publish"


async def test_zdb_that_does_not_run(world: World) -> None:
    """Its active files are taken as they lie there."""
    world.begin("ns")
    world.write("ns")
    world.runs = False
    outcome = await world.checkpoints.take(5)
    assert outcome.safe and outcome.jumped == ()
    assert "scan True" in world.done and "store data/ns/d0" in world.done


async def test_zdb_that_does_not_answer(world: World) -> None:
    """Tried again, for it may be starting; then 69."""
    world.begin("ns")
    world.write("ns")
    world.jump_fails = [ZdbUnreachable("busy")]
    assert (await world.checkpoints.take(5)).safe
    world.write("ns")
    world.jump_fails = [ZdbUnreachable("nobody at tcp://x:1")] * 9
    outcome = await world.checkpoints.take(5)
    assert outcome.code is Exit.UNAVAILABLE and "tcp://x:1" in outcome.line()


async def test_a_refusal_does_not_keep_the_others_from_being_stored(world: World) -> None:
    for name in ("a", "b"):
        world.begin(name)
        world.write(name)
    world.jump_fails = [ZdbRefused("set zdb.admin_password")]
    outcome = await world.checkpoints.take(5)
    assert outcome.code is Exit.FAILED and outcome.jumped == ("b",)
    assert "files of a: set zdb.admin_password" in outcome.line()
    assert "store data/b/d0" in world.done and world.done[-1] == "publish"


async def test_a_jump_without_new_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """zdb answers OK to an NSJUMP for which its disk had no room."""
    world.begin("ns")
    world.write("ns")
    monkeypatch.setattr(world, "begin", lambda *_: None)
    world.silent_hook = True
    outcome = await world.checkpoints.take(5)
    assert outcome.code is Exit.FAILED and "no new files for ns" in outcome.line()


async def test_held_namespaces_are_named(world: World) -> None:
    world.begin("ns")
    world.write("ns")
    world.held["ns"] = "i3 is gone"
    outcome = await world.checkpoints.take(5)
    assert outcome.code is Exit.FAILED and "ns is held" in outcome.line()
    assert "jump ns" not in world.done


@pytest.mark.parametrize(("hangs", "code"), [(True, Exit.TEMPFAIL), (False, Exit.FAILED)])
async def test_zdbfs_that_cannot_be_flushed(world: World, hangs: bool, code: Exit) -> None:
    """What zdb has is stored all the same; the promise is not given."""
    world.begin("ns")
    world.write("ns")
    world.flush_fails = MountUnusable("/mnt: no answer", hangs=hangs)
    outcome = await world.checkpoints.take(5)
    assert outcome.code is code and "/mnt: no answer" in outcome.line()
    assert "store data/ns/d0" in world.done


async def test_the_manifest_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hookd.checkpoint.PUBLISH_AGAIN_S", 0.01)
    world.publish_fails = [StoreUnreachable("put", "manifest", "no route")] * 3
    assert (await world.checkpoints.take(5)).safe
    assert world.done.count("publish") == 4


async def test_a_manifest_of_somebody_else_ends_it(world: World) -> None:
    """Another frontend took over: no retry."""
    world.publish_fails = [Conflict("put", "manifest", "another frontend")]
    outcome = await world.checkpoints.take(5)
    assert outcome.code is Exit.FAILED and "another frontend" in outcome.line()
    assert world.done.count("publish") == 1


async def test_a_fault_of_ours_is_an_answer(
    world: World, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one is made."""
    logs.expect("internal error")
    world.publish_fails = [RuntimeError("boom")]
    outcome = await world.checkpoints.take(5)
    assert outcome.code is Exit.FAILED and "boom" in outcome.line()
    assert (await world.checkpoints.take(5)).safe


async def test_what_was_given_for_whoever_asks_later(world: World) -> None:
    """`note` keeps the newest outcome, and the newest safe one beside it."""
    safe = await world.checkpoints.take(5)
    world.checkpoints.note(safe)
    bad = Outcome(code=Exit.FAILED, until=0, elapsed_s=0, problems=("x",))
    world.checkpoints.note(bad)
    assert (world.checkpoints.last, world.checkpoints.last_safe) == (bad, safe)
    assert (world.checkpoints.taken, world.checkpoints.failed) == (2, 1)
