"""Free bytes of a disk → the limits of zdb's namespaces: shut in time, and opened again."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from hookd import room as module
from hookd.errors import JournalUnavailable, ZdbRefused, ZdbUnreachable
from hookd.files import Roots
from hookd.room import LIMITS, LOOK_AT_LEAST_S, LOOK_AT_MOST_S, RELEASED_S, SHUT, Room

pytestmark = pytest.mark.anyio

MIB = 1 << 20
KEEP = 100 * MIB
FULL = "the disk is nearly full: zdb takes no more writes"


class World:
    """A disk, a clock, a journal, and a zdb whose descriptors lie on the disk."""

    def __init__(self, folder: Path) -> None:
        self.roots = Roots(folder / "index", folder / "data")
        self.free = 1000 * MIB
        self.now = 0.0
        self.meta: dict[str, object] = {}
        self.journal_error: Exception | None = None
        self.zdb_error: Exception | None = None
        self.address: str | None = "unix:///zdb"
        self.asked: list[tuple[str, ...]] = []
        self.refused = {"default": "Cannot update default namespace"}

    def namespace(self, name: str, limit: int = 0) -> None:
        path = self.roots.index / name / "zdb-namespace"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(struct.pack("<IBBQB", 1, len(name), 0, limit, 1) + name.encode())

    def limits(self) -> dict[str, int]:
        return {
            path.parent.name: struct.unpack_from("<IBBQB", path.read_bytes())[3]
            for path in sorted(self.roots.index.glob("*/zdb-namespace"))
        }

    def room(self, keep_free: int = KEEP) -> Room:
        """What a daemon that starts now has."""
        return Room(
            self.roots,
            self,  # type: ignore[arg-type]
            keep_free=keep_free,
            address=lambda: self.address,
            admin_password=None,
            limits=self.meta.get(LIMITS),
            free=lambda path: self.free,
            clock=lambda: self.now,
        )

    async def set_meta(self, key: str, value: object) -> None:
        if self.journal_error is not None:
            raise self.journal_error
        self.meta[key] = value

    def client(self) -> Callable[..., Any]:
        world = self

        class Client:
            def __init__(self, address: str) -> None:
                if world.zdb_error is not None:
                    raise world.zdb_error

            def __enter__(self) -> Client:
                return self

            def __exit__(self, *_: object) -> None:
                return

            def ask(self, command: str, name: str, key: str, value: str) -> None:
                assert (command, key) == ("NSSET", "maxsize")
                if name in world.refused:
                    raise ZdbRefused(world.refused[name])
                world.asked.append((name, value))
                world.namespace(name, int(value))

        return Client


def is_shut(room: Room) -> bool:
    """Anew each time, for the type checker."""
    return room.shut


def problem(room: Room) -> str | None:
    """As `is_shut`."""
    return room.problem


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(module, "ZdbClient", made.client())
    made.namespace("a")
    made.namespace("b", 5000)
    return made


async def test_room_enough(world: World) -> None:
    """Nobody is told anything; the next look comes before the disk could be full."""
    room = world.room()
    assert await room.look() == pytest.approx(900 / 1024)
    world.free = KEEP + 100 * MIB
    assert await room.look() == pytest.approx(100 / 1024)
    world.free = KEEP
    assert await room.look() == LOOK_AT_LEAST_S
    world.free = 1 << 50
    assert await room.look() == LOOK_AT_MOST_S
    assert not room.shut
    assert world.asked == []


async def test_a_root_that_cannot_be_listed(world: World, logs: Any) -> None:
    """It is said once, and looked at again; nothing ends."""
    logs.expect("zdb could not be told")
    room = world.room()
    index = world.roots.index
    index.rename(index.with_name("away"))
    index.touch()
    for _ in range(2):
        assert await room.look() <= LOOK_AT_MOST_S
    assert "Not a directory" in (problem(room) or "")
    assert len(logs.of("zdb could not be told")) == 1
    index.unlink()
    index.with_name("away").rename(index)
    await room.look()
    assert problem(room) is None


async def test_shut_and_opened_again(world: World, logs: Any) -> None:
    """Below the mark nothing is written; well above it each namespace has its own limit again."""
    logs.expect(FULL)
    room = world.room()
    world.free = KEEP - 1
    await room.look()
    assert is_shut(room)
    assert world.limits() == {"a": SHUT, "b": SHUT}
    world.asked.clear()
    world.free = KEEP + MIB  # not to and fro
    await room.look()
    assert is_shut(room)
    assert world.asked == []
    world.free = 2 * KEEP
    await room.look()
    assert not is_shut(room)
    assert world.limits() == {"a": 0, "b": 5000}
    assert world.meta[LIMITS] is None


async def test_a_namespace_that_comes_later(world: World, logs: Any) -> None:
    logs.expect(FULL)
    room = world.room()
    world.free = 0
    await room.look()
    world.namespace("c", 7)
    await room.look()
    assert world.limits() == {"a": SHUT, "b": SHUT, "c": SHUT}
    world.free = 2 * KEEP
    await room.look()
    assert world.limits() == {"a": 0, "b": 5000, "c": 7}


@pytest.mark.parametrize("keep_free", [KEEP, 0])
async def test_another_daemon_opens_it(world: World, logs: Any, keep_free: int) -> None:
    """Killed while it was shut, or started without the setting: what ours was, goes."""
    logs.expect(FULL)
    world.free = 0
    await world.room().look()
    world.free = 2 * KEEP
    await world.room(keep_free).look()
    assert world.limits() == {"a": 0, "b": 5000}


async def test_a_restored_machine_opens_it(world: World) -> None:
    """The journal is new; the descriptor says that it is ours."""
    world.namespace("a", SHUT)
    await world.room().look()
    assert world.limits() == {"a": 0, "b": 5000}


async def test_released(world: World, logs: Any) -> None:
    """For a while zdb takes writes all the same, also where it was shut already."""
    logs.expect(FULL)
    world.free = 0
    room = world.room()
    await room.look()
    room.release()
    await room.look()
    assert room.shut
    assert world.limits() == {"a": 0, "b": 5000}
    world.now = RELEASED_S
    await room.look()
    assert world.limits() == {"a": SHUT, "b": SHUT}


async def test_released_during_a_look(
    world: World, logs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look that is under way does not shut again what the release has opened."""
    logs.expect(FULL)
    room = world.room()
    shutting, go_on = anyio.Event(), anyio.Event()
    remember = world.set_meta

    async def slowly(key: str, value: object) -> None:
        shutting.set()
        await go_on.wait()
        await remember(key, value)

    monkeypatch.setattr(world, "set_meta", slowly)
    world.free = 0
    async with anyio.create_task_group() as group:
        group.start_soon(room.look)
        await shutting.wait()
        room.release()
        group.start_soon(room.look)
        await anyio.lowlevel.checkpoint()
        go_on.set()
    assert world.limits() == {"a": 0, "b": 5000}


