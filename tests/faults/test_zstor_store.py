"""zstor store: a zstor that hangs, is late, lies, is killed, or is not there."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from hookd.digest import digest_of
from hookd.errors import (
    SourceChanged,
    StoreError,
    StorePermanent,
    StoreTemporary,
    StoreUnreachable,
)
from hookd.files import Roots, data_key
from hookd.stores.zstor import ZstorStore
from tests.fakes.zstor import FakeZstor, Mode

pytestmark = pytest.mark.anyio
pytest_plugins = ["tests.fakes.zstor_fixtures"]

KEY = data_key("ns", 0)
OTHER = data_key("ns", 1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def open_store(place: Path, roots: Roots) -> ZstorStore:
    store = ZstorStore(
        socket=place, roots=roots, staging=roots.data.parent / "staging", health_timeout_s=0.3
    )
    store.prepare()
    return store


@pytest.fixture
def store(fake: FakeZstor, roots: Roots) -> ZstorStore:
    return open_store(fake.socket, roots)


async def put(store: ZstorStore, roots: Roots, content: bytes) -> None:
    live = roots.path(KEY)
    live.write_bytes(content)
    await store.put(KEY, live, digest_of(content))


def calls(store: ZstorStore, roots: Roots) -> list[Callable[[], Awaitable[object]]]:
    """Everything that asks zstor."""
    return [
        lambda: put(store, roots, b"x"),
        lambda: store.stat(KEY),
        lambda: store.get(KEY, roots.data.parent / "target"),
        store.health,
        store.prove_absence,
    ]


# -- hanging and late ------------------------------------------------------------------------------


async def test_puts_wait_for_each_other_and_stats_do_not(
    store: ZstorStore, fake: FakeZstor, roots: Roots
) -> None:
    """One store in flight; what was asked meanwhile comes before the next one."""
    fake.behave(Mode.HANG)
    for key in (KEY, OTHER):
        roots.path(key).write_bytes(b"x")
    async with anyio.create_task_group() as tasks:
        for key in (KEY, OTHER):
            tasks.start_soon(store.put, key, roots.path(key), digest_of(b"x"))
            await anyio.sleep(0.05)
        tasks.start_soon(store.stat, KEY)
        await anyio.sleep(0.05)
        fake.behave(Mode.WELL)
    assert [(each.verb, each.path[-2:]) for each in fake.requests] == [
        ("store", "d0"),
        ("check", "d0"),
        ("store", "d1"),
    ]


@pytest.mark.parametrize("mode", [Mode.HANG, Mode.LATE])
async def test_a_put_that_timed_out_happens_before_a_later_one(
    store: ZstorStore, fake: FakeZstor, roots: Roots, mode: Mode
) -> None:
    """zstor goes on with it, and is first in, first out."""
    snapshots = []
    for number, content in enumerate((b"older", b"newer")):
        snapshots.append(roots.data.parent / "staging" / str(number) / "d0")
        snapshots[-1].parent.mkdir()
        snapshots[-1].write_bytes(content)
    fake.behave(mode, 0.3)
    with anyio.move_on_after(0.1) as scope:
        await store.put(KEY, snapshots[0], digest_of(b"older"))
    assert scope.cancelled_caught
    fake.behave(Mode.WELL)
    await store.put(KEY, snapshots[1], digest_of(b"newer"))
    assert [request.verb for request in fake.requests] == ["store", "store"]
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest_of(b"newer")


async def test_a_retrieve_that_was_given_up_never_reaches_the_live_file(
    store: ZstorStore, fake: FakeZstor, roots: Roots
) -> None:
    """zstor carries it out later, when its private folder is gone: an error there, no file."""
    await put(store, roots, b"stored")
    roots.path(KEY).write_bytes(b"newer, not stored")
    fake.behave(Mode.HANG)
    with anyio.move_on_after(0.1):
        await store.get(KEY, roots.data.parent / "target")
    assert os.listdir(roots.data.parent / "staging") == []
    fake.behave(Mode.WELL)
    await store.health()
    assert [request.verb for request in fake.requests] == ["store", "retrieve", "check"]
    assert roots.path(KEY).read_bytes() == b"newer, not stored"
    assert os.listdir(roots.data.parent / "staging") == []
    assert "target" not in os.listdir(roots.data.parent)


async def test_health_is_bounded(store: ZstorStore, fake: FakeZstor) -> None:
    """A zstor that takes the connection and answers nothing is not well."""
    fake.behave(Mode.HANG)
    with pytest.raises(StoreUnreachable, match=r"no answer within 0\.3 s"):
        await store.health()


@pytest.mark.parametrize(
    ("mode", "argument"), [(Mode.DOWN, ""), (Mode.CLOSE, ""), (Mode.REFUSE, "something new")]
)
async def test_ill_health(store: ZstorStore, fake: FakeZstor, mode: Mode, argument: str) -> None:
    """Any error at all: health has one way to say no."""
    fake.behave(mode, argument)
    with pytest.raises(StoreUnreachable):
        await store.health()


# -- wrong answers ---------------------------------------------------------------------------------


async def test_a_store_that_lies_is_seen_by_stat(
    store: ZstorStore, fake: FakeZstor, roots: Roots
) -> None:
    """The put cannot tell; nothing is there, and another digest is what it is."""
    fake.behave(Mode.LIES)
    await put(store, roots, b"x")
    assert await store.stat(KEY) is None
    fake.behave(Mode.WELL)
    await put(store, roots, b"x")
    fake.behave(Mode.WRONG_CHECKSUM)
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest != digest_of(b"x")


async def test_a_retrieve_that_ends_elsewhere(
    store: ZstorStore, fake: FakeZstor, roots: Roots
) -> None:
    """Success, and nothing in the private folder: it does not see our files."""
    await put(store, roots, b"x")
    fake.behave(Mode.LIES)
    with pytest.raises(StorePermanent, match="namespaces"):
        await store.get(KEY, roots.data.parent / "target")


async def test_zstor_does_not_see_the_source(
    store: ZstorStore, fake: FakeZstor, roots: Roots
) -> None:
    """It says "no such file" of one that is there: a matter of mounts, not of the file."""
    fake.behave(
        Mode.REFUSE,
        "error during accessing local storage for Could not load file metadata:"
        " No such file or directory (os error 2)",
    )
    with pytest.raises(StorePermanent, match="namespaces") as caught:
        await put(store, roots, b"x")
    assert type(caught.value) is StorePermanent


async def test_outside_its_root(store: ZstorStore, fake: FakeZstor, roots: Roots) -> None:
    """Permanent, and says what to change."""
    fake.root = "/elsewhere"
    with pytest.raises(StorePermanent, match="set zstor's root"):
        await put(store, roots, b"x")


async def test_a_source_that_was_written_to_while_it_was_stored(
    store: ZstorStore, fake: FakeZstor, roots: Roots
) -> None:
    """zstor reads it twice, so even its own checksum may be of nothing that was ever there."""
    fake.behave(Mode.HANG)

    async def write() -> None:
        await anyio.sleep(0.1)
        roots.path(KEY).write_bytes(b"after")
        fake.behave(Mode.WELL)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        with pytest.raises(SourceChanged):
            await put(store, roots, b"before")


# -- killed, or not there --------------------------------------------------------------------------


async def test_killed_in_the_middle(store: ZstorStore, fake: FakeZstor, roots: Roots) -> None:
    """A connection that is closed without a reply: nobody knows, so the store is unreachable."""
    fake.behave(Mode.CLOSE)
    for call in calls(store, roots):
        with pytest.raises(StoreUnreachable, match="closed the connection"):
            await call()


async def test_nobody_listens(roots: Roots, tmp_path: Path) -> None:
    """No socket, a stale one, a path that is none: unreachable, with the path."""
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(stale))
    for place in (tmp_path / "absent", stale, tmp_path / ("x" * 200)):
        store = open_store(place, roots)
        for call in calls(store, roots):
            with pytest.raises(StoreUnreachable, match=place.name[:50]):
                await call()


async def test_a_zstor_that_accepts_no_more(roots: Roots, tmp_path: Path) -> None:
    """Its queue is full (it was told to end, and does not): at once, without spinning."""
    place = tmp_path / "full"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(place))
            with anyio.fail_after(1), pytest.raises(StoreUnreachable, match="unavailable"):
                await open_store(place, roots).stat(KEY)


@pytest.mark.parametrize("reply", [b"\0\4\xff\xff\xff\xff", b"\0\4\0\0\0\0junk", b"HTTP/1.1 400"])
async def test_somebody_else_answers(roots: Roots, tmp_path: Path, reply: bytes) -> None:
    """What is no reply of zstor's is an error, and no success."""
    place = tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(StoreError) as caught:
            await put(open_store(place, roots), roots, b"x")
        thread.join()
    # the last one announces more than it sends
    assert type(caught.value) is (StoreUnreachable if reply[:1] == b"H" else StoreTemporary)


# -- our own disk ----------------------------------------------------------------------------------


async def test_staging_on_another_file_system(
    store: ZstorStore, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then what was retrieved is copied, and still replaces nothing."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    await put(store, roots, b"stored")
    target = roots.data.parent / "target"
    await store.get(KEY, target)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"stored", 0o600)
    with pytest.raises(StoreTemporary, match="exists"):
        await store.get(KEY, target)


async def test_staging_is_gone(store: ZstorStore, roots: Roots) -> None:
    """Temporary: it is a matter of our disk, not of the store or the file."""
    await put(store, roots, b"stored")
    os.rmdir(roots.data.parent / "staging")
    with pytest.raises(StoreTemporary, match="staging"):
        await store.get(KEY, roots.data.parent / "target")
