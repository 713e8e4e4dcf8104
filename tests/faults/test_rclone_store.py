"""Rclone store, with a real rclone: it dies, its remote is away, slow, full, lies; hookd dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import StoreError, StoreTemporary, StoreUnreachable
from hookd.files import data_key
from hookd.stores.base import Remote
from hookd.stores.rclone import RcloneStore
from tests.fakes.between import Between, Refusal
from tests.fakes.between import between as passing
from tests.real.rclone import Webdav, missing_rclone, program

pytestmark = [pytest.mark.anyio, pytest.mark.real]

KEY = data_key("ns", 0)
MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def webdav(tmp_path: Path) -> Iterator[Webdav]:
    missing_rclone()
    served = Webdav(tmp_path)
    yield served
    served.close()


@pytest.fixture
def between(webdav: Webdav) -> Iterator[Between]:
    with passing(webdav.port) as server:
        yield server


@pytest.fixture
async def store(between: Between, tmp_path: Path) -> AsyncIterator[RcloneStore]:
    """On the server behind `between`."""
    made = opened(tmp_path, f':webdav,url="http://127.0.0.1:{between.port}/":store')
    yield made
    await made.aclose()


def opened(tmp_path: Path, remote: str) -> RcloneStore:
    store = RcloneStore(
        remote=remote,
        folder=tmp_path / "rc",
        known_id=tmp_path / "known-id",
        program=program(),
    )
    store.prepare()
    return store


async def put(store: RcloneStore, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "live" / "d0"
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(content)
    await store.put(KEY, source, digest_of(content))


async def until_put(store: RcloneStore, tmp_path: Path, content: bytes) -> None:
    """Try until the store is reachable, as the dispatcher does."""
    with anyio.fail_after(30):
        while True:
            try:
                await put(store, tmp_path, content)
                return
            except StoreUnreachable:
                await anyio.sleep(0.1)


def stored(webdav: Webdav) -> bytes:
    return (webdav.path / "store/data/ns/d0").read_bytes()


async def test_rclone_killed_in_a_put(
    store: RcloneStore, between: Between, webdav: Webdav, tmp_path: Path
) -> None:
    """SIGKILL: unreachable at once, the old content stays; it is started anew, nothing is left over."""
    await put(store, tmp_path, b"old")
    between.slow_s = 1.0
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:

        async def refused() -> None:
            with pytest.raises(StoreUnreachable):
                await put(store, tmp_path, b"new" * MIB)

        tasks.start_soon(refused)
        await anyio.sleep(0.5)
        assert store.process.pid is not None
        os.kill(store.process.pid, signal.SIGKILL)
    assert time.monotonic() - began < 5
    assert stored(webdav) == b"old"
    between.slow_s = 0
    await until_put(store, tmp_path, b"newer")
    assert stored(webdav) == b"newer"
    assert store.process.starts == 2


async def test_cancelled_while_the_remote_is_slow(
    store: RcloneStore, between: Between, webdav: Webdav, tmp_path: Path
) -> None:
    """The remote answers late, after the put was given up: the later put stays, no rubbish either."""
    await put(store, tmp_path, b"old")
    between.slow_s = 0.7
    with anyio.move_on_after(0.4):
        await put(store, tmp_path, b"1" * MIB)
    between.slow_s = 0
    await put(store, tmp_path, b"2")
    await anyio.sleep(1.5)
    assert stored(webdav) == b"2"
    assert await store.stat(KEY) == Remote(digest_of(b"2"), 1)


async def test_remote_down_and_back(
    store: RcloneStore, webdav: Webdav, between: Between, tmp_path: Path
) -> None:
    """Each call says so; all is well when it is back."""
    await put(store, tmp_path, b"old")
    await run_sync(webdav.lose)
    between.refuse["PUT"] = Refusal(status=503)
    for call in (store.health, store.prove_absence):
        with pytest.raises(StoreUnreachable):
            await call()
    with pytest.raises(StoreUnreachable):
        await store.stat(KEY)
    await run_sync(webdav.regain)
    between.refuse.clear()
    await until_put(store, tmp_path, b"new")
    assert stored(webdav) == b"new"


@pytest.mark.parametrize(
    ("status", "said"), [(507, "full or its quota"), (429, "patience"), (403, "credentials")]
)
async def test_refused_by_the_remote(
    store: RcloneStore, between: Between, webdav: Webdav, tmp_path: Path, status: int, said: str
) -> None:
    """The store as a whole is down, with what to do; the old content stays; later all is well."""
    await put(store, tmp_path, b"old")
    between.refuse["PUT"] = Refusal(status=status)
    with pytest.raises(StoreUnreachable, match=said):
        await put(store, tmp_path, b"new")
    assert stored(webdav) == b"old"
    between.refuse.clear()
    await put(store, tmp_path, b"new")
    assert stored(webdav) == b"new"


async def test_truncated_upload(
    store: RcloneStore, between: Between, webdav: Webdav, tmp_path: Path
) -> None:
    """A remote that keeps half and says that all is well does not replace the old content."""
    await put(store, tmp_path, b"old")
    between.cut_puts = True
    with pytest.raises(StoreError):
        await put(store, tmp_path, b"new!" * 1000)
    assert stored(webdav) == b"old"
    between.cut_puts = False
    await put(store, tmp_path, b"new!" * 1000)
    assert stored(webdav) == b"new!" * 1000


async def test_truncated_download(store: RcloneStore, between: Between, tmp_path: Path) -> None:
    """Half a content is an error, for a get as for the proof of a put."""
    await put(store, tmp_path, b"content" * 1000)
    between.cut_gets = True
    with pytest.raises(StoreError):
        await store.get(KEY, tmp_path / "target")
    with pytest.raises((StoreTemporary, StoreUnreachable)):
        await put(store, tmp_path, b"other" * 1000)
    between.cut_gets = False
    assert await store.stat(KEY) == Remote(digest_of(b"content" * 1000), 7000)


_HOLD = """
import anyio, sys
from pathlib import Path
from tests.faults.test_rclone_store import opened, put

async def main():
    store = opened(Path(sys.argv[1]), sys.argv[2])
    await store.health()
    print(store.process.pid, flush=True)
    await put(store, Path(sys.argv[1]), b"1" * (8 << 20))

anyio.run(main)
"""


async def test_hookd_killed(
    store: RcloneStore, between: Between, webdav: Webdav, tmp_path: Path
) -> None:
    """SIGKILL in an upload: rclone dies with hookd, so nothing of it takes effect later."""
    remote = f':webdav,url="http://127.0.0.1:{between.port}/":store'
    between.slow_s = 1.0

    def hold_and_kill() -> int:
        command = [sys.executable, "-c", _HOLD, str(tmp_path), remote]
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip().isdigit():
                    break
            time.sleep(0.3)
            process.kill()
        return int(line)

    pid = await run_sync(hold_and_kill)
    with anyio.fail_after(5):
        while _alive(pid):
            await anyio.sleep(0.02)
    between.slow_s = 0
    await put(store, tmp_path, b"newer")
    await anyio.sleep(1.5)
    assert stored(webdav) == b"newer"


def _alive(pid: int) -> bool:
    try:
        return b"rcd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