async def test_zdb_says_no(world: World, logs: Any) -> None:
    """Told once in the log, and kept for health until it works."""
    logs.expect(FULL, "zdb could not be told")
    world.free = 0
    world.zdb_error = ZdbRefused("Permission denied")
    room = world.room()
    await room.look()
    await room.look()
    assert problem(room) == "Permission denied"
    world.zdb_error = None
    await room.look()
    assert problem(room) is None
    assert world.limits() == {"a": SHUT, "b": SHUT}


async def test_one_that_is_refused(world: World, logs: Any) -> None:
    """The others are shut all the same; one that zdb has not loaded, and its default, are no problem."""
    logs.expect(FULL)
    logs.allow("zdb could not be told")
    for name in ("default", "0-not-loaded"):
        world.namespace(name)
    world.refused["0-not-loaded"] = "Namespace not found"
    world.free = 0
    room = world.room()
    await room.look()
    assert problem(room) is None
    assert world.limits() == {"0-not-loaded": 0, "a": SHUT, "b": SHUT, "default": 0}
    world.namespace("0-odd")
    world.refused["0-odd"] = "Whatever"
    world.namespace("c")
    await room.look()
    assert problem(room) == "NSSET 0-odd maxsize: Whatever"
    assert world.limits()["c"] == SHUT


async def test_zdb_is_away(world: World, logs: Any) -> None:
    """Nobody writes then; it is told as soon as it is there."""
    logs.expect(FULL)
    world.free = 0
    world.zdb_error = ZdbUnreachable("nobody")
    room = world.room()
    assert await room.look() == LOOK_AT_MOST_S
    assert room.problem is None
    world.zdb_error, world.address = None, None
    await room.look()
    assert world.asked == []
    world.address = "unix:///zdb"
    await room.look()
    assert world.limits() == {"a": SHUT, "b": SHUT}


async def test_a_journal_that_cannot_be_written(world: World, logs: Any) -> None:
    """Its disk may be the full one: zdb is shut, and opened by the same daemon as it was."""
    logs.expect(FULL, "limits of namespaces are remembered in memory only")
    world.free = 0
    world.journal_error = JournalUnavailable("disk full")
    room = world.room()
    await room.look()
    assert world.limits() == {"a": SHUT, "b": SHUT}
    world.free = 2 * KEEP
    await room.look()
    assert world.limits() == {"a": 0, "b": 5000}
