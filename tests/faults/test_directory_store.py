"""Directory store: a disk that is full, read-only or wrong; killed, hanging and given-up puts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import StoreTemporary, StoreUnreachable
from hookd.stores import directory, directory_copy, directory_folder
from hookd.stores.directory import DirectoryStore
from tests.fakes.in_folder import KEY, MIB, leftovers, opened, put, source

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The store's folder."""
    return tmp_path / "remote"


@pytest.fixture
def store(path: Path) -> DirectoryStore:
    return opened(path)


def until(happens: Callable[[], bool]) -> None:
    """Wait for it; the test's time limit is the bound."""
    while not happens():
        time.sleep(0.01)


# -- faults of the disk ----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"needs the right to mount: {made.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_disk_full(small_disk: Path) -> None:
    """Unreachable as a whole, in the kernel's words; the old content stays, nothing half is left.

    The folder says it is well as soon as there is room for a few bytes.
    """
    path = small_disk / "remote"
    store = DirectoryStore(path)
    await run_sync(store.prepare)
    live = small_disk.parent / "d0"
    live.write_bytes(b"old")
    await store.put(KEY, live, digest_of(b"old"))
    live.write_bytes(b"new" * MIB)
    with pytest.raises(StoreUnreachable, match="No space left") as caught:
        await store.put(KEY, live, digest_of(b"new" * MIB))
    assert str(path) in caught.value.detail
    assert (path / "data/ns/d0").read_bytes() == b"old"
    assert leftovers(path) == []
    await store.health()


async def test_no_room_for_what_is_fetched(
    store: DirectoryStore, path: Path, small_disk: Path
) -> None:
    """The target's disk is not the store's fault."""
    await put(store, path, b"x" * 2 * MIB)
    with pytest.raises(StoreTemporary, match=r"target.*No space left"):
        await store.get(KEY, small_disk / "target")
    await store.health()


async def test_read_only(small_disk: Path) -> None:
    """A disk that went read-only is unreachable for puts; what is there can be read."""
    path = small_disk / "remote"
    store = DirectoryStore(path)
    await run_sync(store.prepare)
    live = small_disk.parent / "d0"
    live.write_bytes(b"old")
    await store.put(KEY, live, digest_of(b"old"))
    await anyio.run_process(["mount", "-o", "remount,ro", str(small_disk)])
    with pytest.raises(StoreUnreachable, match="Read-only"):
        await store.put(KEY, live, digest_of(b"old"))
    with pytest.raises(StoreUnreachable, match="Read-only"):
        await store.health()
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest_of(b"old")


# -- copying ---------------------------------------------------------------------------------------


def refuse(*_: object) -> int:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def copy_nothing(*_: object) -> int:
    return 0


@pytest.mark.parametrize("copy_range", [refuse, copy_nothing])
async def test_where_the_kernel_does_not_copy(
    store: DirectoryStore,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    copy_range: Callable[..., int],
) -> None:
    """Other file systems: read and written, or copy_file_range that lies."""
    await put(store, path, b"content" * MIB)
    monkeypatch.setattr(os, "copy_file_range", copy_range)
    await store.get(KEY, path.parent / "target")
    assert (path.parent / "target").read_bytes() == b"content" * MIB


