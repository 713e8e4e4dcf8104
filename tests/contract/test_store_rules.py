"""The six rules of the store contract (hookd/stores/base.py), on every store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from hookd.digest import digest_of
from hookd.errors import (
    StoreError,
    StoreUnreachable,
)
from hookd.stores.base import Store
from tests.contract.stores import KEY, Harness, OnFake, content, every_call, put, tree
from tests.fakes.zstor import Mode

pytestmark = pytest.mark.anyio

MIB = 1 << 20


# -- rule 1: durable -------------------------------------------------------------------------------


async def test_a_put_outlives_the_remote(store: Store, harness: Harness) -> None:
    """What was put is there for another instance, after the remote was killed."""
    digest = await put(store, KEY, harness.live(KEY, b"kept" * MIB))
    await run_sync(harness.restart)
    found = await harness.fresh().stat(KEY)
    assert found is not None
    assert found.digest == digest


# -- rule 2: whole ---------------------------------------------------------------------------------


async def test_a_reader_sees_one_content_or_the_other(store: Store, harness: Harness) -> None:
    """Gets that run beside puts of the same key never return a mix."""
    sources = [harness.snapshot(KEY, bytes([byte]) * 2 * MIB) for byte in (1, 2)]
    await put(store, KEY, sources[0])
    done = anyio.Event()

    async def write() -> None:
        for round_ in range(8):
            await put(store, KEY, sources[round_ % 2])
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        while not done.is_set():
            found = await content(store, harness, KEY)
            assert found in (b"\1" * 2 * MIB, b"\2" * 2 * MIB)


_PUT_FOR_EVER = """
import anyio, sys
from pathlib import Path
from hookd.digest import digest_of
from hookd.files import FileKey
from hookd.log import configure
from tests.contract.stores import open_store

configure("error", "json")  # to stderr: stdout is for the lines below

async def main():
    kind, place, folder, key, *sources = sys.argv[1:]
    store = open_store(kind, place, Path(folder))
    contents = [(Path(source), digest_of(Path(source).read_bytes())) for source in sources]
    while True:
        for source, digest in contents:
            await store.put(FileKey.parse(key), source, digest)
            print("put", flush=True)

anyio.run(main)
"""


def run_and_kill(command: list[str], delay_s: float) -> None:
    """Run until the first put has returned, and `delay_s` longer."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"put\n"
        time.sleep(delay_s)
        process.kill()


async def test_killed_in_the_middle_of_a_put(store: Store, harness: Harness) -> None:
    """SIGKILL at any moment leaves the old content or the new, and the next put works."""
    contents = [bytes([byte]) * 3 * MIB for byte in (1, 2)]
    sources = [str(harness.snapshot(KEY, each)) for each in contents]
    command = [sys.executable, "-c", _PUT_FOR_EVER, *harness.arguments()]
    command += [str(harness.folder), str(KEY), *sources]
    for round_ in range(4):
        await run_sync(run_and_kill, command, 0.004 * round_)
        found = await harness.fresh().stat(KEY)
        assert found is not None
        got = await content(store, harness, KEY)
        assert got in contents
        assert found.digest == digest_of(got)
    await put(harness.fresh(), KEY, harness.live(KEY, b"after"))
    assert await content(store, harness, KEY) == b"after"


# -- rule 3: given up ------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.003, 0.01, 0.03])
async def test_a_cancelled_put_never_beats_a_later_one(
    store: Store, harness: Harness, delay_s: float
) -> None:
    """Cancelled anywhere, it happens before the newer put or not at all."""
    first = harness.snapshot(KEY, b"1" * 8 * MIB)
    newer = harness.snapshot(KEY, b"2" * 1000)
    older_digest = digest_of(b"1" * 8 * MIB)
    with anyio.move_on_after(delay_s):
        await store.put(KEY, first, older_digest)
    digest = await put(store, KEY, newer)
    for pause_s in (0.0, 0.2):
        await anyio.sleep(pause_s)
        found = await store.stat(KEY)
        assert found is not None
        assert found.digest == digest
        assert await content(store, harness, KEY) == b"2" * 1000


