"""Smaller parts of the mount: bounded calls, this machine, orphans, health, the drain's looks."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

import anyio
import pytest

from hookd.errors import Exit, RemoteUnreachable, UserError
from hookd.mount import endpoints, preflight, ready
from hookd.mount.bounded import bounded
from hookd.mount.cache import Cache, Dirty
from hookd.mount.drain import Drain, Why, left_of
from hookd.mount.provider import ControlError, Ended, Queue, Upload
from hookd.mount.ready import MountDied
from hookd.mount.reap import Reaper
from hookd.mount.state import Finding, Phase, State
from hookd.mount.story import tell
from hookd.mount.view import view

pytestmark = pytest.mark.anyio


async def test_a_call_that_hangs_is_given_up() -> None:
    """In its time; the thread does not keep the process."""
    gate = threading.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await bounded(gate.wait, 0.1)
    assert time.monotonic() - began < 2
    gate.set()
    assert await bounded(lambda: 7, 1) == 7
    with pytest.raises(ZeroDivisionError):
        await bounded(lambda: 1 // 0, 1)


def test_no_fuse_here(tmp_path: Path) -> None:
    """One line with the flags that a container needs."""
    with pytest.raises(UserError, match="--device /dev/fuse") as caught:
        preflight.check_machine(allow_other=True, device=tmp_path / "fuse")
    assert caught.value.code is Exit.CONFIG


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping rights needs root")
def test_no_right_to_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for CAP_SYS_ADMIN."""
    device = tmp_path / "fuse"
    device.touch()
    monkeypatch.setattr(preflight, "_has_capability", lambda number: False)
    monkeypatch.setattr(endpoints, "fusermount", lambda: "/bin/true")
    with pytest.raises(UserError, match="CAP_SYS_ADMIN"):
        preflight.check_machine(allow_other=True, device=device)


def test_orphans_are_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second look; a child that somebody waits for has gone by then."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    monkeypatch.setattr(os, "P_ALL", os.P_PID)
    waitid = os.waitid
    monkeypatch.setattr(os, "waitid", lambda kind, number, flags: waitid(os.P_PID, pid, flags))
    reaper = Reaper()
    ends = time.monotonic() + 5
    while not (found := reaper.look()):
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert found == pid
    assert reaper.look() == 0


def state(**finding: object) -> State:
    """A running mount with this finding."""
    made = State(
        target="rshare:/", mountpoint="/storage", cache="/cache", min_free_bytes=1, read_only=False
    )
    made.phase = Phase.RUNNING
    made.found(Finding(**finding))  # type: ignore[arg-type]
    return made


UPLOAD = Upload(name="a\nb", size_bytes=5, tries=3, why="507 Insufficient Storage")
DIRTY = (Dirty(name="a\nb", size_bytes=5, since=time.time() - 100),)


@pytest.mark.parametrize(
    ("finding", "status", "text"),
    [
        ({}, "ok", ""),
        ({"mount": "the mount hangs"}, "failing", "hangs"),
        ({"remote": "401 Unauthorized", "refused": True}, "failing", "401"),
        ({"remote": "connection refused"}, "ok", ""),
        ({"remote": "connection refused", "at": time.time() - 100}, "degraded", "away"),
        ({"queue": Queue(uploads=(UPLOAD,)), "dirty": DIRTY}, "degraded", "507"),
        ({"queue": Queue(out_of_space=True)}, "degraded", "full"),
    ],
)
async def test_health(finding: dict[str, object], status: str, text: str) -> None:
    """Failing: the mount cannot be used. Degraded: it can, and somebody should look."""
    found = view(state(**finding))
    assert found["health"]["status"] == status
    assert text in " ".join(found["health"]["reasons"])
    assert all(line.isprintable() for line in found["health"]["reasons"])
    assert json.loads(json.dumps(found)) == found
    story = tell(found)
    assert all(row.text.isprintable() for row in story.rows)