async def test_what_was_written_is_read_back(
    store: DirectoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that differs from its source never takes the place of the old one."""
    await put(store, path, b"old")

    write = os.write

    def miswrite(handle: int, data: memoryview) -> int:
        return write(handle, b"\xff" + bytes(data)[1:])

    monkeypatch.setattr(os, "write", miswrite)
    with pytest.raises(StoreTemporary, match="differ"):
        await put(store, path, b"new")
    assert (path / "data/ns/d0").read_bytes() == b"old"
    assert leftovers(path) == []


async def test_a_source_that_cannot_be_read(store: DirectoryStore, path: Path) -> None:
    """Is not the store's fault, and no link is followed out of the roots."""
    folder = path.parent / "d0"
    folder.mkdir()
    with pytest.raises(StoreTemporary, match="directory"):
        await store.put(KEY, folder, digest_of(b""))
    link = path.parent / "link"
    link.symlink_to(source(path, b"x"))
    with pytest.raises(StoreTemporary, match="link"):
        await store.put(KEY, link, digest_of(b"x"))
    await store.health()


# -- killed, hanging, given up ---------------------------------------------------------------------

_STALL = """
import os, sys, time, anyio
from pathlib import Path
from hookd.digest import digest_of
from hookd.files import data_key
from hookd.stores.directory import DirectoryStore

path, source, step = sys.argv[1:]
store = DirectoryStore(Path(path))
store.prepare()
real = getattr(os, step.removesuffix("-done"))

def stall(*arguments):
    if step.endswith("-done"):
        real(*arguments)
    print("stalled", flush=True)
    time.sleep(60)

setattr(os, step.removesuffix("-done"), stall)
anyio.run(store.put, data_key("ns", 0), Path(source), digest_of(Path(source).read_bytes()))
"""


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("write", b"old"),
        ("write-done", b"old"),
        ("lseek", b"old"),
        ("fsync", b"old"),
        ("rename", b"old"),
        ("rename-done", b"new"),
    ],
)
async def test_killed_at_a_step(store: DirectoryStore, path: Path, step: str, left: bytes) -> None:
    """SIGKILL there leaves the old content or the new; the next start removes the rest."""
    await put(store, path, b"old")
    await run_sync(kill_at, path, source(path, b"new"), step)
    assert (path / "data/ns/d0").read_bytes() == left
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest_of(left)
    assert len(leftovers(path)) == (left == b"old")
    await run_sync(DirectoryStore(path).prepare)
    assert leftovers(path) == []


def kill_at(path: Path, live: Path, step: str) -> None:
    """Put `live` in another process and kill it at `step`."""
    command = [sys.executable, "-c", _STALL, str(path), str(live), step]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stalled\n"
        process.kill()


async def test_a_put_that_was_given_up_changes_nothing_later(
    store: DirectoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread hangs before the rename, a newer put returns, then the thread goes on."""
    hanging, go_on = threading.Event(), threading.Event()

    proven = directory_copy.copy_proven

    def hang(reader: int, writer: int, withdrawn: Callable[[], bool]) -> tuple[bytes, int]:
        hanging.set()
        go_on.wait(30)
        return proven(reader, writer, lambda: False)

    monkeypatch.setattr(directory_folder, "copy_proven", hang)
    old = source(path, b"older")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.put, KEY, old, digest_of(b"older"))
        await run_sync(hanging.wait)
        tasks.cancel_scope.cancel()
    monkeypatch.setattr(directory_folder, "copy_proven", proven)
    newer = source(path, b"newer", "snapshot")
    await store.put(KEY, newer, digest_of(b"newer"))
    go_on.set()
    await run_sync(until, lambda: not leftovers(path))
    assert (path / "data/ns/d0").read_bytes() == b"newer"


async def test_a_folder_that_hangs(
    store: DirectoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health is bounded; the threads that hang are, too; and it is well when the folder is."""
    monkeypatch.setattr(directory, "MAX_ABANDONED", 3)
    go_on = threading.Event()
    probe = store._folder.probe

    def hang() -> None:
        go_on.wait(30)
        probe()

    monkeypatch.setattr(store._folder, "probe", hang)
    for _ in range(3):
        with pytest.raises(StoreUnreachable, match="no answer within"):
            await store.health()
    with pytest.raises(StoreUnreachable, match="3 calls hang"):
        await put(store, path, b"x")
    go_on.set()
    await run_sync(until, lambda: not store._abandoned)
    await store.health()
    await put(store, path, b"x")


async def test_a_folder_that_hangs_takes_no_threads_of_others(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls without a time limit wait for each other, not for the rest of the daemon."""
    go_on = threading.Event()
    monkeypatch.setattr(store._folder, "stat", lambda _: go_on.wait(30))
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(store.stat, KEY)
        await anyio.sleep(0.1)
        with anyio.fail_after(5):
            await run_sync(go_on.set)