async def test_a_put_that_failed_leaves_the_old(store: Store, harness: Harness) -> None:
    """Unreachable during the put: what was there is there afterwards."""
    digest = await put(store, KEY, harness.live(KEY, b"old"))
    await run_sync(harness.lose)
    try:
        with pytest.raises(StoreUnreachable):
            await put(store, KEY, harness.live(KEY, b"new"))
    finally:
        await run_sync(harness.regain)
    found = await store.stat(KEY)
    assert found is not None
    assert found.digest == digest


# -- rule 4: a get writes to its target only -------------------------------------------------------


async def test_a_get_touches_nothing_but_its_target(store: Store, harness: Harness) -> None:
    """The live file stays the same inode with the same times; nothing else is made or left."""
    live = harness.live(KEY, b"stored")
    await put(store, KEY, live)
    live.write_bytes(b"newer, not stored")
    before, names = live.stat(), tree(harness.folder)
    target = harness.folder / "target"
    await store.get(KEY, target)
    after = live.stat()
    assert target.read_bytes() == b"stored"
    assert target.stat().st_mode & 0o777 == 0o600
    assert live.read_bytes() == b"newer, not stored"
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert tree(harness.folder) == names | {"target"}


async def test_a_get_makes_no_live_file(store: Store, harness: Harness) -> None:
    """Not even where it is missing, which is why it is asked for."""
    live = harness.live(KEY, b"stored")
    await put(store, KEY, live)
    live.unlink()
    live.parent.rmdir()
    assert await content(store, harness, KEY) == b"stored"
    assert not live.parent.exists()


async def test_a_get_never_replaces(store: Store, harness: Harness) -> None:
    """A target that exists is an error, and stays what it was."""
    await put(store, KEY, harness.live(KEY, b"stored"))
    target = harness.folder / "target"
    target.write_bytes(b"precious")
    with pytest.raises(StoreError, match="exists"):
        await store.get(KEY, target)
    assert target.read_bytes() == b"precious"


# -- rule 5: secrets -------------------------------------------------------------------------------


@pytest.mark.parametrize("harness", ["fake-zstor"], indirect=True)
async def test_no_error_shows_a_secret(store: Store, harness: Harness) -> None:
    """Whatever the remote says. A folder's errors are the kernel's, which knows no passwords, and
    the real zstor cannot be made to print one."""
    assert isinstance(harness, OnFake)
    await put(store, KEY, harness.live(KEY, b"x"))
    for secret in (*harness.secrets, "unknown-one"):
        # as its Debug print of a connection looks
        harness.fake.behave(Mode.REFUSE, f'ZdbConnectionInfo {{ password: Some("{secret}") }}')
        for call in every_call(store, harness):
            with pytest.raises(StoreError) as caught:
                await call()
            assert secret not in f"{caught.value} {caught.value.detail} {caught.value.key}"


# -- rule 6: cancellation --------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(5), ids=["put", "stat", "get", "health", "absence"])
async def test_cancelled_at_any_await(store: Store, harness: Harness, number: int) -> None:
    """A call can be given up at any moment; the store works on, and nothing is left lying about."""
    wanted = b"stored" * 300_000
    await put(store, KEY, harness.live(KEY, wanted))
    await store.prove_absence()
    call = every_call(store, harness)[number]
    for delay_s in (0.0, *(0.0002 * 2**step for step in range(10))):
        with anyio.move_on_after(delay_s):
            await call()
        (harness.folder / "target").unlink(missing_ok=True)
    assert await content(store, harness, KEY) == wanted
    assert [name for name in os.listdir(harness.staging) if name.startswith("get-")] == []


async def test_closing_twice(store: Store) -> None:
    """aclose is idempotent, also while a call was cancelled."""
    with anyio.move_on_after(0):
        await store.health()
    await store.aclose()
    await store.aclose()