def test_why_a_file_is_left() -> None:
    """Failing uploads with their reason, open files, and those that just wait."""
    dirty = [*DIRTY, Dirty(name="open", size_bytes=1, since=0.0)]
    found = left_of(dirty, Queue(uploads=(UPLOAD,)))
    assert [each.why for each in found] == [Why.FAILING, Why.OPEN]
    assert found[0].line() == r"'a\nb' (5 B, its upload fails: 507 Insufficient Storage)"
    assert {each.why for each in left_of(dirty, None)} == {Why.WAITING}


class FakeMount:
    """A mounter whose answers are a script: queues, or errors."""

    def __init__(self, *answers: Queue | Exception) -> None:
        self.mountpoint = Path("/nowhere")
        self.pid = 1
        self.ended: Ended | None = None
        self.hurried = 0
        self.asked = 0
        self.mute_after = 1 << 30
        """So many times it answers `answers`."""
        self.killed = False
        self._answers = list(answers)

    async def queue(self) -> Queue:
        """The next answer; the last one for ever."""
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def hurry(self, only: str | None = None) -> None:
        """Counted."""
        self.hurried += 1

    async def arrived(self, names: Collection[str]) -> None:
        """Not asked here."""
        raise NotImplementedError

    async def wait(self) -> Ended:
        """Not asked here."""
        raise NotImplementedError

    async def ask_remote(self, name: str) -> int | None:
        """Not asked here."""
        raise NotImplementedError

    async def has_buckets_only(self) -> bool:
        """Not asked here."""
        raise NotImplementedError

    async def answers(self) -> bool:
        """Until it is mute."""
        self.asked += 1
        return self.asked <= self.mute_after

    async def stop(self) -> None:
        """Not asked here."""

    def kill(self) -> None:
        """Noted."""
        self.killed = True


async def test_a_mounter_that_takes_its_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said now and then, so that systemd waits too; only one that is mute is given up, and killed."""
    monkeypatch.setattr(ready, "STILL_STARTING_SAID_S", 0.01)
    monkeypatch.setattr(ready, "MUTE_AFTER_S", 0.1)
    mount, said = FakeMount(Queue()), list[str]()
    with anyio.move_on_after(0.5):
        await ready.until_mounted(mount, within_s=1, say=said.append)
    assert len(said) == mount.asked > 1
    assert said[0].startswith("mounting: ")
    assert not mount.killed
    mount.mute_after = mount.asked + 2
    with anyio.fail_after(10), pytest.raises(RemoteUnreachable, match="has not mounted"):
        await ready.until_mounted(mount, within_s=1, say=said.append)
    assert mount.killed


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty one."""
    return Cache(tmp_path / "cache", remote="rshare", path="/", identity="0" * 12)


async def test_empty_once_is_not_empty(cache: Cache) -> None:
    """A file that is being closed is in no list for a moment: after one empty look comes another."""
    busy = Queue(uploads=(UPLOAD,))
    mount = FakeMount(busy, Queue(), busy, ControlError("mute"), Queue(), Queue())
    said: list[str] = []
    await Drain(mount, cache, say=said.append).run()
    assert mount.hurried == 2
    assert mount._answers == [Queue()]
    assert "uploading 1 file" in said[0]


async def test_an_empty_queue_is_not_enough(cache: Cache) -> None:
    """A dirty record keeps the drain waiting, and is named."""
    record = cache.folder / "vfsMeta" / "rshare" / "open"
    record.parent.mkdir(parents=True)
    record.write_text('{"Size": 3, "Dirty": true}')
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        record.write_text('{"Size": 3, "Dirty": false}')

    await Drain(FakeMount(Queue()), cache, say=say).run()
    assert "'open' (3 B, open for writing)" in said[0]


async def test_a_mounter_that_dies_ends_the_drain(cache: Cache) -> None:
    """It is told, so that another one goes on."""
    mount = FakeMount(ControlError("gone"))
    mount.ended = Ended(code=-9)
    with pytest.raises(MountDied):
        await Drain(mount, cache, say=lambda text: None).run()
